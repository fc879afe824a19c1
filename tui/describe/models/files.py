"""Models as text: the block that tells all about one, the rows of a table, and the object of `--json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from engine.checkpoints.known.catalogue import decimal_size
from tui.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from engine.checkpoints.known.recognise import Recognition
    from engine.checkpoints.library import Found

SHOWN_NAMES = 3


def block(found: Found) -> list[str]:
    """All that is known about one checkpoint, a line for each thing."""
    told = found.recognition
    if told is None:
        return [printable(found.error)]
    rows = [
        (
            "component",
            f"{told.component.replace('_', ' ')}{f', {told.variant}' if told.variant else ''}",
        ),
        ("layout", _layout(told)),
        ("numbers", _numbers(told.dtypes)),
        ("quantisation", told.quantisation or "none"),
        ("parameters", f"{told.parameters:,}" if told.parameters else "none"),
        ("size", f"{decimal_size(told.file_bytes)} ({told.file_bytes:,} bytes)"),
        ("in memory", _memory(told.memory)),
        ("missing", names(told.missing)),
        ("unexpected", names(told.unexpected)),
    ]
    rows = [(name, text) for name, text in rows if text]
    if told.misshapen:
        rows.append(("misshapen", names(told.misshapen)))
    rows.append(("modiff", "loads it" if told.supported else "cannot load it"))
    if told.note:
        rows.append(("note", told.note))
    return [
        printable(str(found.path)),
        *(f"  {name:<13} {printable(value)}" for name, value in rows if value),
    ]


def found_at(path: Path) -> list[Found]:
    """What a weight file is, or all of those in a folder."""
    from engine.checkpoints.library import look
    from engine.checkpoints.source import sources_in

    return [look(each) for each in (sources_in(path) if path.is_dir() else [path])]


def of_wan(found: Iterable[Found]) -> list[Found]:
    """Those that are a part of Wan, whether it can be loaded or not."""
    return [each for each in found if each.recognition and each.recognition.component != "unknown"]


def table(found: Sequence[Found]) -> list[tuple[str, ...]]:
    """A heading and a row for each checkpoint, its path last; none for none."""
    rows = [
        (
            printable(told.variant or told.component),
            told.component.replace("_", " "),
            told.layout or "-",
            told.quantisation or _main_dtype(told.dtypes) or told.format,
            decimal_size(told.file_bytes),
            "yes" if told.supported else "no",
            printable(str(each.path)),
        )
        for each in found
        if (told := each.recognition) is not None
    ]
    return (
        [("MODEL", "COMPONENT", "LAYOUT", "NUMBERS", "SIZE", "LOADS", "PATH"), *rows]
        if rows
        else []
    )


def row(found: Found) -> dict[str, Any]:
    """The object of `--json`: where it lies, and what it is or the error that says why that is not known."""
    place = {
        "path": str(found.path),
        "origin": found.origin,
        "files": [str(file) for file in found.files],
        "error": found.error,
    }
    return place | (msgspec.to_builtins(found.recognition) if found.recognition else {})


def names(found: Sequence[str]) -> str:
    """How many there are, and the first few: `5: a, b, c, ...`."""
    if not found:
        return "none"
    return f"{len(found)}: {', '.join(found[:SHOWN_NAMES])}{', ...' if len(found) > SHOWN_NAMES else ''}"


def _layout(told: Recognition) -> str:
    shards = f"{told.shards} shards" if told.shards > 1 else ""
    prefix = f'names begin with "{told.prefix}"' if told.prefix else ""
    return ", ".join(part for part in (told.layout, told.format, shards, prefix) if part)


def _numbers(dtypes: Mapping[str, int]) -> str:
    if len(dtypes) == 1:
        return next(iter(dtypes))
    return ", ".join(f"{dtype} {count:,}" for dtype, count in dtypes.items())


def _main_dtype(dtypes: Mapping[str, int]) -> str:
    return max(dtypes, key=lambda name: dtypes[name], default="").lower()


def _memory(num_bytes: Mapping[str, int]) -> str:
    """`2.87 GB in bf16 or fp16, 5.68 GB in fp32`."""
    names_of: dict[int, list[str]] = {}
    for dtype, size in sorted(num_bytes.items(), key=lambda item: item[1]):
        names_of.setdefault(size, []).append(dtype)
    return ", ".join(
        f"{decimal_size(size)} in {' or '.join(dtypes)}" for size, dtypes in names_of.items()
    )
