"""Trains the causal video VAE: from nothing on ever longer crops, or on from trained weights.

Three phases: `curriculum` starts as an image VAE repeated over time and lengthens its clips; `joint` finetunes both
halves for edges; `decoder` finetunes the decoder alone on noisy latents, so that encoded latents stay valid. Every
step renders crops of its own near the object.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.micro.grammar import Attributes, sample_attributes
from engine.models.vae.wanvae import WanVAE
from examples.micro.model.architecture import VAEShape, build_vae
from examples.micro.training.checkpoint import load_checkpoint, save_checkpoint
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
from examples.micro.training.parallel import Rank, average_gradients, share_from_lead
from examples.micro.world import FRAME_SIZE, NUM_FRAMES, render

Phase = Literal["curriculum", "joint", "decoder"]

NARROW_WINDOW = 32
NARROW_FRAME_SIZES = (48, 64, 64, 80)  # so that a narrow window sees objects of several sizes
REVERSED_SHARE = 0.3  # of the clips that are cut short
SMALL_AMONG_STARS = 0.75  # of the over-sampled stars
EDGE_CONTRAST = 0.15  # between neighbouring pixels, where black to white is 2
# First and last layers; like norms and biases they belong to AdamW.
OUTER_LAYERS = ("encoder.conv1.", "decoder.conv1.", "decoder.head.2.")


@dataclass(frozen=True, slots=True)
class Crop:
    """What one step trains on: clips per rank, frames per clip, width of the window in pixels."""

    clips: int
    frames: int
    window: int


# Crops are taken in turn until the share of the budget before them is spent.
Schedule = tuple[tuple[float, tuple[Crop, ...]], ...]
CURRICULUM: Schedule = (
    (0.15, (Crop(16, 1, 32),)),
    (0.50, (Crop(5, 5, 32),)),
    (0.86, (Crop(4, 9, 32),)),
    (1.00, (Crop(2, 17, 48), Crop(2, 9, 64))),
)
FINETUNE: Schedule = ((1.00, (Crop(2, 9, 64), Crop(3, 5, 64), Crop(2, 17, 48))),)


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """Settings of one training run. Learning rates are peaks and fall linearly to zero.

    The loss is L1 + MSE + `kl_weight` * KL divergence; pixels at edges count `edge_weight` times
    extra, and the L1 between spatial gradients counts `gradient_weight`.
    """

    budget: Budget
    phase: Phase = "curriculum"
    batch: int = 1  # multiplies the clips of every crop
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    warmup_steps: int = 30
    ema_decay: float = 0.995
    kl_weight: float = 5e-4
    edge_weight: float = 0.0
    gradient_weight: float = 0.0
    latent_noise: float = 0.12  # at most, as a share of the latents' standard deviation
    star_share: float = 0.0  # extra share of stars, most of them small: the hardest shape
    seed: int = 1
    report_seconds: float = 60.0
    save_seconds: float = 180.0


# An annealed VAE diverges when Muon restarts at the curriculum's rate.
PHASES: Mapping[str, VAETraining] = MappingProxyType(
    {
        "curriculum": VAETraining(budget=Budget(900.0)),
        "joint": VAETraining(
            budget=Budget(1320.0),
            phase="joint",
            muon_lr=0.004,
            adam_lr=1e-3,
            kl_weight=2e-4,
            edge_weight=4.0,
            gradient_weight=1.0,
        ),
        "decoder": VAETraining(
            budget=Budget(1700.0),
            phase="decoder",
            muon_lr=0.006,
            adam_lr=1.5e-3,
            edge_weight=4.0,
            gradient_weight=1.0,
            latent_noise=0.1,
            star_share=0.4,
        ),
    }
)


def train_vae(
    rank: Rank,
    settings: VAETraining,
    out: Path,
    *,
    shape: VAEShape | None = None,
    init: Path | None = None,
    resume: bool = False,
    log: Callable[[str], None] = lambda line: None,
    on_save: Callable[[WanVAE, Progress], None] | None = None,
) -> None:
    """Trains and writes `out`. With `resume` goes on from `out`; `init` only lends its weights.

    `on_save` runs on rank 0 at every checkpoint, with the averaged weights in place. Raises
    ValueError where the phase does not fit the checkpoint, FloatingPointError on divergence.
    """
    torch.manual_seed(settings.seed)
    start = out if resume else init
    saved = load_checkpoint(start, "vae") if start else None
    _check_phase(settings.phase, saved, out=out, resume=resume)
    model = build_vae(VAEShape(**saved["model"]) if saved else shape or VAEShape())
    parameters = dict(model.named_parameters())
    if saved is not None:
        copy_weights(saved["raw" if resume else "ema"], parameters)
    if settings.phase == "decoder":
        model.encoder.requires_grad_(requires_grad=False)
        model.conv1.requires_grad_(requires_grad=False)
    model.to(rank.device)
    share_from_lead(rank, parameters.values())
    average = WeightAverage(parameters, settings.ema_decay)
    optimizers = _optimizers(parameters, settings)
    progress = Progress(rank)
    if resume and saved is not None:
        average.restore(saved["ema"])
        restore_optimizers(optimizers, saved["optimizer"])
        progress.restore(saved["progress"])
    history = earlier_trainings(saved, resume=resume)
    _Loop(rank, settings, model, average, optimizers, progress, history, out, log, on_save).run()


def _check_phase(phase: Phase, saved: dict[str, Any] | None, *, out: Path, resume: bool) -> None:
    if saved is None and phase != "curriculum":
        raise ValueError(
            f"the {phase} phase needs trained weights: give a checkpoint to start from"
        )
    if saved is not None and not resume and phase == "curriculum":
        raise ValueError("the curriculum starts from nothing; it takes no checkpoint to start from")
    if resume and saved is not None and saved.get("phase") != phase:
        raise ValueError(f"{out}: holds the {saved.get('phase')} phase, cannot go on with {phase}")


def _optimizers(
    parameters: Mapping[str, nn.Parameter], settings: VAETraining
) -> list[torch.optim.Optimizer]:
    """Muon for the convolution matrices inside the network, AdamW for the rest."""
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    matrices = {n for n, p in trained.items() if is_matrix(p) and not n.startswith(OUTER_LAYERS)}
    inner = {
        "params": [p for n, p in trained.items() if n in matrices],
        "peak_lr": settings.muon_lr,
    }
    rest = {
        "params": [p for n, p in trained.items() if n not in matrices],
        "peak_lr": settings.adam_lr,
    }
    return [
        torch.optim.AdamW([rest], lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        Muon([inner], lr=settings.muon_lr, steps=4),
    ]


def is_matrix(parameter: Tensor) -> bool:
    """Whether a weight is a kernel that mixes channels, not a bias or a norm's gain."""
    return parameter.ndim >= 4 and parameter[0].numel() > 1


@dataclass(slots=True)
class _Loop:
    rank: Rank
    settings: VAETraining
    model: WanVAE
    average: WeightAverage
    optimizers: list[torch.optim.Optimizer]
    progress: Progress
    history: list[dict[str, Any]]
    out: Path
    log: Callable[[str], None]
    on_save: Callable[[WanVAE, Progress], None] | None

    def run(self) -> None:
        settings, progress = self.settings, self.progress
        trained = [p for p in self.model.parameters() if p.requires_grad]
        losses: list[Tensor] = []
        next_report = progress.seconds + settings.report_seconds
        next_save = progress.seconds + settings.save_seconds
        progress.start_clock()
        while (spent := settings.budget.spent(progress.seconds, progress.step)) < 1:
            rng, noise_rng = step_randomness(settings.seed, self.rank, progress.step)
            crop = pick_crop(settings, spent, progress.step)
            video = render_crop(crop, rng, star_share=settings.star_share).to(
                self.rank.device, memory_format=torch.channels_last_3d
            )
            rate = learning_rate_factor(
                progress.step, spent, warmup_steps=settings.warmup_steps, flat=0.0
            )
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
                set_learning_rate(optimizer, rate)
            decoded, divergence = self._round_trip(video, noise_rng)
            reconstruction = reconstruction_loss(decoded, video, settings)
            (reconstruction + settings.kl_weight * divergence).backward()  # type: ignore[no-untyped-call]
            average_gradients(self.rank, trained)
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update(progress.step)
            losses.append(torch.stack([reconstruction.detach(), divergence.detach()]))
            progress.tick(crop.clips)
            if progress.seconds >= next_report:
                self._report(losses, crop)
                losses.clear()
                next_report += settings.report_seconds
            if progress.seconds >= next_save:
                self.save()
                next_save += settings.save_seconds
        if losses:
            self._report(losses, crop)
        self.save()

    def _round_trip(self, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The decoded video and the KL divergence per latent value; zero where the encoder rests."""
        frozen = self.settings.phase == "decoder"
        with torch.autocast(video.device.type, torch.bfloat16):
            with torch.set_grad_enabled(not frozen):
                mean, logvar = (moment.float() for moment in self.model.encode_moments(video))
            logvar = logvar.clamp(-20, 6)
            latents = mean
            if not frozen:
                latents = mean + _noise(mean, generator) * (0.5 * logvar).exp()
            level = torch.rand(len(mean), 1, 1, 1, 1, generator=generator).to(mean.device)
            level = level * self.settings.latent_noise * mean.detach().std()
            latents = latents + _noise(mean, generator) * level
            decoded = self.model.decode_raw(latents).float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return decoded, divergence

    def _report(self, losses: list[Tensor], crop: Crop) -> None:
        if self.rank.leads:
            reconstruction, divergence = torch.stack(losses).mean(0).tolist()
            p = self.progress
            self.log(
                f"{p.seconds / 60:.1f} min  step {p.step}  clips {p.samples}  "
                f"loss {reconstruction:.4f}  kl {divergence:.2f}  now {crop.frames} frames"
            )

    def save(self) -> None:
        if self.rank.leads:
            raw = {n: p.detach().cpu().clone() for n, p in self.model.named_parameters()}
            require_finite(raw, self.progress)
            phase = self.settings.phase
            content = {
                "model": asdict(VAEShape(dim=self.model.config.dim)),
                "phase": phase,
                "ema": {name: p.cpu() for name, p in self.average.averaged.items()},
                "raw": raw,
                "optimizer": optimizer_state(self.optimizers),
                "progress": self.progress.as_dict(),
                "history": [*self.history, {"phase": phase, **self.progress.as_dict()}],
            }
            save_checkpoint(self.out, "vae", content)
            if self.on_save is not None:
                with self.average.in_place(), torch.no_grad():
                    self.on_save(self.model, self.progress)
        self.progress.start_clock()


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)


def pick_crop(settings: VAETraining, spent: float, step: int) -> Crop:
    """The crop of a step when `spent` of the budget, 0 to 1, is used up."""
    schedule = CURRICULUM if settings.phase == "curriculum" else FINETUNE
    crops = next((crops for end, crops in schedule if spent < end), schedule[-1][1])
    crop = crops[step % len(crops)]
    return replace(crop, clips=crop.clips * settings.batch)


def render_crop(crop: Crop, rng: random.Random, *, star_share: float) -> Tensor:
    """Random clips [clips, 3, frames, window, window] in [-1, 1], held-out combinations included."""
    attributes = [sample_with_stars(rng, star_share) for _ in range(crop.clips)]
    size = rng.choice(NARROW_FRAME_SIZES) if crop.window == NARROW_WINDOW else FRAME_SIZE
    video = render(attributes, rng, size=size, window=crop.window)
    if crop.frames < NUM_FRAMES:
        start = rng.randrange(NUM_FRAMES - crop.frames + 1)
        video = video[:, :, start : start + crop.frames]
        if rng.random() < REVERSED_SHARE:
            video = video.flip(2)
    return video


def sample_with_stars(rng: random.Random, star_share: float) -> Attributes:
    """One combination of the world, with a `star_share` of them turned into stars."""
    attributes = sample_attributes(rng)
    if rng.random() < star_share:
        size = "small" if rng.random() < SMALL_AMONG_STARS else "large"
        attributes = replace(attributes, shape="star", size=size)
    return attributes


def reconstruction_loss(decoded: Tensor, video: Tensor, settings: VAETraining) -> Tensor:
    """L1 + MSE with weighted edges, and the L1 between spatial gradients. Videos [B, 3, T, H, W]."""
    error = decoded - video
    values = error.abs() + error.square()
    if settings.edge_weight > 0:
        values = values * (1 + settings.edge_weight * edge_mask(video))
    loss = values.mean()
    if settings.gradient_weight > 0:
        slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = loss + settings.gradient_weight * slopes
    return loss


def edge_mask(video: Tensor) -> Tensor:
    """1.0 at most one pixel from an edge of [B, 3, T, H, W], else 0: [B, 1, T, H, W]."""
    steepest = torch.zeros_like(video[:, :1])
    for dim in (-1, -2):
        step = video.diff(dim=dim).abs().amax(1, keepdim=True)
        for start in (0, 1):
            part = steepest.narrow(dim, start, step.shape[dim])
            part.copy_(torch.maximum(part, step))
    return F.max_pool3d((steepest > EDGE_CONTRAST).float(), (1, 3, 3), stride=1, padding=(0, 1, 1))
