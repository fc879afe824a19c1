"""Writes the table of keys in docs/presets.md from the annotations of `RunSpec`: `python docs/make_reference.py`."""

from __future__ import annotations

import json
from pathlib import Path

from presets.fields.listing import fields
from presets.spec.run import RunSpec

PAGE = Path(__file__).with_name("presets.md")
START, END = "<!-- keys -->", "<!-- end of keys -->"


def with_table(page: str) -> str:
    """The page with the table between its two marks made anew."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    rows = ["| key | default | takes | |", "|---|---|---|---|"]
    for field in fields(RunSpec):
        takes = field.expected.replace("|", "\\|")
        rows.append(
            f"| `{field.key}` | `{json.dumps(field.default)}` | {takes} | {field.description} |"
        )
    return "\n".join([before.rstrip(), "", START, *rows, END]) + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
