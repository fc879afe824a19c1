"""The commands of the image-to-video models: `python -m examples.micro pictures ...`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.components.providers import clip as image_encoder
from engine.models.image_encoders.clip import CLIP
from examples.micro.measures.report import evaluation_report
from examples.micro.measures.sampling import load_exported
from examples.micro.model.architecture import CLIPShape, build_image_encoder
from examples.micro.narration import narrate
from examples.micro.pictures.draw import draw_pictures
from examples.micro.pictures.evaluate import evaluate_pictures
from examples.micro.pictures.export import IMAGE_ENCODER_FILE, MODELS, export_pictures
from examples.micro.pictures.given_frames import GivenSet, encode_given
from examples.micro.pictures.train import train_i2v
from examples.micro.pictures.train_clip import CLIPTraining, train_clip
from examples.micro.training.checkpoint import load_checkpoint
from examples.micro.training.loop import Budget, copy_weights
from examples.micro.training.parallel import Rank, launch
from examples.micro.training.train_dit import DiTTraining
from presets.spec.components import ImageEncoderSpec

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
WEIGHTS = click.option(
    "--weights", type=FOLDER, help="Exported text-to-video model.  [default: the shipped weights]"
)


@click.group(context_settings={"show_default": True})
def pictures() -> None:
    """The image-to-video siblings, trained from an exported text-to-video model."""


@pictures.command("train-clip")
@click.option("--out", type=FILE, default=Path("clip.pt"))
@click.option("--seconds", default=100.0, help="Training time; 0: no limit.")
@click.option("--steps", default=0, help="Steps; 0: no limit.")
def train_clip_command(out: Path, seconds: float, steps: int) -> None:
    """Train the image encoder to tell what a picture shows."""
    train_clip(CLIPTraining(budget=Budget(seconds, steps)), out, log=narrate)


@pictures.command("encode")
@WEIGHTS
@click.option("--clip", type=FILE, default=Path("clip.pt"), help="Image encoder's checkpoint.")
@click.option("--out", type=FOLDER, default=Path("given"), help="Folder of the shards.")
@click.option("--shards", default=12, help="Shards of 256 clips, all together.")
@click.option("--begin", default=0, help="The first one to write, for several processes at once.")
def encode_command(weights: Path | None, clip: Path, out: Path, shards: int, begin: int) -> None:
    """Render clips, and encode them with their first and last frames."""
    vae = load_exported(_folder(weights)).vae
    encode_given(vae, trained_encoder(clip), out, shards=shards, begin=begin, log=narrate)


@pictures.command("train")
@WEIGHTS
@click.option("--given", type=FOLDER, default=Path("given"), help="Folder of the shards.")
@click.option("--out", type=FILE, default=Path("i2v.pt"), help="Checkpoint, rewritten as it goes.")
@click.option("--resume", is_flag=True, help="Go on from --out, within the same budget.")
@click.option("--seconds", default=4000.0, help="Training time, all sessions together; 0: none.")
@click.option("--steps", default=0, help="Steps, all sessions together; 0: no limit.")
@click.option("--batch", default=DiTTraining.batch)
@click.option("--compile/--no-compile", "compiled", default=True, help="torch.compile.")
@click.option("--ranks", default=1, help="Processes; one per CPU core is fastest.")
def train_command(
    weights: Path | None,
    given: Path,
    out: Path,
    resume: bool,
    seconds: float,
    steps: int,
    batch: int,
    compiled: bool,
    ranks: int,
) -> None:
    """Train the transformer; the text encoder stays as it is."""
    settings = DiTTraining(
        budget=Budget(seconds, steps), batch=batch, compile=compiled, muon_lr=0.007, adam_lr=1e-3, seed=21
    )  # fmt: skip
    work = partial(
        _trained, weights=_folder(weights), settings=settings, given=given, out=out, resume=resume
    )
    launch(work, ranks=ranks, device="cpu")


def _trained(
    rank: Rank, *, weights: Path, settings: DiTTraining, given: Path, out: Path, resume: bool
) -> None:
    model = load_exported(weights)
    train_i2v(
        rank, settings, GivenSet(given), out, model.dit, model.text_encoder, resume=resume, log=narrate
    )  # fmt: skip


@pictures.command("export")
@click.option("--clip", type=FILE, default=Path("clip.pt"))
@click.option("--i2v", type=FILE, default=Path("i2v.pt"))
@click.option("--out", type=FOLDER, required=True, help="Folder of the text-to-video model.")
def export_command(clip: Path, i2v: Path, out: Path) -> None:
    """Write the image encoder and both transformers as bf16 safetensors."""
    size = export_pictures(load_checkpoint(clip, "clip"), load_checkpoint(i2v, "i2v"), out)
    narrate(f"{out}: {size / 1e6:.1f} MB")


@pictures.command("evaluate")
@WEIGHTS
@click.option("--count", default=64, help="Held-out pictures.")
@click.option("--sheets", type=FOLDER, default=Path("sheets"), help="Folder for contact sheets.")
@click.option("--json", "record", type=FILE, help="Also write the figures here.")
def evaluate_command(weights: Path | None, count: int, sheets: Path, record: Path | None) -> None:
    """Hold both models to their gates: given frames kept, and what the prompt says done. Exits with 1 when one does
    not hold."""
    folder = _folder(weights)
    models = {name: load_exported(folder, dit=f"{name}/dit.safetensors") for name in MODELS}
    spec = ImageEncoderSpec(checkpoint=str(folder / IMAGE_ENCODER_FILE), device="cpu", dtype="fp32")
    evaluation = evaluate_pictures(
        models, image_encoder.load(spec), count=count, sheets=sheets, log=narrate
    )
    click.echo(evaluation_report(evaluation))
    if record:
        record.write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n", encoding="utf-8")
    if not evaluation.holds:
        raise SystemExit(1)


@pictures.command("draw")
@click.option("--out", type=FOLDER, default=Path("examples/pictures"), help="Folder for the PNGs.")
def draw_command(out: Path) -> None:
    """Draw the example pictures to begin from."""
    for path in draw_pictures(out):
        narrate(str(path))


def trained_encoder(path: Path) -> CLIP:
    """The image encoder of a training checkpoint."""
    saved = load_checkpoint(path, "clip")
    encoder = build_image_encoder(CLIPShape(**saved["model"]))
    copy_weights(saved["ema"], dict(encoder.named_parameters()))
    return encoder.requires_grad_(requires_grad=False).eval()


def _folder(weights: Path | None) -> Path:
    return (weights or locate("denoiser", BUILTIN_MICRO).parent).absolute()
