"""Measures the image-to-video sibling by pixels: are the given frames kept, and does what was asked happen to them?"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.micro.grammar import Attributes, heldout_prompts
from engine.models.image_encoders.clip import CLIP
from engine.models.vae.wanvae import WanVAE
from examples.micro.measures.evaluate import Evaluation, Gate, Measurement
from examples.micro.measures.meter import judge, read_clip
from examples.micro.measures.sampling import BATCH, MicroModel, Sampling, sample_latents
from examples.micro.measures.sheets import write_sheet
from examples.micro.pictures.given_frames import ANYWHERE, given_video, masks
from examples.micro.pictures.train_clip import tokens_of
from examples.micro.world import render

PICTURE_SEED = 9009
SHEET_CLIPS = 24
GATES = {"foreground": 0.97, "background": 0.97, "motion": 0.92, "shape": 0.85}
FIRST_PSNR, LAST_PSNR = 24.0, 22.0


@dataclass(frozen=True)
class Pictures:
    """Cases: what is asked for, in words, and clips in which it happens, [N,3,T,S,S], whose frames are given."""

    wanted: tuple[Attributes, ...]
    prompts: tuple[str, ...]
    truth: Tensor


def heldout_pictures(count: int, seed: int = PICTURE_SEED, anywhere: float = ANYWHERE) -> Pictures:
    """Combinations that training has not seen, with drawn clips of them whose frames are the pictures.

    Of an object that begins near an edge the meter cannot always tell where it goes, drawn or made: such clips are left
    out, so that what is measured is the model.
    """
    rng = random.Random(seed)
    wanted, prompts, drawn = [], [], []
    for attributes, text in heldout_prompts(4 * count, seed):
        clip = render([attributes], rng, anywhere=anywhere)[0]
        verdict = judge(attributes, read_clip(clip))
        if verdict.all_four:
            wanted.append(attributes)
            prompts.append(text)
            drawn.append(clip)
        if len(drawn) == count:
            break
    return Pictures(tuple(wanted), tuple(prompts), torch.stack(drawn))


@torch.no_grad()
def conditions_of(
    truth: Tensor, vae: WanVAE, encoder: CLIP, *, has_last: bool
) -> dict[str, Tensor]:
    """ "image" and "latents" of clips whose first, and last, frames are given, as of `WanDiT.prepare`."""
    tokens = [tokens_of(encoder, truth[:, :, at]) for at in ((0, -1) if has_last else (0,))]
    latents = vae.encode(given_video(truth, has_last=has_last), chunk_frames=0)
    mask = masks(latents, has_last=has_last)
    return {"image": torch.cat(tokens, 1), "latents": torch.cat([mask, latents], 1)}


def measure_pictures(
    model: MicroModel,
    pictures: Pictures,
    given: dict[str, Tensor],
    *,
    name: str,
    settings: Sampling | None = None,
    seed: int = 1000,
    sheet: Path | None = None,
) -> tuple[Measurement, float, float]:
    """(what the clips show, mean PSNR in dB of their first frames against the given pictures, and of their last ones).

    given: as of `conditions_of`, or from a training. The sheet shows the truth beside each clip.
    """
    clips = []
    for start in range(0, len(pictures.prompts), BATCH):
        part = slice(start, start + BATCH)
        prompts = pictures.prompts[part]
        seeds = range(seed + start, seed + start + len(prompts))
        rows = {key: tensor[part] for key, tensor in given.items()}
        latents = sample_latents(model, prompts, seeds, settings or Sampling(), rows)
        clips += [model.vae.decode(each, chunk_frames=0) for each in latents.split(4)]
    made = torch.cat(clips)
    measurement = Measurement(name, pictures.wanted, tuple(read_clip(clip) for clip in made))
    if sheet is not None:
        shown = SHEET_CLIPS // 2
        pairs = torch.stack([pictures.truth[:shown], made[:shown]], 1).flatten(0, 1)
        captions = [c for text in pictures.prompts[:shown] for c in ("given: " + text, "made")]
        write_sheet(sheet, pairs, captions)
    first, last = (psnr(made[:, :, at], pictures.truth[:, :, at]) for at in (0, -1))
    return measurement, first, last


def psnr(made: Tensor, truth: Tensor) -> float:
    """Mean over pictures [N,3,S,S] in [-1,1] of their PSNR in dB."""
    errors = (made - truth).div(2).square().mean((1, 2, 3))
    return float((-10 * errors.log10()).mean())


def gates_of(measurement: Measurement, first: float, last: float, *, has_last: bool) -> list[Gate]:
    """first, last: PSNR of the first and the last frames; the latter is held to a gate where they were given."""
    table = measurement.scores()
    gates = [
        Gate(f"{measurement.name}: {name}", table[name], least) for name, least in GATES.items()
    ]
    gates.append(Gate(f"{measurement.name}: PSNR of the first frame", first, FIRST_PSNR))
    if has_last:
        gates.append(Gate(f"{measurement.name}: PSNR of the last frame", last, LAST_PSNR))
    return gates


def evaluate_pictures(
    models: Mapping[str, MicroModel],
    encoder: CLIP,
    *,
    count: int = 64,
    sheets: Path | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Holds the models, "i2v" and "flf2v", to their gates. `sheets` is a folder for contact sheets."""
    pictures = heldout_pictures(count)
    gates: list[Gate] = []
    measurements: list[Measurement] = []
    for name, model in models.items():
        log(f"{count} held-out pictures, {name}")
        has_last = name == "flf2v"
        given = conditions_of(pictures.truth, model.vae, encoder, has_last=has_last)
        sheet = sheets / f"{name}.png" if sheets else None
        measurement, first, last = measure_pictures(model, pictures, given, name=name, sheet=sheet)
        gates += gates_of(measurement, first, last, has_last=has_last)
        measurements.append(measurement)
    return Evaluation(gates, measurements)
