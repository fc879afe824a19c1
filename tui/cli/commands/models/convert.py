"""`modiff models convert`: one published layout into another."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from tui.cli.options import result_json_option
from tui.cli.output import echo_path, print_json
from tui.cli.overwritten import Pace, show
from tui.text import printable
from tui.units import duration

# engine.checkpoints.convert's, repeated here because that module imports torch; held to it by a test
LAYOUTS = ("original", "diffusers", "comfyui", "gguf")
DTYPES = ("keep", "fp32", "bf16", "fp16")
QUANTISED = {
    "fp8": "comfyui", "int8": "comfyui",
    "q8_0": "gguf", "q5_1": "gguf", "q5_0": "gguf", "q4_1": "gguf", "q4_0": "gguf",
}  # fmt: skip
_WORST = 3  # of the layers, told without --json


@click.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    help="Whose names and packaging; with --quantise those that are read so.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="keep",
    show_default=True,
    help="How numbers are stored.",
)
@click.option(
    "--quantise",
    type=click.Choice(tuple(QUANTISED)),
    help="Round the large matrices of the blocks; --dtype is for the rest.",
)
@click.option(
    "--shard-size", type=click.FloatRange(min=0.001), default=10.0, show_default=True, metavar="GB",
    help="Largest file of a sharded layout.",
)  # fmt: skip
@result_json_option
def convert(
    source: str,
    target: Path,
    layout: str | None,
    dtype: str,
    quantise: str | None,
    shard_size: float,
    as_json: bool,
) -> None:
    """Write weights in another layout.

    SOURCE is a weight file, the index or folder of a sharded one, or the name of a model such as wan2.1-vae. TARGET
    is a new file, or a new folder for diffusers and for the original transformer; nothing is ever overwritten.
    What was written is read back and compared tensor by tensor before it appears under its name. With --quantise it is
    told how far each rounded matrix is from what it was, the worst first.
    """
    if layout is None:
        if quantise is None:
            raise click.exceptions.UsageError(
                f"say --layout {'|'.join(LAYOUTS)}, or --quantise {'|'.join(QUANTISED)}"
            )
        layout = QUANTISED[quantise]
    from engine.checkpoints.source import open_source
    from engine.errors import CheckpointError

    written = target.absolute()
    path = _path_of(source)
    opened = open_source(path)
    if os.path.lexists(target):
        raise CheckpointError(f"{target}: is there already; name another, nothing is overwritten")
    # torch takes a second to import: only once there is something to convert
    from engine.checkpoints.convert.convert import convert as write

    begun, pace = time.monotonic(), Pace()

    def tell(done: int, total: int) -> None:
        if done == total:
            show("")
        elif pace.is_due:
            show(f"{done} of {total} tensors compared")

    errors: dict[str, float] = {}
    write(
        opened,
        written,
        layout=layout,
        dtype=dtype,
        quantise=quantise or "",
        on_error=errors.__setitem__,
        shard_bytes=round(shard_size * 1e9),
        on_tensor=tell,
        warn=lambda text: click.echo(printable(text), err=True),
    )
    click.echo(
        f"every tensor read back as written, in {duration(time.monotonic() - begun)}", err=True
    )
    worst = dict(sorted(errors.items(), key=lambda item: -item[1]))
    if as_json:
        mean = sum(errors.values()) / len(errors) if errors else 0.0
        print_json({"path": str(written), "mean_error": mean, "errors": worst})
        return
    if worst:
        click.echo(_told(worst), err=True)
    echo_path(target)


def _told(errors: Mapping[str, float]) -> str:
    """How far rounded matrices are from what they were. errors: relative, by name, the worst first."""
    some = [f"{error:.2%} {name}" for name, error in [*errors.items()][:_WORST]]
    mean = sum(errors.values()) / len(errors)
    return f"relative error of {len(errors)} matrices: {mean:.2%} on average; at most {', '.join(some)}"


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
