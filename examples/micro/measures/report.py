"""Measurements as text: a table of scores, the gates, and what was mistaken for what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from examples.micro.measures.evaluate import Evaluation, Measurement
from examples.micro.measures.meter import FIELDS, judge

COLUMNS = (*FIELDS, "all_four", "first_frame", "fit")


def evaluation_report(evaluation: Evaluation) -> str:
    """Scores of every measurement, gates, shapes by class and size, confusion tables."""
    parts = [score_table(evaluation.measurements), "\n".join(map(str, evaluation.gates))]
    parts += [measurement_details(m) for m in evaluation.measurements]
    return "\n\n".join(parts)


def measurement_report(measurement: Measurement) -> str:
    """The same for one measurement."""
    return f"{score_table([measurement])}\n{measurement_details(measurement)}"


def score_table(measurements: Sequence[Measurement]) -> str:
    """One row a measurement, one column a score; `all_four` leaves the size out."""
    header = ["", "n", *COLUMNS]
    return _table([header, *map(_score_row, measurements)])


def _score_row(measurement: Measurement) -> list[str]:
    scores = measurement.scores()
    cells = ["-" if math.isnan(scores[name]) else f"{scores[name]:.3f}" for name in COLUMNS]
    return [measurement.name, str(len(measurement.wanted)), *cells]


def measurement_details(measurement: Measurement) -> str:
    """Right shapes by class and size, and a confusion table for every attribute with mistakes."""
    quality = "" if measurement.psnr is None else f", PSNR {measurement.psnr:.2f} dB"
    counts = measurement.shape_by_class() | measurement.shape_by_size()
    shapes = ", ".join(f"{word} {right}/{asked}" for word, (right, asked) in counts.items())
    tables = [confusion_table(measurement, field) for field in FIELDS]
    return "\n".join([f"{measurement.name}{quality}, shapes: {shapes}", *filter(None, tables)])


def confusion_table(measurement: Measurement, field: str) -> str:
    """Words that were asked for (rows, those with mistakes) against what was seen (columns)."""
    asked: dict[str, Counter[str]] = {}
    mistaken = set()
    for attributes, reading in zip(measurement.wanted, measurement.readings, strict=True):
        right = getattr(judge(attributes, reading), field)
        if right is None:
            continue
        word = getattr(attributes, field)
        asked.setdefault(word, Counter())[getattr(reading, field) or "nothing"] += 1
        if not right:
            mistaken.add(word)
    if not mistaken:
        return ""
    seen = sorted({word for row in mistaken for word in asked[row]})
    rows = [[f"  {field}: asked, seen", *seen]]
    rows += [
        [f"    {row}", *(str(asked[row][word] or ".") for word in seen)] for row in sorted(mistaken)
    ]
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)
