"""Measures the micro model and holds it to its gates: first the VAE alone, then the whole model on held-out prompts.

Clips are scored by `meter`, which sees pixels only. Sheets are for the person who has the last word on whether a
shape can be recognised.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.micro.grammar import (
    SHAPES,
    SIZES,
    Attributes,
    canonical_sentence,
    heldout_prompts,
    sample_attributes,
)
from engine.models.vae.wanvae import WanVAE
from examples.micro.measures.meter import FIELDS, Reading, judge, read_clip, scores
from examples.micro.measures.sampling import MicroModel, Sampling, sample_clips
from examples.micro.measures.sheets import write_sheet
from examples.micro.world import render

SHEET_CLIPS = 24
HEADLINE_SEED, ROUND_TRIP_SEED, SAMPLE_SEED = 4242, 4242, 1000
FIRST_FRAME_FIT = 0.8  # of the clip's mean fit

SHAPE_GATE, SINGLE_SHAPE_GATE, MOTION_GATE = 0.93, 0.80, 0.97
MODEL_GATES: Mapping[str, float] = {
    "foreground": 0.97,
    "background": 0.97,
    "motion": 0.94,
    "size": 0.95,
    "shape": 0.90,
    "all_four": 0.85,
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Clips that were asked for and what the meter read from them; `psnr` in dB, of round trips."""

    name: str
    wanted: Sequence[Attributes]
    readings: Sequence[Reading]
    psnr: float | None = None

    def scores(self) -> dict[str, float]:
        """Share of right answers by attribute; `first_frame` counts first frames that are whole,
        `fit` is the mean overlap with the best template."""
        table = scores(judge(a, r) for a, r in zip(self.wanted, self.readings, strict=True))
        whole = [r.first_fit >= FIRST_FRAME_FIT * r.fit and r.fit > 0 for r in self.readings]
        fit = sum(r.fit for r in self.readings) / len(self.readings)
        return table | {"first_frame": sum(whole) / len(whole), "fit": fit}

    def shape_by_class(self) -> dict[str, tuple[int, int]]:
        """Right answers and questions per shape."""
        return self._shape_counts("shape", SHAPES)

    def shape_by_size(self) -> dict[str, tuple[int, int]]:
        """Right answers about the shape and questions, per size."""
        return self._shape_counts("size", SIZES)

    def _shape_counts(self, field: str, words: Sequence[str]) -> dict[str, tuple[int, int]]:
        counts = {}
        for word in words:
            pairs = zip(self.wanted, self.readings, strict=True)
            right = [r.shape == a.shape for a, r in pairs if getattr(a, field) == word]
            counts[word] = (sum(right), len(right))
        return counts


@dataclass(frozen=True, slots=True)
class Gate:
    """A score and the least it must be; a score that was not measured is nan and never enough."""

    name: str
    value: float
    least: float

    @property
    def holds(self) -> bool:
        return self.value >= self.least

    def __str__(self) -> str:
        sign = "ok  " if self.holds else "FAIL"
        return f"{sign} {self.name} {self.value:.3f} (at least {self.least:.2f})"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Gates in the order they were tried, and every measurement made."""

    gates: Sequence[Gate]
    measurements: Sequence[Measurement]

    @property
    def holds(self) -> bool:
        return all(gate.holds for gate in self.gates)

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values; what was not measured is None."""
        return {
            "gates": [
                {
                    "name": gate.name,
                    "value": _plain(gate.value),
                    "least": gate.least,
                    "holds": gate.holds,
                }
                for gate in self.gates
            ],
            "measurements": [
                {
                    "name": m.name,
                    "clips": len(m.wanted),
                    "scores": {name: _plain(value) for name, value in m.scores().items()},
                    "shapes": {word: list(counts) for word, counts in m.shape_by_class().items()},
                    "psnr": m.psnr,
                }
                for m in self.measurements
            ],
        }


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def vae_gates(measurement: Measurement) -> list[Gate]:
    """The VAE's gates on round trips of 96 clips: shape, every single shape, motion."""
    table = measurement.scores()
    singles = [
        Gate(f"round trip: {word}", right / asked if asked else math.nan, SINGLE_SHAPE_GATE)
        for word, (right, asked) in measurement.shape_by_class().items()
    ]
    return [
        Gate("round trip: shape", table["shape"], SHAPE_GATE),
        *singles,
        Gate("round trip: motion", table["motion"], MOTION_GATE),
    ]


def model_gates(measurement: Measurement) -> list[Gate]:
    """The model's gates on 64 held-out prompts."""
    table = measurement.scores()
    return [Gate(f"prompts: {name}", table[name], least) for name, least in MODEL_GATES.items()]


@torch.no_grad()
def measure_round_trip(
    vae: WanVAE, *, clips: int = 96, seed: int = ROUND_TRIP_SEED, sheet: Path | None = None
) -> Measurement:
    """Encodes and decodes rendered clips; the sheet shows the truth beside each."""
    rng = random.Random(seed)
    wanted = tuple(sample_attributes(rng) for _ in range(clips))
    truth = render(wanted, rng)
    device = vae.conv1.weight.device
    decoded = torch.cat(
        [
            vae.decode(vae.encode(part.to(device), chunk_frames=0), chunk_frames=0).cpu()
            for part in truth.split(4)
        ]
    )
    errors = (decoded - truth).div(2).square().mean((1, 2, 3, 4))
    if sheet is not None:
        shown = SHEET_CLIPS // 2
        pairs = torch.stack([truth[:shown], decoded[:shown]], 1).flatten(0, 1)
        captions = [c for a in wanted[:shown] for c in (canonical_sentence(a), "decoded")]
        write_sheet(sheet, pairs, captions)
    return Measurement(
        "VAE round trip",
        wanted,
        tuple(read_clip(clip) for clip in decoded),
        float((-10 * errors.log10()).mean()),
    )


def measure_prompts(
    model: MicroModel,
    prompts: Sequence[tuple[Attributes, str]],
    *,
    name: str,
    settings: Sampling | None = None,
    seed: int = SAMPLE_SEED,
    sheets: Path | None = None,
) -> Measurement:
    """Samples every prompt and reads the clips. `sheets` is a folder for one sheet of the first
    clips and one of the failures."""
    wanted, texts = tuple(a for a, _ in prompts), [text for _, text in prompts]
    clips = sample_clips(model, texts, seed=seed, settings=settings or Sampling())
    measurement = Measurement(name, wanted, tuple(read_clip(clip) for clip in clips))
    if sheets is not None:
        _write_sheets(sheets, measurement, clips, texts)
    return measurement


def _write_sheets(
    folder: Path, measurement: Measurement, clips: Tensor, texts: Sequence[str]
) -> None:
    captions, failed = [], []
    for index, text in enumerate(texts):
        verdict = judge(measurement.wanted[index], measurement.readings[index])
        wrong = [field for field in FIELDS if getattr(verdict, field) is False]
        if wrong:
            failed.append(index)
        captions.append(f"{text} [wrong: {', '.join(wrong)}]" if wrong else text)
    stem = measurement.name.replace(" ", "-").replace(",", "")
    write_sheet(folder / f"{stem}.png", clips[:SHEET_CLIPS], captions[:SHEET_CLIPS])
    if failed:
        write_sheet(
            folder / f"{stem}-failures.png",
            clips[failed][:SHEET_CLIPS],
            [captions[i] for i in failed][:SHEET_CLIPS],
        )


def evaluate(
    model: MicroModel,
    *,
    prompts: int = 64,
    clips: int = 96,
    sheets: Path | None = None,
    beyond_failure: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """All gates in their order, the VAE's first; the model's only when the VAE's hold.

    `sheets` is a folder for contact sheets. With `beyond_failure` the model is measured in any case.
    """
    sheet = sheets / "round-trip.png" if sheets else None
    log(f"VAE round trip of {clips} clips")
    round_trip = measure_round_trip(model.vae, clips=clips, sheet=sheet)
    gates = vae_gates(round_trip)
    if not beyond_failure and not all(gate.holds for gate in gates):
        return Evaluation(gates, [round_trip])
    log(f"{prompts} held-out prompts")
    headline = measure_prompts(
        model, heldout_prompts(prompts, HEADLINE_SEED), name="held-out", sheets=sheets
    )
    gates += model_gates(headline)
    measurements = [round_trip, headline]
    for name, heldout in (("paraphrased", True), ("paraphrased, seen", False)):
        log(f"{prompts // 2} prompts, {name}")
        extra = heldout_prompts(prompts // 2, HEADLINE_SEED, paraphrased=True, heldout=heldout)
        measurements.append(measure_prompts(model, extra, name=name, sheets=sheets))
    return Evaluation(gates, measurements)
