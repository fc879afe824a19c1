"""A comparison of two runs as lines for people: at most 100 columns, steps and frames counted from 1."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells

from tui.describe.run import points_told
from tui.text import columns, printable, shorten
from tui.units import duration

if TYPE_CHECKING:
    from engine.compare.chains import Timings
    from engine.compare.latents import Distance
    from engine.compare.report import Comparison
    from engine.compare.settings import Difference

WIDTH = 100
VALUE_CELLS = 20  # a longer value gets lines of its own
MAX_ROWS = 16  # of steps that differ; more are thinned out here, never in JSON
BAR_CELLS = 32
_EIGHTHS = "▏▎▍▌▋▊▉█"

Row = tuple[str, ...]
"""Name, value of A, value of B, what else is said."""


def lines(told: Comparison) -> Iterator[str]:
    short = [each for each in told.settings if not _is_long(each)]
    sections = {
        "": _runs(told),
        "settings": [_row(each) for each in short],
        "environment": [_row(each) for each in told.environment],
        "times": _times(*told.timings),
    }
    table = iter(columns([row for rows in sections.values() for row in rows]))
    for title, rows in sections.items():
        if title == "settings" and not told.settings:
            yield from ("", "settings: the same")
        elif title and (rows or (title == "settings" and told.settings)):
            yield from ("", title)
        yield from (shorten(next(table), WIDTH) for _ in rows)
        if title == "settings":
            for each in told.settings:
                if _is_long(each):
                    yield from _long(each)
    yield from ("", *_chain(told))
    yield from ("", *_steps(told))
    yield ""
    yield from _latents(told)
    yield from _frames(told)


def value(of: Any) -> str:
    """A setting on one line; nothing for None."""
    if of is None:
        return ""
    return printable(of if isinstance(of, str) and of else json.dumps(of, ensure_ascii=False))


def _runs(told: Comparison) -> list[Row]:
    runs = (told.a, told.b)
    rows = [
        ("", "A", "B", ""),
        ("run", *(run.id for run in runs), ""),
        ("status", *(run.status for run in runs), ""),
        ("preset", *(printable(run.preset) for run in runs), ""),
    ]
    if any(run.parent for run in runs):
        rows.append(("branch of", *(run.parent for run in runs), ""))
    return rows


def _row(each: Difference) -> Row:
    return f"  {each.key}", value(each.a), value(each.b), _extent(each)


def _extent(each: Difference) -> str:
    if each.start and each.stop is not None:
        return f"from step {each.start + 1} to {each.stop}"
    if each.start:
        return f"from step {each.start + 1}"
    return "" if each.stop is None else f"to step {each.stop}"


def _is_long(each: Difference) -> bool:
    return max(cell_len(value(each.a)), cell_len(value(each.b))) > VALUE_CELLS


def _long(each: Difference) -> Iterator[str]:
    yield f"  {each.key}  {_extent(each)}".rstrip()
    for name, side in (("A", each.a), ("B", each.b)):
        text = value(side)
        width = WIDTH - 7
        # A long word without spaces, and the wide characters of some scripts, are cut where they must be.
        parts = (
            textwrap.wrap(text, width) if cell_len(text) == len(text) else chop_cells(text, width)
        )
        for place, part in enumerate(parts or [""]):
            yield f"    {' ' if place else name}  {part}".rstrip()


def _times(a: Timings, b: Timings) -> list[Row]:
    sides = [{stage.name: stage for stage in each.stages} for each in (a, b)]
    rows: list[Row] = []
    for name in dict.fromkeys(name for side in sides for name in side):
        shown = [
            f"{duration(side[name].seconds)}{' cached' if side[name].cached else ''}"
            if name in side
            else "-"
            for side in sides
        ]
        rows.append((f"  {printable(name)}", *shown, ""))
    if any(each.total is not None for each in (a, b)):
        shown = ["-" if each.total is None else duration(each.total) for each in (a, b)]
        rows.append(("  in all", *shown, ""))
    if any(each.computed or each.reused for each in (a, b)):
        rows.append(("  steps computed", str(a.computed), str(b.computed), ""))
        rows.append(("  steps reused", str(a.reused), str(b.reused), ""))
        rows.append(("  a computed step", *(_brief(each.step) for each in (a, b)), "median"))
    return rows


def _brief(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return duration(seconds) if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _chain(told: Comparison) -> Iterator[str]:
    chain = told.chain
    count_a, count_b = len(chain.sigmas_a), len(chain.sigmas_b)
    if not (count_a and count_b):
        yield "chain    no steps to compare"
        return
    lengths = str(count_a) if count_a == count_b else f"{count_a} and {count_b}"
    if chain.shared == count_a == count_b:
        yield f"chain    all {lengths} steps have the same keys"
    elif not chain.shared:
        yield f"chain    no step of {lengths} has the same key: they part at the start"
    else:
        first = "first step" if chain.shared == 1 else f"first {chain.shared} steps"
        yield f"chain    the same keys for the {first} of {lengths}, then they part"
    if chain.strays:
        yield from _paragraph("", f"the same keys gave other bytes at {_numbers(chain.strays)}")


def _steps(told: Comparison) -> Iterator[str]:
    steps, chain = told.steps, told.chain
    if steps is None:
        yield from _paragraph("steps", told.reasons["steps"])
        return
    what = "latents after each step" if steps.of == "latents" else "velocity of each step"
    yield f"steps    {what}"
    if equal := [i for i, each in steps.distances if not each.relative_l2]:
        yield from _paragraph("", f"equal: {_numbers(equal)}")
    rest = [(i, each) for i, each in steps.distances if each.relative_l2]
    if shown := _thinned(rest):
        yield from columns(list(_step_rows(shown, chain.sigmas_a, chain.sigmas_b)))
    if len(shown) < len(rest):
        yield f"         {len(shown)} of {len(rest)} steps that differ; --json has all"
    if steps.absent:
        yield from _paragraph("", f"not stored: {_numbers(steps.absent)}")


def _step_rows(
    shown: Sequence[tuple[int, Distance]], a: Sequence[float | None], b: Sequence[float | None]
) -> Iterator[Row]:
    """A row for each, under its headings; a second column of sigmas where the two schedules differ."""
    longest = max(
        (each.relative_l2 for _, each in shown if math.isfinite(each.relative_l2)), default=0.0
    )
    is_one = all(a[i] == b[i] for i, _ in shown)
    sides = {"sigma": a} if is_one else {"sigma A": a, "sigma B": b}
    yield "    step", *sides, "relative L2", "   cosine", ""
    for i, each in shown:
        yield (
            f"{i + 1:>8}",
            *("-" if sigmas[i] is None else f"{sigmas[i]:.4f}" for sigmas in sides.values()),
            f"{each.relative_l2:.4g}",
            f"{each.cosine:>9.6f}",
            _bar(each.relative_l2, longest),
        )


def _paragraph(name: str, text: str) -> list[str]:
    """Text beside a section's name, broken where it must be."""
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=f"{name:<9}", subsequent_indent=" " * 9
    )


def _thinned(rows: Sequence[tuple[int, Distance]]) -> Sequence[tuple[int, Distance]]:
    """Evenly, with the first and the last."""
    if len(rows) <= MAX_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]


def _bar(length: float, longest: float) -> str:
    if not math.isfinite(length) or not longest:
        return ""
    whole, rest = divmod(max(1, round(8 * BAR_CELLS * length / longest)), 8)
    return _EIGHTHS[-1] * whole + (_EIGHTHS[rest - 1] if rest else "")


def _numbers(steps: Sequence[int]) -> str:
    """`step 4` or `steps 1-10, 12`, counted from 1."""
    told = points_told([step + 1 for step in steps], has_latents=False)
    return f"{'step' if len(steps) == 1 else 'steps'} {told}"


def _latents(told: Comparison) -> Iterator[str]:
    if told.latents is None:
        yield from _paragraph("latents", told.reasons["latents"])
    elif not told.latents.relative_l2:
        yield "latents  equal"
    else:
        figures = f"relative L2 {told.latents.relative_l2:.4g}, cosine {told.latents.cosine:.6f}"
        yield f"latents  {figures}"


def _frames(told: Comparison) -> Iterator[str]:
    frames = told.frames
    if frames is None:
        yield from _paragraph("frames", told.reasons["frames"])
        return
    equal = sum(map(math.isinf, frames.psnr))
    count = len(frames.psnr)
    size = f"{count} of {frames.width}x{frames.height}"
    if equal == count:
        yield f"frames   {size}, all equal"
        return
    yield f"frames   {size}" + (f", {equal} of them equal" if equal else "")
    for name, values, overall, unit, of in (
        ("PSNR", frames.psnr, f"{frames.psnr_overall:.2f} dB", " dB", "RGB"),
        ("SSIM", frames.ssim, f"{frames.ssim_mean:.4f}", "", "luma"),
    ):
        worst = min(range(count), key=values.__getitem__)
        figure = f"{values[worst]:.{2 if unit else 4}f}{unit}"
        yield f"  {name:<7}{overall:<10}worst {figure} in frame {worst + 1}, of {of}"
