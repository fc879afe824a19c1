"""The recipe's commands."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.models.vae.tiny_decoder import FILE as TINY_DECODER_FILE
from examples.micro.measures.checks import DevelopmentCheck, RoundTripCheck
from examples.micro.measures.evaluate import evaluate
from examples.micro.measures.report import evaluation_report
from examples.micro.measures.sampling import load_exported
from examples.micro.model.architecture import DiTShape, VAEShape
from examples.micro.model.export import export_weights
from examples.micro.model.tiny_decoder import fit_tiny_decoder, write_tiny_decoder
from examples.micro.narration import narrate
from examples.micro.pictures.commands import pictures
from examples.micro.recipe import Recipe, run_recipe
from examples.micro.training.checkpoint import load_checkpoint
from examples.micro.training.encode import Encoding, encode_clips
from examples.micro.training.loop import Budget
from examples.micro.training.parallel import launch
from examples.micro.training.train_dit import DiTTraining, train_dit
from examples.micro.training.train_vae import PHASES, train_vae

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
RANKS = click.option("--ranks", default=1, help="Processes; one per CPU core is fastest.")
DEVICE = click.option("--device", default="auto", help="auto, cpu or cuda.")
COMPILE = click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile.")


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Trains the micro model from nothing, measures it and writes it out."""


@main.command("all")
@click.option("--out", type=FOLDER, default=Path("micro"), help="Folder of everything it makes.")
@click.option("--pace", default=1.0, help="Multiplies all training times (2.6 hours at 1).")
@click.option("--ignore-gates", is_flag=True, help="Go on, and export, whatever the scores.")
@COMPILE
@RANKS
@DEVICE
def all_command(
    out: Path, pace: float, ignore_gates: bool, compiled: bool, ranks: int, device: str
) -> None:
    """The whole recipe from nothing, in order, with the gates between; run again to go on."""
    recipe = Recipe().paced(pace)
    recipe = replace(recipe, dit=replace(recipe.dit, compile=compiled))
    run_recipe(recipe, out, ranks=ranks, device=device, ignore_gates=ignore_gates, log=narrate)


@main.command("train-vae")
@click.option("--out", type=FILE, default=Path("vae.pt"), help="Checkpoint, rewritten as it goes.")
@click.option("--init", type=FILE, help="Finetune this checkpoint; without it, from nothing.")
@click.option(
    "--freeze-encoder", is_flag=True, help="Finetune the decoder only, latents stay valid."
)
@click.option("--resume", is_flag=True, help="Go on from --out, within the same budget.")
@click.option("--seconds", type=float, help="Training time, all sessions together; 0: no limit.")
@click.option("--steps", type=int, help="Steps, all sessions together; 0: no limit.")
@click.option("--dim", default=VAEShape().dim, help="Width, of a VAE from nothing.")
@click.option("--batch", type=int, help="Multiplies the clips of every step.")
@click.option("--muon-lr", type=float)
@click.option("--adam-lr", type=float)
@click.option("--ema-decay", type=float)
@click.option("--kl-weight", type=float)
@click.option("--edge-weight", type=float, help="Extra weight of pixels at edges.")
@click.option("--gradient-weight", type=float, help="Weight of the loss of spatial gradients.")
@click.option("--latent-noise", type=float, help="Share of the latents' standard deviation.")
@click.option("--star-share", type=float, help="Extra share of stars, most of them small.")
@click.option("--seed", type=int)
@click.option("--save-seconds", type=float, help="Between checkpoints.")
@click.option("--check-clips", default=24, help="Clips of the progress check; 0: none.")
@RANKS
@DEVICE
def train_vae_command(
    out: Path,
    init: Path | None,
    freeze_encoder: bool,
    resume: bool,
    dim: int,
    check_clips: int,
    seconds: float | None,
    steps: int | None,
    ranks: int,
    device: str,
    **changes: Any,
) -> None:
    """Train the VAE: from nothing, or (--init) both halves, or (--init --freeze-encoder) the decoder.

    What is not given is the phase's own default.
    """
    phase = "decoder" if freeze_encoder else "joint" if init else "curriculum"
    if resume:
        phase = load_checkpoint(out, "vae").get("phase", phase)
    settings = PHASES[phase]
    if seconds is not None or steps is not None:
        settings = replace(settings, budget=Budget(seconds or 0.0, steps or 0))
    settings = replace(settings, **{n: value for n, value in changes.items() if value is not None})
    check = RoundTripCheck(out.with_suffix(".png"), narrate, check_clips) if check_clips else None
    work = partial(
        train_vae,
        settings=settings,
        out=out,
        shape=VAEShape(dim=dim),
        init=init,
        resume=resume,
        log=narrate,
        on_save=check,
    )
    launch(work, ranks=ranks, device=device)


@main.command()
@click.option("--vae", type=FILE, default=Path("vae.pt"), help="VAE checkpoint.")
@click.option("--out", type=FOLDER, default=Path("latents"), help="Folder of the shards.")
@click.option("--clips", default=Encoding.clips, help="Clips in all; existing shards count.")
@click.option("--seed", default=Encoding.seed)
@click.option("--swap-share", default=Encoding.swap_share, help="Extra share of colour swaps.")
@RANKS
@DEVICE
def encode(
    vae: Path, out: Path, clips: int, seed: int, swap_share: float, ranks: int, device: str
) -> None:
    """Render clips and encode them into latent shards."""
    settings = Encoding(clips=clips, seed=seed, swap_share=swap_share)
    work = partial(encode_clips, settings=settings, vae=vae, out=out, log=narrate)
    launch(work, ranks=ranks, device=device)


@main.command("train-dit")
@click.option("--latents", type=FOLDER, default=Path("latents"), help="Folder of the shards.")
@click.option("--vae", type=FILE, default=Path("vae.pt"), help="For the progress check's clips.")
@click.option("--out", type=FILE, default=Path("dit.pt"), help="Checkpoint, rewritten as it goes.")
@click.option("--init", type=FILE, help="Checkpoint whose weights to start from.")
@click.option("--resume", is_flag=True, help="Go on from --out, within the same budget.")
@click.option("--seconds", default=3600.0, help="Training time, all sessions together; 0: none.")
@click.option("--steps", default=0, help="Steps, all sessions together; 0: no limit.")
@click.option("--dim", default=DiTShape().dim, help="Width, of a transformer from nothing.")
@click.option("--layers", default=DiTShape().num_layers, help="Its layers.")
@click.option("--batch", default=DiTTraining.batch, help="Clips per rank and step.")
@click.option("--muon-lr", default=DiTTraining.muon_lr)
@click.option("--adam-lr", default=DiTTraining.adam_lr)
@click.option("--flat", default=DiTTraining.flat, help="Share of the budget before the decay.")
@click.option("--ema-decay", default=DiTTraining.ema_decay)
@click.option("--object-weight", default=DiTTraining.object_weight)
@click.option("--first-frame-weight", default=DiTTraining.first_frame_weight)
@click.option("--text-warmup-seconds", default=DiTTraining.text_warmup_seconds)
@click.option("--seed", default=DiTTraining.seed)
@click.option("--save-seconds", default=DiTTraining.save_seconds, help="Between checkpoints.")
@click.option("--check-prompts", default=24, help="Prompts of the progress check; 0: none.")
@COMPILE
@RANKS
@DEVICE
def train_dit_command(
    latents: Path,
    vae: Path,
    out: Path,
    init: Path | None,
    resume: bool,
    seconds: float,
    steps: int,
    dim: int,
    layers: int,
    check_prompts: int,
    compiled: bool,
    ranks: int,
    device: str,
    **settings: Any,
) -> None:
    """Train the transformer and the text encoder on latent shards."""
    check = None
    if check_prompts:
        check = DevelopmentCheck(vae, out.with_suffix(".png"), narrate, check_prompts)
    work = partial(
        train_dit,
        settings=DiTTraining(budget=Budget(seconds, steps), compile=compiled, **settings),
        latents=latents,
        out=out,
        shape=DiTShape(dim=dim, ffn_dim=4 * dim, num_heads=dim // 32, num_layers=layers),
        init=init,
        resume=resume,
        log=narrate,
        on_save=check,
    )
    launch(work, ranks=ranks, device=device)


@main.command("evaluate")
@click.option("--weights", type=FOLDER, help="Exported folder.  [default: the shipped weights]")
@click.option("--prompts", default=64, help="Held-out prompts; half as many paraphrases, twice.")
@click.option("--clips", default=96, help="Clips of the VAE round trip.")
@click.option("--sheets", type=FOLDER, default=Path("sheets"), help="Folder for contact sheets.")
@click.option("--json", "record", type=FILE, help="Also write the figures here, for `export`.")
@click.option("--beyond-failure", is_flag=True, help="Go on to the prompts when the VAE fails.")
@click.option("--threads", default=0, help="CPU threads; 0: as many as torch takes.")
@click.option("--device", default="cpu", help="cpu or cuda.")
def evaluate_command(
    weights: Path | None,
    prompts: int,
    clips: int,
    sheets: Path,
    record: Path | None,
    beyond_failure: bool,
    threads: int,
    device: str,
) -> None:
    """Hold exported weights to the gates: VAE round trip first, then held-out prompts.

    Exits with 1 when a gate does not hold.
    """
    if threads:
        torch.set_num_threads(threads)
    folder = weights or locate("denoiser", BUILTIN_MICRO).parent
    evaluation = evaluate(
        load_exported(folder, device=device),
        prompts=prompts,
        clips=clips,
        sheets=sheets,
        beyond_failure=beyond_failure,
        log=narrate,
    )
    click.echo(evaluation_report(evaluation))
    if record:
        text = json.dumps(evaluation.as_dict(), indent=2) + "\n"
        record.write_text(text, encoding="utf-8")
    if not evaluation.holds:
        raise SystemExit(1)


@main.command("export")
@click.option("--vae", type=FILE, default=Path("vae.pt"))
@click.option("--dit", type=FILE, default=Path("dit.pt"))
@click.option("--out", type=FOLDER, required=True, help="Folder for the shipped files.")
@click.option("--gates", type=FILE, help="What `evaluate --json` wrote, for the model card.")
@click.option("--notes", type=FILE, help="Markdown for the card's account of the training.")
def export_command(vae: Path, dit: Path, out: Path, gates: Path | None, notes: Path | None) -> None:
    """Write the model as bf16 safetensors under the published key names, with its card."""
    size = export_weights(
        load_checkpoint(vae, "vae"),
        load_checkpoint(dit, "dit"),
        out,
        evaluation=json.loads(gates.read_text(encoding="utf-8")) if gates else None,
        notes=notes.read_text(encoding="utf-8") if notes else "",
    )
    narrate(f"{out}: {size / 1e6:.1f} MB")


@main.command("tiny-decoder")
@click.option("--weights", type=FOLDER, help="Exported folder.  [default: the shipped weights]")
@click.option("--clips", default=256, help="Clips to fit on; a quarter as many measure the fit.")
@click.option("--seed", default=0)
def tiny_decoder_command(weights: Path | None, clips: int, seed: int) -> None:
    """Fit what shows latents in previews to a VAE, and write it beside its weights."""
    folder = weights or locate("vae", BUILTIN_MICRO).parent
    fit = fit_tiny_decoder(load_exported(folder).vae, clips=clips, seed=seed)
    path = folder / TINY_DECODER_FILE
    write_tiny_decoder(path, fit, clips=clips, seed=seed)
    narrate(f"{path}: explains {fit.r_squared:.3f} of the variance")


main.add_command(pictures)
