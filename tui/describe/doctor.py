"""What works on this machine as lines, from the data of `modiff doctor --json`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def lines(report: Mapping[str, Any], marks: Mapping[str, str]) -> Iterator[str]:
    """Sections with aligned rows. marks: before a row, by its status, which stands there itself where it has none."""
    rows = [row for section in report["sections"] for row in section["rows"]]
    width = max((len(row["name"]) for row in rows), default=0)
    of_row = {status: marks.get(status, status) for status in {row["status"] for row in rows}}
    mark_width = max(map(len, of_row.values()), default=0)
    for number, section in enumerate(report["sections"]):
        yield from ([""] if number else [])
        yield printable(section["name"])
        for row in section["rows"]:
            name, mark = printable(row["name"]), of_row[row["status"]]
            yield f"  {mark:<{mark_width}}  {name:<{width}}  {printable(row['value'])}"
            if row["hint"]:
                yield f"{' ' * (mark_width + width + 4)}  -> {printable(row['hint'])}"
