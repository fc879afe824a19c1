"""The models of a run, and its latents after each step, without a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.components.choice import settle
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.components.providers import umt5, wan_dit, wan_vae
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.models.diffusion.wandit import WanDiT
from engine.models.text_encoders.t5 import UMT5
from engine.models.vae.wanvae import WanVAE
from engine.reports import Control
from engine.results import MemoryResults
from engine.tasks.route import route_of
from engine.tasks.wan import latents_of
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.index.index import open_index
from store.lineage.records import LinkRecord


@dataclass(frozen=True)
class Loaded:
    spec: RunSpec
    umt5: UMT5
    dit: WanDiT
    vae: WanVAE


def load(preset: str, overrides: list[str] | None = None) -> Loaded:
    spec = settle(load_preset(preset, overrides or []))
    parts = spec.components
    return Loaded(
        spec, umt5.load(parts.text_encoder), wan_dit.load(parts.denoiser), wan_vae.load(parts.vae)
    )


def denoised(spec: RunSpec, root: Path, steps: int | None = None) -> list[Tensor]:
    """The latents after each of the first `steps` steps. root: of a store, for its index."""
    found: list[Tensor] = []

    def on_link(link: LinkRecord, stage: str, index: int, latents: Any) -> None:
        if stage == "step":
            found.append(latents)

    residents = Residents()
    with open_index(root) as index:
        describe = Descriptions(index)
        execution = Execution(
            {"latents": latents_of(route_of(spec), describe, stop_at=steps)},
            MemoryResults(on_link),
            describe,
            lambda: residents,
            Control(lambda event: None, lambda: None),
            Keeping(),
        )
        execution.run(execution.plan())
    return found
