"""Trains the diffusion transformer together with its text encoder on encoded clips.

Flow matching: x = (1 - sigma) * data + sigma * noise, the target is noise - data, the timestep 1000 * sigma. One
process per core with averaged gradients; a checkpoint every few minutes, from which the run goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.micro.grammar import (
    Attributes,
    attribute_indices,
    sample_training_attributes,
    tables,
    training_caption,
)
from engine.models.diffusion.wandit import WanDiT
from engine.models.text_encoders.t5 import UMT5Encoder
from examples.micro.model.architecture import (
    MAX_TOKENS,
    DiTShape,
    TextShape,
    build_dit,
    build_text_encoder,
    encode_text,
)
from examples.micro.model.tokenizer import build_tokenizer, tokenize
from examples.micro.training.checkpoint import load_checkpoint, save_checkpoint
from examples.micro.training.latents import LatentSet
from examples.micro.training.loop import (
    Budget,
    Progress,
    WeightAverage,
    copy_weights,
    earlier_trainings,
    learning_rate_factor,
    optimizer_state,
    require_finite,
    restore_optimizers,
    set_learning_rate,
    step_randomness,
)
from examples.micro.training.muon import Muon
from examples.micro.training.parallel import Rank, agree, average_gradients, share_from_lead

# What stands for "no prompt" besides the empty one: typical negative prompts must mean nothing in particular.
NEGATIVE_PROMPTS = (
    "blurry, low quality, distorted",
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量",
    "bad quality",
    "worst quality, static",
)
EMPTY_SHARE, NEGATIVE_SHARE = 0.06, 0.04
OBJECT_SIGMA = 0.7  # above it, weights read from the data would bias the mean prediction
OBJECT_THRESHOLD = 0.35
WARM_STEPS = 10_000  # where the average of a warm start counts from


@dataclass(frozen=True, kw_only=True)
class DiTTraining:
    """Settings of one training run. `batch` is per rank; learning rates are peaks."""

    budget: Budget
    batch: int = 32
    muon_lr: float = 0.01
    adam_lr: float = 1.5e-3
    warmup_steps: int = 60
    flat: float = 0.3  # share of the budget before the linear decay to zero
    ema_decay: float = 0.997
    object_weight: float = 1.0  # extra weight of the object's cells
    first_frame_weight: float = 1.0  # extra weight of the first latent frame
    uniform_share: float = 0.25  # of sigmas drawn uniformly; the rest is logit-normal, shifted
    sigma_shift: float = 2.0
    text_warmup_seconds: float = 20.0  # attribute classification before the joint training
    seed: int = 2
    compile: bool = True
    refresh_steps: int = 100
    report_seconds: float = 60.0
    save_seconds: float = 240.0


@dataclass(slots=True)
class TextToLatents:
    """The networks under training and the statistics that normalise their latents, [z, 1, 1, 1]."""

    dit: WanDiT
    text_encoder: UMT5Encoder
    latent_mean: Tensor
    latent_std: Tensor
    encoder: str = ""  # digest of the VAE encoder whose latents these are

    def parameters(self) -> dict[str, nn.Parameter]:
        """All parameters under original names, with `dit.` and `text.` in front."""
        named = {f"dit.{name}": p for name, p in self.dit.named_parameters()}
        return named | {f"text.{n}": p for n, p in self.text_encoder.named_parameters()}


def train_dit(
    rank: Rank,
    settings: DiTTraining,
    latents: Path,
    out: Path,
    *,
    shape: DiTShape | None = None,
    init: Path | None = None,
    resume: bool = False,
    log: Callable[[str], None] = lambda line: None,
    on_save: Callable[[TextToLatents, Progress], None] | None = None,
) -> None:
    """Trains and writes `out`. With `resume` goes on from `out`; `init` only lends its weights.

    `on_save` runs on rank 0 at every checkpoint, with the averaged weights in place.
    """
    torch.manual_seed(settings.seed)
    data = LatentSet(latents)
    data.refresh()
    start = out if resume else init
    saved = load_checkpoint(start, "dit") if start else None
    model = _build(data, shape or DiTShape(), saved)
    parameters = model.parameters()
    if saved is None and settings.text_warmup_seconds > 0:
        warm_up_text(rank, model.text_encoder, settings)
    share_from_lead(rank, parameters.values())
    share_from_lead(rank, (model.latent_mean, model.latent_std))
    for tensor_owner in (model.dit, model.text_encoder):
        tensor_owner.to(rank.device)
    average = WeightAverage(parameters, settings.ema_decay)
    optimizers = _optimizers(model, settings)
    progress = Progress(rank)
    if saved is not None:
        average.restore(saved["ema"])
    if resume and saved is not None:
        restore_optimizers(optimizers, saved["optimizer"])
        progress.restore(saved["progress"])
    warm = saved is not None and (not resume or bool(saved.get("warm", True)))
    history = earlier_trainings(saved, resume=resume)
    loop = _Loop(
        rank, settings, data, model, average, optimizers, progress, history, warm, out, log, on_save
    )
    loop.run()


def _build(data: LatentSet, shape: DiTShape, saved: dict[str, Any] | None) -> TextToLatents:
    mean, std = data.statistics()
    if saved is None:
        dit, text_encoder = build_dit(shape), build_text_encoder(TextShape())
    else:
        dit = build_dit(DiTShape(**saved["model"]))
        text_encoder = build_text_encoder(TextShape(**saved["text"]))
        # The statistics belong to the encoder: they change when the latents come from another one.
        if saved.get("encoder", "") == data.encoder:
            mean, std = saved["latent_mean"], saved["latent_std"]
    model = TextToLatents(
        dit, text_encoder, mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1), data.encoder
    )
    if saved is not None:
        copy_weights(saved["raw"], model.parameters())
    return model


def _optimizers(model: TextToLatents, settings: DiTTraining) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest, the text encoder at half its rate."""
    matrices = [p for p in model.dit.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.dit.parameters() if id(p) not in chosen]
    text = list(model.text_encoder.parameters())
    groups: list[dict[str, Any]] = [
        {"params": rest, "peak_lr": settings.adam_lr},
        {"params": text, "peak_lr": settings.adam_lr / 2},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    muon = Muon(
        [{"params": matrices, "peak_lr": settings.muon_lr}], lr=settings.muon_lr, weight_decay=0.01
    )
    return [adam, muon]


@dataclass(slots=True)
class _Loop:
    rank: Rank
    settings: DiTTraining
    data: LatentSet
    model: TextToLatents
    average: WeightAverage
    optimizers: list[torch.optim.Optimizer]
    progress: Progress
    history: list[dict[str, Any]]
    warm: bool  # started from trained weights: the average needs no warm-up of its own
    out: Path
    log: Callable[[str], None]
    on_save: Callable[[TextToLatents, Progress], None] | None

    def run(self) -> None:
        settings, progress = self.settings, self.progress
        tokenizer = build_tokenizer()
        mean, std = (
            t.to(self.rank.device) for t in (self.model.latent_mean, self.model.latent_std)
        )
        velocity = _velocity(self.model.dit, compiled=settings.compile)
        clipped = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        everything = list(self.model.parameters().values())
        losses: list[Tensor] = []
        next_report = progress.seconds + settings.report_seconds
        next_save = progress.seconds + settings.save_seconds
        first = True
        while (spent := settings.budget.spent(progress.seconds, progress.step)) < 1:
            if progress.step % settings.refresh_steps == 0:
                self.data.refresh()
            rng, noise_rng = step_randomness(settings.seed, self.rank, progress.step)
            clips, attributes = self.data.sample(settings.batch, rng)
            ids, lengths = tokenize(tokenizer, captions(attributes, rng), MAX_TOKENS)
            device = self.rank.device
            ids, lengths = ids.to(device), lengths.to(device)
            x0 = (clips.to(device) - mean) / std
            sigma = sample_sigmas(settings.batch, noise_rng, settings).to(device)
            noise = torch.randn(x0.shape, generator=noise_rng).to(device)
            wide = sigma.view(-1, 1, 1, 1, 1)
            context = encode_text(self.model.text_encoder, ids, lengths)
            predicted = velocity(torch.lerp(x0, noise, wide), sigma * 1000, context, lengths)
            error = (predicted - (noise - x0)).square()
            loss = (error * loss_weights(x0, wide, settings)).mean()
            rate = learning_rate_factor(
                progress.step, spent, warmup_steps=settings.warmup_steps, flat=settings.flat
            )
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
                set_learning_rate(optimizer, rate)
            loss.backward()
            average_gradients(self.rank, everything)
            nn.utils.clip_grad_norm_(clipped, 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update(progress.step + (WARM_STEPS if self.warm else 0))
            losses.append(error.detach().mean((1, 2, 3, 4)))
            losses[-1] = torch.stack([losses[-1], sigma])
            if first:  # compilation is not training time
                progress.start_clock()
                first = False
            progress.tick(settings.batch)
            if progress.seconds >= next_report:
                self._report(torch.cat(losses, 1))
                losses.clear()
                next_report += settings.report_seconds
            if progress.seconds >= next_save:
                self.save()
                next_save += settings.save_seconds
        if losses:
            self._report(torch.cat(losses, 1))
        self.save()

    def _report(self, losses: Tensor) -> None:
        """One line from per-sample losses and sigmas, [2, N]."""
        if not self.rank.leads:
            return
        loss, sigma = losses.cpu()
        high = sigma > 0.6
        p = self.progress
        self.log(
            f"{p.seconds / 60:.1f} min  step {p.step}  samples {p.samples}  loss {loss.mean():.4f}  "
            f"high {loss[high].mean():.4f}  low {loss[~high].mean():.4f}  "
            f"{p.samples / max(p.seconds, 1e-9):.0f} samples/s  clips {len(self.data.attributes)}"
        )

    def save(self) -> None:
        if self.rank.leads:
            model = self.model
            raw = {name: p.detach().cpu().clone() for name, p in model.parameters().items()}
            require_finite(raw, self.progress)
            content = {
                "model": asdict(DiTShape(**_sizes(model.dit))),
                "text": asdict(TextShape(vocab_size=model.text_encoder.config.vocab)),
                "latent_mean": model.latent_mean.flatten().clone(),
                "latent_std": model.latent_std.flatten().clone(),
                "encoder": model.encoder,
                "warm": self.warm,
                "ema": {name: p.cpu() for name, p in self.average.averaged.items()},
                "raw": raw,
                "optimizer": optimizer_state(self.optimizers),
                "progress": self.progress.as_dict(),
                "history": [*self.history, {"phase": "dit", **self.progress.as_dict()}],
            }
            save_checkpoint(self.out, "dit", content)
            if self.on_save is not None:
                with self.average.in_place(), torch.no_grad():
                    self.on_save(model, self.progress)
        self.progress.start_clock()


def _sizes(dit: WanDiT) -> dict[str, int]:
    config = dit.config
    return {name: getattr(config, name) for name in ("dim", "ffn_dim", "num_heads", "num_layers")}


def _velocity(dit: WanDiT, *, compiled: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def velocity(noisy: Tensor, timestep: Tensor, context: Tensor, lengths: Tensor) -> Tensor:
        result: Tensor = dit(noisy, timestep, dit.prepare({"text": context}, lengths=lengths))
        return result

    return torch.compile(velocity, dynamic=False) if compiled else velocity


def captions(attributes: Sequence[Attributes], rng: random.Random) -> list[str]:
    return [_caption(a, rng) for a in attributes]


def _caption(attributes: Attributes, rng: random.Random) -> str:
    kind = rng.random()
    if kind < EMPTY_SHARE:
        return ""
    if kind < EMPTY_SHARE + NEGATIVE_SHARE:
        return rng.choice(NEGATIVE_PROMPTS)
    return training_caption(attributes, rng)


def sample_sigmas(count: int, generator: torch.Generator, settings: DiTTraining) -> Tensor:
    """Noise levels [count] in (0, 1): a stratified uniform share, the rest shifted logit-normal.

    The logit-normal part spends its steps at middle and high noise, where shape and motion form.
    """
    uniform = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    shift = settings.sigma_shift
    shifted = shift * normal / (1 + (shift - 1) * normal)
    every = max(1, round(1 / settings.uniform_share)) if settings.uniform_share > 0 else count + 1
    return torch.where(torch.arange(count) % every == 0, uniform, shifted)


def loss_weights(x0: Tensor, sigma: Tensor, settings: DiTTraining) -> Tensor:
    """Weights of mean 1 per sample, broadcastable to x0 [B, z, f, h, w]; sigma is [B, 1, 1, 1, 1].

    Cells that differ from their frame's median (the object) count more where sigma is low, and
    the first latent frame counts more everywhere: it alone carries a single video frame.
    """
    median = x0.flatten(3).median(3).values[..., None, None]
    distance = (x0 - median).square().mean(1, keepdim=True).sqrt()
    is_object = distance > OBJECT_THRESHOLD * distance.amax((2, 3, 4), keepdim=True)
    weights = 1 + settings.object_weight * (is_object & (sigma < OBJECT_SIGMA)).float()
    frames = torch.ones(x0.shape[2], device=x0.device)
    frames[0] += settings.first_frame_weight
    weights = weights * frames[:, None, None]
    return weights / weights.mean((1, 2, 3, 4), keepdim=True)


def warm_up_text(rank: Rank, encoder: UMT5Encoder, settings: DiTTraining) -> None:
    """Teaches the text encoder to tell the attributes apart; the classifiers are thrown away."""
    heads = nn.ModuleList(nn.Linear(encoder.config.dim, len(table)) for table in tables())
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=2e-3)
    tokenizer = build_tokenizer()
    rng = random.Random(settings.seed)
    progress = Progress(Rank())
    while agree(rank, progress.seconds) < settings.text_warmup_seconds:
        attributes = [sample_training_attributes(rng) for _ in range(128)]
        captions = [training_caption(a, rng) for a in attributes]
        ids, lengths = tokenize(tokenizer, captions, MAX_TOKENS)
        pooled = encode_text(encoder, ids, lengths).sum(1) / lengths[:, None]
        targets = torch.tensor([attribute_indices(a) for a in attributes]).unbind(1)
        loss = torch.stack(
            [
                F.cross_entropy(head(pooled), target, label_smoothing=0.02)
                for head, target in zip(heads, targets, strict=True)
            ]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.tick(len(attributes))
