"""A comparison of two runs, as the command line prints it, as `--json` gives it and as the app shows it.

The data of `--json` is what all are made of: indices in it count from 0, in words steps and frames count from 1.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, chop_cells

from tui.describe.runs.detail import points_told
from tui.text import columns, printable, shorten
from tui.units import duration

if TYPE_CHECKING:
    from engine.compare.chains import Timings
    from engine.compare.report import Comparison
    from store.lineage.records import RunRecord

WIDTH = 100
VALUE_CELLS = 20  # a longer value gets lines of its own
MAX_ROWS = 16  # of steps that differ; more are thinned out here, never in JSON
BAR_CELLS = 32
_EIGHTHS = "▏▎▍▌▋▊▉█"
_NAME_CELLS = 9

Data = Mapping[str, Any]
SideBySide = tuple[str, str, str, str]
"""Name, value of A, value of B, what else is said."""


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a title, or where there are none the sentence that says why."""

    title: str
    rows: tuple[SideBySide, ...]
    sentence: str = ""


# The data


def data_of(found: Comparison) -> dict[str, Any]:
    """What `modiff compare --json` prints. What could not be compared is null, and `reasons` says why."""
    chain, frames = found.chain, found.frames
    return {
        "a": _run(found.a, found.timings[0]),
        "b": _run(found.b, found.timings[1]),
        "settings": [asdict(each) for each in found.settings],
        "environment": [{"key": each.key, "a": each.a, "b": each.b} for each in found.environment],
        "chain": {
            "shared_steps": chain.shared,
            "steps_a": len(chain.sigmas_a),
            "steps_b": len(chain.sigmas_b),
            "same_key_other_bytes": list(chain.strays),
        },
        "steps": found.steps
        and {
            "of": found.steps.of,
            "compared": [
                {
                    "index": i,
                    "sigma_a": chain.sigmas_a[i],
                    "sigma_b": chain.sigmas_b[i],
                    "relative_l2": _finite(distance.relative_l2),
                    "cosine": _finite(distance.cosine),
                }
                for i, distance in found.steps.distances
            ],
            "absent": list(found.steps.absent),
        },
        "latents": found.latents
        and {
            "relative_l2": _finite(found.latents.relative_l2),
            "cosine": _finite(found.latents.cosine),
        },
        "frames": frames
        and {
            "count": len(frames.psnr),
            "width": frames.width,
            "height": frames.height,
            "equal": sum(map(math.isinf, frames.psnr)),
            "psnr_of": "rgb",
            "psnr": _finite(frames.psnr_overall),
            "psnr_min": _finite(min(frames.psnr)),
            "ssim_of": "luma",
            "ssim": frames.ssim_mean,
            "ssim_min": min(frames.ssim),
            "psnr_by_frame": [_finite(value) for value in frames.psnr],
            "ssim_by_frame": list(frames.ssim),
        },
        "reasons": found.reasons,
    }


def _run(run: RunRecord, times: Timings) -> dict[str, Any]:
    return {
        "run": run.id,
        "status": run.status,
        "preset": run.preset,
        "parent": run.parent or None,
        "stages": [asdict(stage) for stage in times.stages],
        "step_seconds": times.step,
        "seconds": times.total,
        "computed_steps": times.computed,
        "reused_steps": times.reused,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# In words, for both


def sections(data: Data) -> list[Section]:
    """Only what differs of settings and environment; times and results always."""
    environment = tuple(map(_difference, data["environment"]))
    return [
        settings_section(data["settings"]),
        Section("results", (*_statuses(data), *_times(data))),
        Section("chain", (), chain_line(data["chain"])),
        Section("latents", (), latents_line(data)),
        Section("frames", (), "; ".join(frames_lines(data))),
        Section(
            "environment",
            environment,
            "" if environment else "the same, as far as it is on record",
        ),
    ]


def settings_section(differences: Sequence[Data]) -> Section:
    """What was asked of them that differs."""
    rows = tuple(map(_difference, differences))
    return Section("settings", rows, "" if rows else "the same")


def value_text(value: Any) -> str:
    """A setting on one line; a dash for None."""
    if value is None:
        return "–"
    is_text = isinstance(value, str) and value
    return printable(value if is_text else json.dumps(value, ensure_ascii=False))


def _difference(each: Data) -> SideBySide:
    return printable(each["key"]), value_text(each["a"]), value_text(each["b"]), _extent(each)


def _extent(each: Data) -> str:
    """`from step 9 to 12`, where a setting holds for some of the steps only."""
    start, stop = each.get("start", 0), each.get("stop")
    if start and stop is not None:
        return f"from step {start + 1} to {stop}"
    if start:
        return f"from step {start + 1}"
    return "" if stop is None else f"to step {stop}"


def _statuses(data: Data) -> list[SideBySide]:
    return [("status", data["a"]["status"], data["b"]["status"], "")]


def _times(data: Data) -> list[SideBySide]:
    a, b = data["a"], data["b"]
    stages = [{stage["name"]: stage for stage in side["stages"]} for side in (a, b)]
    rows: list[SideBySide] = []
    for name in dict.fromkeys(name for side in stages for name in side):
        times = [_stage_time(side.get(name)) for side in stages]
        rows.append((f"  {printable(name)}", times[0], times[1], ""))
    if a["seconds"] is not None or b["seconds"] is not None:
        rows.append(("  in all", _seconds(a["seconds"]), _seconds(b["seconds"]), ""))
    if any(side[name] for side in (a, b) for name in ("computed_steps", "reused_steps")):
        rows += [
            (f"  steps {name}", str(a[f"{name}_steps"]), str(b[f"{name}_steps"]), "")
            for name in ("computed", "reused")
        ]
        rows.append(
            ("  a computed step", _brief(a["step_seconds"]), _brief(b["step_seconds"]), "median")
        )
    return rows


def _stage_time(stage: Data | None) -> str:
    if stage is None:
        return "–"
    return f"{duration(stage['seconds'])}{' cached' if stage['cached'] else ''}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _brief(seconds: float | None) -> str:
    return _seconds(seconds) if seconds is None or seconds >= 1 else f"{1000 * seconds:.1f} ms"


def chain_line(chain: Data) -> str:
    """Where the chains of the two part."""
    shared, num_a, num_b = chain["shared_steps"], chain["steps_a"], chain["steps_b"]
    lengths = str(num_a) if num_a == num_b else f"{num_a} and {num_b}"
    if not (num_a and num_b):
        return "no steps to compare"
    if shared == num_a == num_b:
        line = f"all {lengths} steps have the same keys"
    elif not shared:
        line = f"no step of {lengths} has the same key: they part at the start"
    else:
        first = "first step" if shared == 1 else f"first {shared} steps"
        line = f"the same keys for the {first} of {lengths}, then they part"
    strays = chain["same_key_other_bytes"]
    return f"{line}; the same keys gave other bytes at {_numbers(strays)}" if strays else line


def latents_line(data: Data) -> str:
    latents = data["latents"]
    if not latents:
        return printable(data["reasons"].get("latents", ""))
    return "equal" if latents["relative_l2"] == 0 else _distance(latents)


def _distance(of: Data) -> str:
    return f"relative L2 {_number(of['relative_l2'], '.4g')}, cosine {_number(of['cosine'], '.6f')}"


def _number(number: float | None, form: str) -> str:
    return "not finite" if number is None else format(number, form)


def frames_lines(data: Data) -> list[str]:
    """How many frames and how many are equal; then PSNR and SSIM where some are not."""
    frames = data["frames"]
    if not frames:
        return [printable(data["reasons"].get("frames", ""))]
    size = f"{frames['count']} of {frames['width']}x{frames['height']}"
    if frames["equal"] == frames["count"]:
        return [f"{size}, all equal"]
    psnr = [math.inf if each is None else each for each in frames["psnr_by_frame"]]
    ssim = frames["ssim_by_frame"]
    worst = psnr.index(min(psnr)), ssim.index(min(ssim))
    return [
        size + (f", {frames['equal']} of them equal" if frames["equal"] else ""),
        f"PSNR {frames['psnr']:.2f} dB, worst {psnr[worst[0]]:.2f} dB in frame {worst[0] + 1}, of RGB",
        f"SSIM {frames['ssim']:.4f}, worst {ssim[worst[1]]:.4f} in frame {worst[1] + 1}, of luma",
    ]


def step_line(data: Data, step: int) -> str:
    """How far the two are apart after a step, or why nobody knows."""
    for each in (data["steps"] or {}).get("compared", ()):
        if each["index"] == step - 1:
            return _distance(each)
    return printable(data["reasons"].get("steps", "")) if step else ""


def step_curves(data: Data) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Relative L2 and cosine after each step: step numbers and values, NaN for what is not finite; empty where no
    step could be compared."""
    if not data["steps"]:
        return {}
    compared = data["steps"]["compared"]
    numbers = tuple(float(each["index"] + 1) for each in compared)
    return {
        name: (
            numbers,
            tuple(math.nan if each[key] is None else float(each[key]) for each in compared),
        )
        for name, key in (("relative L2", "relative_l2"), ("cosine", "cosine"))
    }


# As lines, at most 100 columns


def lines(data: Data) -> Iterator[str]:
    short = [each for each in data["settings"] if not _is_long(each)]
    tables = {
        "": _heads(data),
        "settings": [_indented(each) for each in short],
        "environment": [_indented(each) for each in data["environment"]],
        "times": _times(data),
    }
    table = iter(columns([row for rows in tables.values() for row in rows]))
    for title, rows in tables.items():
        if title == "settings" and not data["settings"]:
            yield from ("", "settings: the same")
        elif title and (rows or (title == "settings" and data["settings"])):
            yield from ("", title)
        yield from (shorten(next(table), WIDTH) for _ in rows)
        if title == "settings":
            for each in data["settings"]:
                if _is_long(each):
                    yield from _long(each)
    yield from ("", *_paragraph("chain", chain_line(data["chain"])))
    yield from ("", *_steps(data))
    yield from ("", *_paragraph("latents", latents_line(data)))
    first, *more = frames_lines(data)
    yield from (*_paragraph("frames", first), *(f"  {line}" for line in more))


def _heads(data: Data) -> list[SideBySide]:
    a, b = data["a"], data["b"]
    rows = [("", "A", "B", ""), ("run", a["run"], b["run"], ""), *_statuses(data)]
    rows.append(("preset", printable(a["preset"]), printable(b["preset"]), ""))
    if a["parent"] or b["parent"]:
        rows.append(("branch of", a["parent"] or "", b["parent"] or "", ""))
    return rows


def _indented(each: Data) -> SideBySide:
    key, *rest = _difference(each)
    return f"  {key}", *rest  # type: ignore[return-value]


def _is_long(each: Data) -> bool:
    return max(cell_len(value_text(each[side])) for side in "ab") > VALUE_CELLS


def _long(each: Data) -> Iterator[str]:
    yield f"  {printable(each['key'])}  {_extent(each)}".rstrip()
    for name in "ab":
        text = value_text(each[name])
        width = WIDTH - 7
        # A long word without spaces, and the wide characters of some scripts, are cut where they must be.
        parts = (
            textwrap.wrap(text, width) if cell_len(text) == len(text) else chop_cells(text, width)
        )
        for place, part in enumerate(parts or [""]):
            yield f"    {' ' if place else name.upper()}  {part}".rstrip()


def _steps(data: Data) -> Iterator[str]:
    steps = data["steps"]
    if steps is None:
        yield from _paragraph("steps", data["reasons"]["steps"])
        return
    what = "latents after each step" if steps["of"] == "latents" else "velocity of each step"
    yield from _paragraph("steps", what)
    if equal := [each["index"] for each in steps["compared"] if each["relative_l2"] == 0]:
        yield from _paragraph("", f"equal: {_numbers(equal)}")
    rest = [each for each in steps["compared"] if each["relative_l2"] != 0]
    if shown := _thinned(rest):
        yield from columns(list(_step_rows(shown)))
    if len(shown) < len(rest):
        yield f"         {len(shown)} of {len(rest)} steps that differ; --json has all"
    if steps["absent"]:
        yield from _paragraph("", f"not stored: {_numbers(steps['absent'])}")


def _step_rows(shown: Sequence[Data]) -> Iterator[tuple[str, ...]]:
    """A row for each, under its headings; a second column of sigmas where the two schedules differ."""
    longest = max((each["relative_l2"] or 0.0 for each in shown), default=0.0)
    is_one = all(each["sigma_a"] == each["sigma_b"] for each in shown)
    sides = (
        {"from sigma": "sigma_a"}
        if is_one
        else {"from sigma A": "sigma_a", "from sigma B": "sigma_b"}
    )
    yield "    step", *sides, "relative L2", "   cosine", ""
    for each in shown:
        yield (
            f"{each['index'] + 1:>8}",
            *("–" if each[key] is None else f"{each[key]:.4f}" for key in sides.values()),
            _number(each["relative_l2"], ".4g"),
            _number(each["cosine"], ">9.6f"),
            _bar(each["relative_l2"], longest),
        )


def _paragraph(name: str, text: str) -> list[str]:
    """Text beside a section's name, broken where it must be."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=f"{name:<{_NAME_CELLS}}",
        subsequent_indent=" " * _NAME_CELLS,
    )


def _thinned(rows: Sequence[Data]) -> Sequence[Data]:
    """Evenly, with the first and the last."""
    if len(rows) <= MAX_ROWS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MAX_ROWS - 1))] for i in range(MAX_ROWS)]


def _bar(length: float | None, longest: float) -> str:
    if length is None or not longest:
        return ""
    whole, rest = divmod(max(1, round(8 * BAR_CELLS * length / longest)), 8)
    return _EIGHTHS[-1] * whole + (_EIGHTHS[rest - 1] if rest else "")


def _numbers(indices: Sequence[int]) -> str:
    """`step 4` or `steps 1-10, 12`, counted from 1."""
    numbers = points_told([index + 1 for index in indices], has_latents=False)
    return f"{'step' if len(indices) == 1 else 'steps'} {numbers}"
