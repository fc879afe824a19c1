"""Trains the image encoder: to tell apart what a picture shows. The classifiers are thrown away."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.micro.grammar import attribute_indices, sample_training_attributes, tables
from engine.models.image_encoders.clip import CLIP, looked_at
from examples.micro.model.architecture import CLIPShape, build_image_encoder
from examples.micro.training.checkpoint import save_checkpoint
from examples.micro.training.loop import Budget, Progress, learning_rate_factor, set_learning_rate
from examples.micro.training.parallel import Rank
from examples.micro.world import render

SHOWN = 4  # of a picture's attributes: not its motion


@dataclass(frozen=True, kw_only=True)
class CLIPTraining:
    budget: Budget
    batch: int = 32
    lr: float = 1.5e-3
    seed: int = 5
    report_steps: int = 100


def train_clip(
    settings: CLIPTraining, out: Path, *, log: Callable[[str], None] = lambda line: None
) -> None:
    """Trains the image encoder and writes `out`. What leaves its last block but one, which is all that anybody reads,
    is what the classifiers see: the mean over the patches."""
    torch.manual_seed(settings.seed)
    shape = CLIPShape()
    encoder = build_image_encoder(shape)
    heads = nn.ModuleList(nn.Linear(shape.width, len(table)) for table in tables()[:SHOWN])
    trained = [*encoder.parameters(), *heads.parameters()]
    group = {"params": trained, "peak_lr": settings.lr}
    optimizer = torch.optim.AdamW([group], lr=0.0, weight_decay=0.01)
    rng = random.Random(settings.seed)
    progress = Progress(Rank())
    right = torch.zeros(SHOWN)
    while (spent := settings.budget.spent(progress.seconds, progress.step)) < 1:
        wanted = [sample_training_attributes(rng) for _ in range(settings.batch)]
        pictures = render(wanted, rng, num_frames=2, anywhere=0.5)[:, :, 0]
        pooled = tokens_of(encoder, pictures).mean(1)
        targets = torch.tensor([attribute_indices(each)[:SHOWN] for each in wanted]).unbind(1)
        told = [head(pooled) for head in heads]
        losses = [
            F.cross_entropy(scores, target, label_smoothing=0.02)
            for scores, target in zip(told, targets, strict=True)
        ]
        set_learning_rate(
            optimizer, learning_rate_factor(progress.step, spent, warmup_steps=50, flat=0.4)
        )
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        progress.tick(settings.batch)
        right += torch.tensor(
            [
                float((scores.argmax(1) == target).float().mean())
                for scores, target in zip(told, targets, strict=True)
            ]
        )
        if progress.step % settings.report_steps == 0:
            shares = " ".join(f"{share:.2f}" for share in (right / settings.report_steps).tolist())
            log(f"{progress.seconds:.0f} s  step {progress.step}  right: {shares}")
            right.zero_()
    content = {
        "model": asdict(shape),
        "ema": {name: p.detach().clone() for name, p in encoder.named_parameters()},
        "progress": progress.as_dict(),
    }
    save_checkpoint(out, "clip", content)


def tokens_of(encoder: CLIP, pictures: Tensor) -> Tensor:
    """pictures [B,3,S,S] in [-1,1] -> tokens [B,257,width]."""
    seen = torch.stack([looked_at(picture, encoder.side) for picture in pictures])
    tokens: Tensor = encoder.visual(seen)
    return tokens
