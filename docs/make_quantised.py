"""Measures what quantised weights change of the micro model's videos, and draws it.

    PYTHONPATH=. python docs/make_quantised.py [PROMPTS]     # from the root; 96 take a quarter of an hour of one core

Prints a line for each way of holding the transformer: what its weights take, how far the last latents are from those of
fp32, and in how many clips the meter of the micro model reads what was asked for. Writes `images/quantised.svg`, the
curve, and `images/quantised.png`, one prompt in each way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from engine.checkpoints.convert.convert import QUANTISED, convert
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.components.providers import wan_dit
from engine.micro.grammar import heldout_prompts
from examples.micro.measures.evaluate import Measurement
from examples.micro.measures.meter import read_clip
from examples.micro.measures.sampling import (
    BATCH,
    MicroModel,
    Sampling,
    load_exported,
    sample_latents,
)
from examples.micro.measures.sheets import write_sheet
from presets.spec.components import DenoiserSpec

FOLDER = Path(__file__).with_name("images")
MICRO = locate("denoiser", "builtin:micro")
PROMPTS, PROMPT_SEED, SAMPLE_SEED = 96, 4242, 1000
SHOWN = 1  # of the prompts, in the picture

# how a way is called -> its settings; those that name a GGUF type are of a file in it
WAYS: dict[str, dict[str, str]] = {
    "fp32": {},
    "int8": {"quantise": "int8"},
    "int8, activations too": {"quantise": "int8", "activations": "quantised"},
    "fp8": {"quantise": "fp8"},
    "fp8, activations too": {"quantise": "fp8", "activations": "quantised"},
    "q8_0": {"file": "q8_0"},
    "q4_0": {"file": "q4_0"},
}


@dataclass(frozen=True)
class Point:
    """share: of the bytes that the weights take in fp32. distance: of the last latents from those of fp32, relative."""

    name: str
    share: float
    distance: float
    scores: Mapping[str, float]
    shown: Tensor


def main(num_prompts: int) -> None:
    model = load_exported(MICRO.parent)
    prompts = heldout_prompts(num_prompts, PROMPT_SEED)
    points: list[Point] = []
    plain: list[Tensor] = []
    with TemporaryDirectory() as folder:
        for name, dit, num_bytes in _ways(Path(folder)):
            way = replace(model, dit=dit)
            latents = list(_latents(way, [text for _, text in prompts]))
            plain = plain or latents
            clips = torch.cat(
                [
                    model.vae.decode(part, chunk_frames=0)
                    for each in latents
                    for part in each.split(4)
                ]
            )
            wanted = [attributes for attributes, _ in prompts]
            scores = Measurement(name, wanted, [read_clip(clip) for clip in clips]).scores()
            errors = (torch.cat(latents) - torch.cat(plain)).flatten(1).norm(dim=1)
            relative = (errors / torch.cat(plain).flatten(1).norm(dim=1)).mean()
            whole = points[0].share if points else float(num_bytes)
            points.append(Point(name, float(num_bytes), float(relative), scores, clips[SHOWN]))
            print(_line(points[-1], whole), flush=True)
    whole = points[0].share
    points = [replace(point, share=point.share / whole) for point in points]
    (FOLDER / "quantised.svg").write_text(_drawn(points), encoding="utf-8")
    captions = [f"{p.name}: {p.share:.2f} of the weights, {p.distance:.3f} away" for p in points]
    write_sheet(FOLDER / "quantised.png", torch.stack([p.shown for p in points]), captions)


def _ways(folder: Path) -> Iterator[tuple[str, wan_dit.WanDiT, int]]:
    for name, settings in WAYS.items():
        how = {"dtype": "fp32", **settings}
        path = MICRO
        if kind := how.pop("file", ""):
            path = convert(
                open_source(MICRO), folder / f"{kind}.gguf", layout=QUANTISED[kind], quantise=kind
            )
        packed = wan_dit.load(
            _spec(path, **how) if "activations" in how else _spec(path, unpack="call", **how)
        )
        num_bytes = sum(each.numel() * each.element_size() for each in packed.parameters())
        if "activations" not in how:  # the same bits, faster
            packed = wan_dit.load(_spec(path, unpack="load", **how))
        yield name, packed, num_bytes


def _spec(path: Path, **settings: str) -> DenoiserSpec:
    return DenoiserSpec(checkpoint=str(path), device="cpu", **settings)


def _latents(model: MicroModel, prompts: Sequence[str]) -> Iterator[Tensor]:
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        seeds = range(SAMPLE_SEED + start, SAMPLE_SEED + start + len(some))
        yield sample_latents(model, some, seeds, Sampling())


def _line(point: Point, whole: float) -> str:
    named = ("foreground", "background", "shape", "size", "motion", "all_four")
    scores = " | ".join(f"{point.scores[name]:.3f}" for name in named)
    return f"| {point.name} | {point.share / whole:.3f} | {point.distance:.4f} | {scores} |"


def _drawn(points: Sequence[Point]) -> str:
    """An SVG: to the right what the weights take, upwards how far the latents are away."""
    width, height, left, bottom = 760, 420, 70, 360
    most = max(point.distance for point in points) * 1.1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{left} 20V{bottom}H{width - 20}" fill="none" stroke="#444"/>',
        f'<text x="{(left + width) / 2}" y="{height - 14}" text-anchor="middle">weights, of their bytes in fp32</text>',
        f'<text transform="translate(18 {bottom / 2 + 20}) rotate(-90)" text-anchor="middle">'
        "distance of the last latents, relative</text>",
    ]
    for tick in range(0, 11, 2):
        x = left + tick / 10 * (width - left - 60)
        parts.append(
            f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{tick / 10:.1f}</text>'
        )
    for tick in range(5):
        y = bottom - tick / 4 * (bottom - 30)
        parts.append(
            f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{most * tick / 4:.3f}</text>'
        )
        parts.append(f'<path d="M{left} {y:.0f}H{width - 20}" stroke="#ddd"/>')
    for point in points:
        x = left + point.share * (width - left - 60)
        y = bottom - point.distance / most * (bottom - 30)
        label = f"{point.name} ({point.scores['all_four']:.0%})"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#2563eb"/>')
        parts.append(f'<text x="{x + 9:.1f}" y="{y - 4:.1f}">{label}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PROMPTS)
