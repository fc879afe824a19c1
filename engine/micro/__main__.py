"""The recipe's command line: `python -m engine.micro COMMAND`, each with --help."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from engine.micro.checkpoint import load_checkpoint
from engine.micro.encode import Encoding, encode_clips
from engine.micro.evaluate import DevelopmentCheck, evaluate, load_checkpoints
from engine.micro.export import export_weights, read_weights
from engine.micro.parallel import launch
from engine.micro.train_dit import DiTTraining, train_dit
from engine.micro.training import Budget

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
RANKS = click.option("--ranks", default=1, help="Processes; one per CPU core is fastest.")
DEVICE = click.option("--device", default="auto", help="auto, cpu or cuda.")


def narrate(line: str) -> None:
    """Progress goes to stderr; stdout stays free for data."""
    click.echo(line, err=True)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Trains the micro model from nothing, measures it and writes it out."""


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
@click.option("--vae", type=FILE, default=Path("vae.pt"), help="For the clips of the progress check.")
@click.option("--out", type=FILE, default=Path("dit.pt"), help="Checkpoint, rewritten as it goes.")
@click.option("--init", type=FILE, help="Checkpoint whose weights to start from.")
@click.option("--resume", is_flag=True, help="Go on from --out, within the same budget.")
@click.option("--seconds", default=3600.0, help="Training time, all sessions together; 0: no limit.")
@click.option("--steps", default=0, help="Steps, all sessions together; 0: no limit.")
@click.option("--batch", default=DiTTraining.batch, help="Clips per rank and step.")
@click.option("--muon-lr", default=DiTTraining.muon_lr)
@click.option("--adam-lr", default=DiTTraining.adam_lr)
@click.option("--flat", default=DiTTraining.flat, help="Share of the budget before the decay.")
@click.option("--ema-decay", default=DiTTraining.ema_decay)
@click.option("--object-weight", default=DiTTraining.object_weight)
@click.option("--first-frame-weight", default=DiTTraining.first_frame_weight)
@click.option("--seed", default=DiTTraining.seed)
@click.option("--save-seconds", default=DiTTraining.save_seconds, help="Between checkpoints.")
@click.option("--check-prompts", default=24, help="Prompts of the progress check; 0: none.")
@click.option("--compile/--no-compile", "compiled", default=True)
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
    batch: int,
    muon_lr: float,
    adam_lr: float,
    flat: float,
    ema_decay: float,
    object_weight: float,
    first_frame_weight: float,
    seed: int,
    save_seconds: float,
    check_prompts: int,
    compiled: bool,
    ranks: int,
    device: str,
) -> None:
    """Train the transformer and the text encoder on latent shards."""
    settings = DiTTraining(
        budget=Budget(seconds, steps),
        batch=batch,
        muon_lr=muon_lr,
        adam_lr=adam_lr,
        flat=flat,
        ema_decay=ema_decay,
        object_weight=object_weight,
        first_frame_weight=first_frame_weight,
        seed=seed,
        save_seconds=save_seconds,
        compile=compiled,
    )
    sheet = out.with_suffix(".png")
    check = DevelopmentCheck(vae, sheet, narrate, check_prompts) if check_prompts else None
    work = partial(
        train_dit,
        settings=settings,
        latents=latents,
        out=out,
        init=init,
        resume=resume,
        log=narrate,
        on_save=check,
    )
    launch(work, ranks=ranks, device=device)


@main.command("evaluate")
@click.option("--weights", type=FOLDER, help="Exported folder; instead of --vae and --dit.")
@click.option("--vae", type=FILE, default=Path("vae.pt"))
@click.option("--dit", type=FILE, default=Path("dit.pt"))
@click.option("--prompts", default=64)
@click.option("--clips", default=96, help="Clips of the VAE round trip.")
@click.option("--sheets", type=FOLDER, help="Folder for contact sheets.")
@click.option("--threads", default=1, help="CPU threads.")
def evaluate_command(
    weights: Path | None,
    vae: Path,
    dit: Path,
    prompts: int,
    clips: int,
    sheets: Path | None,
    threads: int,
) -> None:
    """Hold the model to its gates: VAE round trip first, then held-out prompts."""
    import torch

    torch.set_num_threads(threads)
    parts = read_weights(weights) if weights else load_checkpoints(vae, dit)
    gates = evaluate(parts, prompts=prompts, clips=clips, sheets=sheets, log=narrate)
    if not all(gate.holds for gate in gates):
        raise SystemExit(1)


@main.command("export")
@click.option("--vae", type=FILE, default=Path("vae.pt"))
@click.option("--dit", type=FILE, default=Path("dit.pt"))
@click.option("--out", type=FOLDER, required=True, help="Folder for the shipped files.")
def export_command(vae: Path, dit: Path, out: Path) -> None:
    """Write the model as bf16 safetensors under the published key names."""
    size = export_weights(load_checkpoint(vae, "vae"), load_checkpoint(dit, "dit"), out)
    narrate(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
