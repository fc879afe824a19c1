"""A comparison as `modiff compare --json` gives it, as rows, sentences and lines of plots. Pure, torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tui.app.widgets.plot import Series
from tui.describe.comparison import value
from tui.text import printable
from tui.units import duration

Data = Mapping[str, Any]
SideBySide = tuple[str, str, str, str]
"""Name, value of A, value of B, what else is said."""


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a title, or where there are none the sentence that says why."""

    title: str
    rows: tuple[SideBySide, ...]
    sentence: str = ""


def settings_section(differences: Sequence[Data]) -> Section:
    """What was asked of them that differs."""
    rows = tuple(_difference(each) for each in differences)
    return Section("settings", rows, "" if rows else "the same")


def sections(data: Data) -> list[Section]:
    """Only what differs of settings and environment; times and results always."""
    return [
        settings_section(data["settings"]),
        Section("results", (*_results(data["a"], data["b"]),)),
        Section("steps", (), chain_told(data["chain"])),
        Section("latents", (), _latents(data)),
        Section("frames", (), _frames(data)),
        Section(
            "environment",
            tuple(_difference(each) for each in data["environment"]),
            "" if data["environment"] else "the same, as far as it is on record",
        ),
    ]


def _difference(each: Data) -> SideBySide:
    start, stop = each.get("start", 0), each.get("stop")
    extent = " ".join(
        [
            *([f"from step {start + 1}"] if start else []),
            *([] if stop is None else [f"to step {stop}"]),
        ]
    )
    return printable(each["key"]), _value(each["a"]), _value(each["b"]), extent


def _value(of: Any) -> str:
    return value(of) or "–"


def _results(a: Data, b: Data) -> list[SideBySide]:
    stages = [{stage["name"]: stage for stage in side["stages"]} for side in (a, b)]
    rows: list[SideBySide] = [
        ("status", a["status"], b["status"], ""),
        ("time", _seconds(a["seconds"]), _seconds(b["seconds"]), ""),
    ]
    for name in dict.fromkeys(name for side in stages for name in side):
        shown = [_stage(side.get(name)) for side in stages]
        rows.append((f"  {printable(name)}", shown[0], shown[1], ""))
    return [
        *rows,
        ("steps computed", str(a["steps_computed"]), str(b["steps_computed"]), ""),
        ("steps reused", str(a["steps_reused"]), str(b["steps_reused"]), ""),
        ("a step", _seconds(a["step_seconds"]), _seconds(b["step_seconds"]), "median"),
    ]


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else duration(seconds)


def _stage(stage: Data | None) -> str:
    if stage is None:
        return "–"
    return "cached" if stage["cached"] else duration(stage["seconds"])


def chain_told(chain: Data) -> str:
    """Where the chains of the two part."""
    shared, num_a, num_b = chain["shared_steps"], chain["steps_a"], chain["steps_b"]
    lengths = str(num_a) if num_a == num_b else f"{num_a} and {num_b}"
    if not (num_a and num_b):
        told = "there are no steps to compare"
    elif shared == num_a == num_b:
        told = f"all {lengths} are the same"
    elif not shared:
        told = f"none of {lengths} is the same: they part at the start"
    else:
        told = f"the first {shared} of {lengths} are the same, then they part"
    strays = [str(index + 1) for index in chain["same_key_other_bytes"]]
    return f"{told}; the same keys gave other bytes at {', '.join(strays)}" if strays else told


def _latents(data: Data) -> str:
    latents = data["latents"]
    if not latents:
        return printable(data["reasons"].get("latents", ""))
    if latents["relative_l2"] == 0:
        return "the last ones are equal"
    return f"the last ones: relative L2 {_number(latents['relative_l2'])}, cosine {_number(latents['cosine'], 6)}"


def _number(number: float | None, digits: int = 4) -> str:
    return "not finite" if number is None else f"{number:.{digits}g}"


def _frames(data: Data) -> str:
    frames = data["frames"]
    if not frames:
        return printable(data["reasons"].get("frames", ""))
    if frames["equal"] == frames["count"]:
        return f"all {frames['count']} are equal"
    psnr = [math.inf if each is None else each for each in frames["psnr_by_frame"]]
    ssim = frames["ssim_by_frame"]
    return (
        f"PSNR {_decibel(frames['psnr'])}, worst {_decibel(min(psnr))} in frame {psnr.index(min(psnr)) + 1}; "
        f"SSIM {frames['ssim']:.4f}, worst {min(ssim):.4f} in frame {ssim.index(min(ssim)) + 1}; "
        f"{frames['equal']} of {frames['count']} are equal"
    )


def _decibel(number: float | None) -> str:
    return "∞ dB" if number is None or math.isinf(number) else f"{number:.2f} dB"


def step_series(data: Data) -> tuple[Series, Series] | None:
    """Relative L2 and cosine after each step, counted from 1; None where no step could be compared."""
    steps = data["steps"]
    if not steps:
        return None
    xs = tuple(float(each["index"] + 1) for each in steps["compared"])
    l2, cosine = (
        tuple(math.nan if each[name] is None else float(each[name]) for each in steps["compared"])
        for name in ("relative_l2", "cosine")
    )
    return Series("relative L2", xs, l2), Series("cosine", xs, cosine)


def step_told(data: Data, step: int) -> str:
    """How far the two are apart after a step, or why nobody knows."""
    for each in (data["steps"] or {}).get("compared", ()):
        if each["index"] == step - 1:
            return (
                f"relative L2 {_number(each['relative_l2'])}  cosine {_number(each['cosine'], 6)}"
            )
    return printable(data["reasons"].get("steps", "")) if step else ""
