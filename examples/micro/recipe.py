"""The whole recipe from nothing: every phase in its order, with the gates between, in one folder.

Each phase leaves a checkpoint, and a phase that has spent its budget is not run again, so the recipe can be stopped
and started at any time. The phases are the functions that the single commands call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.models.vae.wanvae import WanVAE
from examples.micro.measures.checks import DevelopmentCheck, RoundTripCheck
from examples.micro.measures.evaluate import Evaluation, evaluate, measure_round_trip, vae_gates
from examples.micro.measures.report import evaluation_report
from examples.micro.measures.sampling import load_exported
from examples.micro.model.architecture import DiTShape, VAEShape, build_vae
from examples.micro.model.export import export_weights
from examples.micro.training.checkpoint import load_checkpoint
from examples.micro.training.encode import Encoding, encode_clips
from examples.micro.training.loop import Budget, copy_weights
from examples.micro.training.parallel import launch
from examples.micro.training.train_dit import DiTTraining, train_dit
from examples.micro.training.train_vae import PHASES, VAETraining, train_vae

VAE_FILES = {"curriculum": "vae-curriculum.pt", "joint": "vae-joint.pt", "decoder": "vae.pt"}
Log = Callable[[str], None]


class GateMissed(Exception):
    """A measured score is below its gate."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of every phase, and how much is measured."""

    vae: tuple[VAETraining, ...] = tuple(PHASES.values())
    encoding: Encoding = field(default_factory=lambda: Encoding(clips=5120))
    dit: DiTTraining = field(default_factory=lambda: DiTTraining(budget=Budget(5400.0)))
    vae_shape: VAEShape = field(default_factory=VAEShape)
    dit_shape: DiTShape = field(default_factory=DiTShape)
    round_trips: int = 96
    prompts: int = 64
    check_clips: int = 24

    def paced(self, factor: float) -> Recipe:
        """The same with all training times multiplied; below 1 with fewer encoded clips, too."""
        vae = tuple(replace(phase, budget=phase.budget.scaled(factor)) for phase in self.vae)
        clips = max(1, round(self.encoding.clips * min(1.0, factor)))
        return replace(
            self,
            vae=vae,
            encoding=replace(self.encoding, clips=clips),
            dit=replace(self.dit, budget=self.dit.budget.scaled(factor)),
        )


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    ranks: int,
    device: str,
    ignore_gates: bool = False,
    log: Log = lambda line: None,
) -> Evaluation:
    """Trains, measures and exports into `folder`/weights. `log` must be picklable with several ranks.

    Raises GateMissed when the VAE, before any time goes into the transformer, or the finished
    model is not good enough; with `ignore_gates` it only says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vae, latents, dit = folder / VAE_FILES["decoder"], folder / "latents", folder / "dit.pt"
    paths = [folder / VAE_FILES[phase.phase] for phase in recipe.vae]
    for index, phase in enumerate(recipe.vae):
        if any(later.exists() for later in paths[index + 1 :]):
            continue  # more of it would not reach the phases that started from it
        init = paths[index - 1] if index else None
        _train_vae_phase(recipe, phase, paths[index], init, ranks=ranks, device=device, log=log)
    if not dit.exists():  # else the VAE passed before the transformer was begun
        _hold_vae_to_gates(vae, recipe.round_trips, folder, ignore_gates=ignore_gates, log=log)
    log("encode")
    work = partial(encode_clips, settings=recipe.encoding, vae=vae, out=latents, log=log)
    launch(work, ranks=ranks, device=device)
    if not _is_finished(dit, "dit", recipe.dit.budget):
        log("train the transformer and the text encoder")
        launch(
            partial(
                train_dit,
                settings=recipe.dit,
                latents=latents,
                out=dit,
                shape=recipe.dit_shape,
                resume=dit.exists(),
                log=log,
                on_save=DevelopmentCheck(vae, folder / "dit.png", log, recipe.check_clips),
            ),
            ranks=ranks,
            device=device,
        )
    return _export_and_measure(recipe, folder, vae, dit, ignore_gates=ignore_gates, log=log)


def _train_vae_phase(
    recipe: Recipe,
    settings: VAETraining,
    out: Path,
    init: Path | None,
    *,
    ranks: int,
    device: str,
    log: Log,
) -> None:
    if _is_finished(out, "vae", settings.budget):
        return
    log(f"train the VAE: {settings.phase}")
    work = partial(
        train_vae,
        settings=settings,
        out=out,
        shape=recipe.vae_shape,
        init=init,
        resume=out.exists(),
        log=log,
        on_save=RoundTripCheck(out.with_suffix(".png"), log, recipe.check_clips),
    )
    launch(work, ranks=ranks, device=device)


def _is_finished(path: Path, kind: str, budget: Budget) -> bool:
    if not path.exists():
        return False
    progress = load_checkpoint(path, kind)["progress"]
    return budget.spent(progress["seconds"], progress["step"]) >= 1


def _hold_vae_to_gates(
    path: Path, clips: int, folder: Path, *, ignore_gates: bool, log: Log
) -> None:
    log("the VAE's gates")
    vae = trained_vae(load_checkpoint(path, "vae"))
    measurement = measure_round_trip(vae, clips=clips, sheet=folder / "sheets" / "vae.png")
    evaluation = Evaluation(vae_gates(measurement), [measurement])
    log(evaluation_report(evaluation))
    _demand(evaluation, ignore_gates=ignore_gates)


def trained_vae(checkpoint: dict[str, Any]) -> WanVAE:
    """The averaged VAE of a training checkpoint, for inference."""
    vae = build_vae(VAEShape(**checkpoint["model"]))
    copy_weights(checkpoint["ema"], dict(vae.named_parameters()))
    return vae.eval().requires_grad_(requires_grad=False)


def _export_and_measure(
    recipe: Recipe, folder: Path, vae: Path, dit: Path, *, ignore_gates: bool, log: Log
) -> Evaluation:
    checkpoints = load_checkpoint(vae, "vae"), load_checkpoint(dit, "dit")
    weights = folder / "weights"
    size = export_weights(*checkpoints, weights)
    log(f"{weights}: {size / 1e6:.1f} MB")
    evaluation = evaluate(
        load_exported(weights),
        prompts=recipe.prompts,
        clips=recipe.round_trips,
        sheets=folder / "sheets",
        beyond_failure=ignore_gates,
        log=log,
    )
    figures = evaluation.as_dict()
    text = json.dumps(figures, indent=2) + "\n"
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    export_weights(*checkpoints, weights, evaluation=figures)  # again, with the figures in the card
    log(evaluation_report(evaluation))
    _demand(evaluation, ignore_gates=ignore_gates)
    return evaluation


def _demand(evaluation: Evaluation, *, ignore_gates: bool) -> None:
    missed = [str(gate) for gate in evaluation.gates if not gate.holds]
    if missed and not ignore_gates:
        raise GateMissed(
            f"{'; '.join(missed)}. Train longer: start again with a larger pace and the trainings go on"
        )
