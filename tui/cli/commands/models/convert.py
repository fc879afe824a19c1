"""`modiff models convert`: one published layout into another."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import click

from tui.cli.output import echo_path
from tui.text import printable, shorten
from tui.units import duration

# engine.checkpoints.convert.LAYOUTS and DTYPES, repeated here because that module imports torch; held to it by a test
LAYOUTS = ("original", "diffusers", "comfyui", "gguf")
DTYPES = (
    "keep", "fp32", "bf16", "fp16", "fp8_e4m3fn", "fp8_scaled", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0",
)  # fmt: skip
_SECONDS_BETWEEN_LINES = 0.1


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--layout", type=click.Choice(LAYOUTS), required=True, help="Whose names and packaging."
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="keep",
    show_default=True,
    help="How numbers are stored.",
)
@click.option(
    "--shard-size", type=click.FloatRange(min=0.001), default=10.0, show_default=True, metavar="GB",
    help="Largest file of a sharded layout.",
)  # fmt: skip
def convert(source: str, target: Path, layout: str, dtype: str, shard_size: float) -> None:
    """Write weights in another layout.

    SOURCE is a weight file, the index or folder of a sharded one, or the name of a model such as wan2.1-vae. TARGET
    is a new file, or a new folder for diffusers and for the original transformer; nothing is ever overwritten.
    What was written is read back and compared tensor by tensor before it appears under its name.
    """
    from engine.checkpoints.source import open_source
    from engine.errors import CheckpointError

    written = target.absolute()
    path = _path_of(source)
    opened = open_source(path)
    if os.path.lexists(target):
        raise CheckpointError(f"{target}: is there already; name another, nothing is overwritten")
    # torch takes a second to import: only once there is something to convert
    from engine.checkpoints.convert.convert import convert as write

    begun = shown = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if sys.stderr.isatty() and (
            done == total or time.monotonic() - shown > _SECONDS_BETWEEN_LINES
        ):
            shown = time.monotonic()
            line = "" if done == total else f"{done} of {total} tensors compared"
            click.echo(
                f"\r\x1b[K{shorten(line, shutil.get_terminal_size().columns - 1)}",
                err=True,
                nl=False,
            )

    write(
        opened,
        written,
        layout=layout,
        dtype=dtype,
        shard_bytes=round(shard_size * 1e9),
        on_tensor=tell,
        warn=lambda text: click.echo(printable(text), err=True),
    )
    click.echo(
        f"every tensor read back as written, in {duration(time.monotonic() - begun)}", err=True
    )
    echo_path(target)


def _path_of(source: str) -> Path:
    """The weights that a path or the name of a model means. Raises CheckpointError where there are none."""
    from engine.checkpoints.known import catalogue
    from engine.checkpoints.library import absence, find
    from engine.errors import CheckpointError

    if os.path.lexists(source):
        return Path(source)
    model = catalogue.model(source)
    if model is None:
        raise click.exceptions.UsageError(
            f"{source} is neither there nor the name of a model; `modiff models list` lists what is here"
        )
    found = find(model.kind, model.name)
    if not found:
        raise CheckpointError(absence(model.kind, model.name))
    return found[0].path
