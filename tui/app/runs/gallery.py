"""The tiles of the gallery: what tells each run from the others, and how it stands. No Textual, no input or output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tui.describe.runs.changes import values_told, varying_in
from tui.describe.runs.run import status_word, steps_told
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from store.lineage.records import RunRecord
    from tui.describe.runs.run import RunRow


def in_order(rows: Sequence[RunRow]) -> list[RunRow]:
    """The runs of one sweep in its own order; others as they come, newest first."""
    tags = set.intersection(*(set(row.tags) for row in rows)) if rows else set()
    is_sweep = any(tag.startswith("sweep/") for tag in tags)
    return list(reversed(rows)) if is_sweep else list(rows)


def titles(rows: Sequence[RunRow]) -> dict[str, str]:
    """By run what tells it from the others; its prompt where nothing does."""
    values = varying_in([row.record.spec_json for row in rows])
    return {
        row.record.id: values_told(each) or printable(row.prompt)
        for row, each in zip(rows, values, strict=True)
    }


def heading(keys: Sequence[str], seen: Sequence[str]) -> str:
    """`gallery`, and which of the runs are seen where it is not all of them."""
    if not seen or len(seen) >= len(keys) or seen[0] not in keys:
        return "gallery"
    first = keys.index(seen[0]) + 1
    return f"gallery: {first} to {first + len(seen) - 1} of {len(keys)}"


def line(record: RunRecord) -> str:
    """`◐ 5/20  k3fq7a2mzd` for one that was to stop early, `✓ done  ★4  k3fq7a2mzd` for one with stars."""
    is_early = record.status == "done" and record.stop_at is not None
    told = f"◐ {steps_told(record)}" if is_early else status_word(record)
    stars = f"★{record.rating}  " if record.rating else ""
    return f"{told}  {stars}{record.id}"


def aspect(rows: Sequence[RunRow]) -> float:
    """Width over height of the first run's video."""
    spec: Mapping[str, object] = json.loads(rows[0].record.spec_json) if rows else {}
    width, height = spec.get("width"), spec.get("height")
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
        return 1.0
    return width / height
