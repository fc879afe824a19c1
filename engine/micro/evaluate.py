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

import torch
from torch import Tensor

from engine.micro.checkpoint import load_checkpoint
from engine.micro.export import fold_statistics, shipped_weights
from engine.micro.grammar import (
    SHAPES,
    SIZES,
    Attributes,
    canonical_sentence,
    heldout_prompts,
    sample_attributes,
)
from engine.micro.meter import Reading, confusions, judge, read_clip, scores
from engine.micro.sampling import MicroModel, Sampling, load_model, sample_clips
from engine.micro.sheets import write_sheet
from engine.micro.train_dit import TextToLatents
from engine.micro.training import Progress
from engine.micro.world import render
from engine.models.vae.wanvae import WanVAE

SHEET_CLIPS = 24
DEVELOPMENT_SEED, HEADLINE_SEED, ROUND_TRIP_SEED = 77, 4242, 4242
SAMPLE_SEED = 1000


@dataclass(frozen=True, slots=True)
class Measurement:
    """Clips that were asked for and what the meter read from them."""

    name: str
    wanted: Sequence[Attributes]
    readings: Sequence[Reading]

    def scores(self) -> dict[str, float]:
        """Share of right answers by attribute; `first_frame` counts first frames that are whole."""
        table = scores(judge(a, r) for a, r in zip(self.wanted, self.readings, strict=True))
        whole = [r.first_fit >= FIRST_FRAME_FIT * r.fit and r.fit > 0 for r in self.readings]
        return table | {"first_frame": sum(whole) / len(whole)}

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

    def report(self) -> str:
        """Several lines: scores, shapes by class and size, confusions."""
        table = "  ".join(f"{name} {value:.3f}" for name, value in self.scores().items())
        fit = sum(r.fit for r in self.readings) / len(self.readings)
        lines = [f"{self.name} (n={len(self.wanted)})  {table}  fit {fit:.3f}"]
        for counts in (self.shape_by_class(), self.shape_by_size()):
            lines.append("  shape: " + "  ".join(f"{w} {a}/{n}" for w, (a, n) in counts.items()))
        for name, wrong in confusions(self.wanted, self.readings).items():
            if wrong:
                listed = "; ".join(f"{k} x{n}" for k, n in sorted(wrong.items()))
                lines.append(f"  wrong {name}: {listed}")
        return "\n".join(lines)


FIRST_FRAME_FIT = 0.8  # of the clip's mean fit


@dataclass(frozen=True, slots=True)
class Gate:
    """A score and the least it must be."""

    name: str
    value: float
    least: float

    @property
    def holds(self) -> bool:
        return self.value >= self.least

    def __str__(self) -> str:
        sign = "ok  " if self.holds else "FAIL"
        return f"{sign} {self.name} {self.value:.3f} (at least {self.least:.2f})"


def vae_gates(measurement: Measurement) -> list[Gate]:
    """The VAE's gates on round trips of 96 clips: shape, every single shape, motion."""
    table = measurement.scores()
    gates = [Gate("round trip: shape", table["shape"], 0.93)]
    for word, (right, asked) in measurement.shape_by_class().items():
        gates.append(Gate(f"round trip: {word}", right / asked if asked else math.nan, 0.80))
    return [*gates, Gate("round trip: motion", table["motion"], 0.97)]


MODEL_GATES: Mapping[str, float] = {
    "foreground": 0.97,
    "background": 0.97,
    "motion": 0.94,
    "size": 0.95,
    "shape": 0.90,
    "all_four": 0.85,
}


def model_gates(measurement: Measurement) -> list[Gate]:
    """The model's gates on 64 held-out prompts."""
    table = measurement.scores()
    return [Gate(f"prompts: {name}", table[name], least) for name, least in MODEL_GATES.items()]


def measure_round_trip(
    vae: WanVAE, *, clips: int = 96, seed: int = ROUND_TRIP_SEED, sheet: Path | None = None
) -> Measurement:
    """Encodes and decodes rendered clips; the sheet shows the truth beside each."""
    rng = random.Random(seed)
    wanted = [sample_attributes(rng) for _ in range(clips)]
    truth = render(wanted, rng)
    decoded = torch.cat(
        [vae.decode(vae.encode(part, chunk_frames=0), chunk_frames=0) for part in truth.split(4)]
    )
    errors = (decoded - truth).div(2).square().mean((1, 2, 3, 4))
    measurement = Measurement(
        f"VAE round trip, PSNR {float((-10 * errors.log10()).mean()):.2f} dB",
        wanted,
        [read_clip(clip) for clip in decoded],
    )
    if sheet is not None:
        shown = SHEET_CLIPS // 2
        pairs = torch.stack([truth[:shown], decoded[:shown]], 1).flatten(0, 1)
        captions = [c for a in wanted[:shown] for c in (canonical_sentence(a), "decoded")]
        write_sheet(sheet, pairs, captions)
    return measurement


def measure_prompts(
    model: MicroModel,
    prompts: Sequence[tuple[Attributes, str]],
    *,
    name: str,
    settings: Sampling | None = None,
    seed: int = SAMPLE_SEED,
    sheets: Path | None = None,
) -> Measurement:
    """Samples every prompt and reads the clips. `sheets` is a folder for one sheet of the first clips
    and one of the failures."""
    wanted, texts = [a for a, _ in prompts], [text for _, text in prompts]
    clips = sample_clips(model, texts, seed=seed, settings=settings or Sampling())
    measurement = Measurement(name, wanted, [read_clip(clip) for clip in clips])
    if sheets is not None:
        _write_sheets(sheets, measurement, clips, texts)
    return measurement


def _write_sheets(
    folder: Path, measurement: Measurement, clips: Tensor, texts: Sequence[str]
) -> None:
    captions, failed = [], []
    for index, text in enumerate(texts):
        verdict = judge(measurement.wanted[index], measurement.readings[index])
        wrong = [
            field
            for field in ("foreground", "background", "shape", "size", "motion")
            if getattr(verdict, field) is False
        ]
        if wrong:
            failed.append(index)
        captions.append(f"{text}  {'X ' + ', '.join(wrong) if wrong else 'ok'}")
    stem = measurement.name.replace(" ", "-").replace(",", "")
    write_sheet(folder / f"{stem}.png", clips[:SHEET_CLIPS], captions[:SHEET_CLIPS])
    if failed:
        write_sheet(
            folder / f"{stem}-failures.png",
            clips[failed][:SHEET_CLIPS],
            [captions[i] for i in failed][:SHEET_CLIPS],
        )


def evaluate(
    weights: Mapping[str, Mapping[str, Tensor]],
    *,
    prompts: int = 64,
    clips: int = 96,
    sheets: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Gate]:
    """All gates in their order, the VAE's first; the model's only when the VAE's hold."""
    model = load_model(weights)
    sheet = sheets / "round-trip.png" if sheets else None
    round_trip = measure_round_trip(model.vae, clips=clips, sheet=sheet)
    log(round_trip.report())
    gates = vae_gates(round_trip)
    for gate in gates:
        log(str(gate))
    if not all(gate.holds for gate in gates):
        return gates
    headline = measure_prompts(
        model, heldout_prompts(prompts, HEADLINE_SEED), name="held-out", sheets=sheets
    )
    log(headline.report())
    for gate in model_gates(headline):
        log(str(gate))
        gates.append(gate)
    for name, heldout in (("paraphrased", True), ("paraphrased, seen", False)):
        extra = heldout_prompts(prompts // 2, HEADLINE_SEED, paraphrased=True, heldout=heldout)
        log(measure_prompts(model, extra, name=name, sheets=sheets).report())
    return gates


def load_checkpoints(vae: Path, dit: Path) -> dict[str, dict[str, Tensor]]:
    """The weights of two training checkpoints as they would ship, bf16 rounding included."""
    return shipped_weights(load_checkpoint(vae, "vae"), load_checkpoint(dit, "dit"))


@dataclass(frozen=True, slots=True)
class DevelopmentCheck:
    """Looks at a transformer under training: a few held-out prompts, few steps, a small sheet.

    Its prompts are others than the gates', which are thus never tuned for.
    """

    vae: Path
    sheet: Path
    log: Callable[[str], None]
    prompts: int = 24

    def __call__(self, trained: TextToLatents, progress: Progress) -> None:
        vae = load_checkpoint(self.vae, "vae")
        folded = fold_statistics(vae["ema"], trained.latent_mean, trained.latent_std)
        weights: dict[str, dict[str, Tensor]] = {"dit": {}, "text": {}, "vae": folded}
        for name, tensor in trained.parameters().items():
            part, _, original = name.partition(".")
            weights[part][original] = tensor
        settings = Sampling(scheduler="euler", steps=12, guidance=4.0)
        prompts = heldout_prompts(self.prompts, DEVELOPMENT_SEED)
        model = load_model(weights)
        clips = sample_clips(model, [t for _, t in prompts], seed=0, settings=settings)
        readings = [read_clip(clip) for clip in clips]
        name = f"development after {progress.samples} samples"
        self.log(Measurement(name, [a for a, _ in prompts], readings).report())
        write_sheet(self.sheet, clips[:16], [text for _, text in prompts][:16])
