"""Trains the image-to-video sibling from the weights of the text-to-video model, whose text encoder and VAE it shares.

Every other step gives the first frame alone, the others the first and the last: one training serves both models. What
tells the tokens of the last picture from those of the first is learnt beside it (`emb_pos` of the published model);
those of the first are left as they are, so that the same weights without it take one picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.diffusion.wandit import WanDiT
from engine.models.text_encoders.t5 import UMT5
from examples.micro.model.architecture import MAX_TOKENS, DiTShape, build_picture_dit, encode_text
from examples.micro.model.tokenizer import build_tokenizer, tokenize
from examples.micro.pictures.given_frames import Given, GivenSet, masks
from examples.micro.training.checkpoint import load_checkpoint, save_checkpoint
from examples.micro.training.loop import (
    Progress,
    WeightAverage,
    copy_weights,
    learning_rate_factor,
    optimizer_state,
    require_finite,
    restore_optimizers,
    set_learning_rate,
    step_randomness,
)
from examples.micro.training.muon import Muon
from examples.micro.training.parallel import Rank, average_gradients, share_from_lead
from examples.micro.training.train_dit import DiTTraining, captions, loss_weights, sample_sigmas

WARM_STEPS = 10_000  # where the average counts from: the weights are trained ones
LAST = "last_positions"  # the name of what is learnt of the last picture's tokens


@dataclass(slots=True)
class PictureModel:
    """dit: trained. last: [1, 257, width], added to the tokens of the last picture. text_encoder: left as it is."""

    dit: WanDiT
    last: nn.Parameter
    text_encoder: UMT5

    def parameters(self) -> dict[str, nn.Parameter]:
        return {**dict(self.dit.named_parameters()), LAST: self.last}

    def conditions(self, batch: Given, *, has_last: bool) -> dict[str, Tensor]:
        """ "image" and "latents" of a batch, as of `WanDiT.prepare`."""
        shown = batch.last if has_last else batch.first
        tokens = batch.first_tokens
        if has_last:
            tokens = torch.cat([tokens, batch.last_tokens + self.last], dim=1)
        mask = masks(shown, has_last=has_last)
        return {"image": tokens, "latents": torch.cat([mask, shown], dim=1)}


def train_i2v(
    rank: Rank,
    settings: DiTTraining,
    data: GivenSet,
    out: Path,
    dit: WanDiT,
    text_encoder: UMT5,
    *,
    resume: bool = False,
    log: Callable[[str], None] = lambda line: None,
    on_save: Callable[[PictureModel, Progress], None] | None = None,
) -> None:
    """Trains and writes `out`; with `resume` goes on from it. dit: the text-to-video model to begin from. `on_save`
    runs at every checkpoint, with the averaged weights in place."""
    torch.manual_seed(settings.seed)
    data.refresh()
    sibling = build_picture_dit(dit, DiTShape())
    last = nn.Parameter(0.02 * torch.randn(1, 257, sibling.config.image_dim))
    model = PictureModel(sibling, last, text_encoder)
    parameters = model.parameters()
    saved = load_checkpoint(out, "i2v") if resume else None
    if saved is not None:
        copy_weights(saved["raw"], parameters)
    share_from_lead(rank, parameters.values())
    average = WeightAverage(parameters, settings.ema_decay)
    optimizers = _optimizers(model, settings)
    progress = Progress(rank)
    if saved is not None:
        average.restore(saved["ema"])
        restore_optimizers(optimizers, saved["optimizer"])
        progress.restore(saved["progress"])

    def save() -> None:
        if rank.leads:
            raw = {name: p.detach().clone() for name, p in parameters.items()}
            require_finite(raw, progress)
            content: dict[str, Any] = {
                "ema": dict(average.averaged),
                "raw": raw,
                "optimizer": optimizer_state(optimizers),
                "progress": progress.as_dict(),
            }
            save_checkpoint(out, "i2v", content)
            if on_save is not None:
                with average.in_place(), torch.no_grad():
                    on_save(model, progress)
        progress.start_clock()

    tokenizer = build_tokenizer()
    velocity = _velocity(sibling, compiled=settings.compile)
    rest = optimizers[0].param_groups[0]["params"]
    losses: list[tuple[float, bool]] = []
    next_report, next_save = (
        progress.seconds + every for every in (settings.report_seconds, settings.save_seconds)
    )
    clocked = progress.step
    while (spent := settings.budget.spent(progress.seconds, progress.step)) < 1:
        if progress.step % settings.refresh_steps == 0:
            data.refresh()
        rng, noise_rng = step_randomness(settings.seed, rank, progress.step)
        has_last = progress.step % 2 == 1
        batch = data.sample(settings.batch, rng)
        ids, lengths = tokenize(tokenizer, captions(batch.attributes, rng), MAX_TOKENS)
        with torch.no_grad():
            text = encode_text(text_encoder.model, ids, lengths)
        sigma = sample_sigmas(settings.batch, noise_rng, settings)
        wide = sigma.view(-1, 1, 1, 1, 1)
        noise = torch.randn(batch.latents.shape, generator=noise_rng)
        given = model.conditions(batch, has_last=has_last)
        predicted = velocity(
            torch.lerp(batch.latents, noise, wide), sigma * 1000, {"text": text, **given}, lengths
        )
        error = (predicted - (noise - batch.latents)).square()
        loss = (error * loss_weights(batch.latents, wide, settings)).mean()
        rate = learning_rate_factor(
            progress.step, spent, warmup_steps=settings.warmup_steps, flat=settings.flat
        )
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            set_learning_rate(optimizer, rate)
        loss.backward()
        average_gradients(rank, parameters.values())
        nn.utils.clip_grad_norm_(rest, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        average.update(progress.step + WARM_STEPS)
        losses.append((float(error.detach().mean()), has_last))
        if progress.step < clocked + 2:  # compilation, of either kind of step, is not training time
            progress.start_clock()
        progress.tick(settings.batch)
        if progress.seconds >= next_report:
            _report(losses, progress, len(data.attributes), log)
            losses.clear()
            next_report += settings.report_seconds
        if progress.seconds >= next_save:
            save()
            next_save += settings.save_seconds
    save()


def _optimizers(model: PictureModel, settings: DiTTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for p in model.dit.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters().values() if id(p) not in chosen]
    adam = torch.optim.AdamW(
        [{"params": rest, "peak_lr": settings.adam_lr}], lr=0.0, betas=(0.9, 0.98), weight_decay=0.0
    )
    muon = Muon(
        [{"params": matrices, "peak_lr": settings.muon_lr}], lr=settings.muon_lr, weight_decay=0.01
    )
    return [adam, muon]


def _velocity(dit: WanDiT, *, compiled: bool) -> Callable[..., Tensor]:
    def velocity(
        noisy: Tensor, timestep: Tensor, conditions: dict[str, Tensor], lengths: Tensor
    ) -> Tensor:
        result: Tensor = dit(noisy, timestep, dit.prepare(conditions, lengths=lengths))
        return result

    return torch.compile(velocity, dynamic=False) if compiled else velocity


def _report(
    losses: list[tuple[float, bool]], progress: Progress, clips: int, log: Callable[[str], None]
) -> None:
    means = []
    for wanted in (False, True):
        kind = [loss for loss, has_last in losses if has_last == wanted]
        means.append(sum(kind) / max(1, len(kind)))
    log(
        f"{progress.seconds / 60:.1f} min  step {progress.step}  samples {progress.samples}  "
        f"first {means[0]:.4f}  first and last {means[1]:.4f}  "
        f"{progress.samples / max(progress.seconds, 1e-9):.0f} samples/s  clips {clips}"
    )
