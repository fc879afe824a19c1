"""`modiff models`: the weights on this machine, wherever they lie. Looked at, never copied or changed.

Data goes to stdout. Exit code 1 when something is absent, broken or changed, 2 when nothing can be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.commands.models.convert import convert
from tui.cli.commands.models.verify import verify
from tui.cli.output import print_json
from tui.describe.models import block, row
from tui.errors import BAD_INPUT, FAILED
from tui.text import columns, printable

if TYPE_CHECKING:
    from engine.checkpoints.library import Found

# component kind, name or path, what will do with the one that is used first, and the line that says that none will
Answer = tuple[str, str, "list[Found]", str]

MAX_BROKEN = 20  # lines; a folder of another program may hold hundreds of files that are not for us

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def models() -> None:
    """Find, inspect and check the models on this machine."""


models.add_command(verify)
models.add_command(convert)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
@_json
@click.pass_context
def inspect(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Say what weights are, from their headers alone.

    PATH is a weight file, the index of a sharded one, a folder, of which everything is told, or builtin:micro.
    Exit code 1 when some of it cannot be read, 2 when nothing can.
    """
    from engine.checkpoints.library import look, whole
    from engine.checkpoints.locate import BUILTIN, builtin_files
    from engine.checkpoints.source import sources_in
    from engine.errors import CheckpointError

    if str(path).startswith(BUILTIN):
        paths = builtin_files(str(path))
    else:
        paths = sources_in(path) if os.path.isdir(path) else [path]
    if not paths:
        raise CheckpointError(f"{path}: holds no weight file (safetensors, .pth or GGUF)")
    found = [whole(look(path)) for path in paths]
    if as_json:
        print_json([row(each) for each in found])
    for number, each in enumerate(found):
        if each.error:
            click.echo(printable(each.error), err=True)
        elif not as_json:
            click.echo("\n".join(([""] if number else []) + block(each)))
    num_broken = sum(bool(each.error) for each in found)
    if num_broken:
        ctx.exit(BAD_INPUT if num_broken == len(found) else FAILED)


@models.command("list")
@_json
@click.pass_context
def list_(ctx: click.Context, as_json: bool) -> None:
    """List all models in all places.

    Files that are no part of Wan are only counted; --json has them too. Exit code 1 when some cannot be read.
    """
    from engine.checkpoints.library import scan_places

    found = scan_places()
    if as_json:
        print_json([row(each) for each in found])
    else:
        _print_list(found)
    if any(each.error for each in found):
        ctx.exit(FAILED)


def _print_list(found: Sequence[Found]) -> None:
    of_wan = [
        each for each in found if each.recognition and each.recognition.component != "unknown"
    ]
    _print_table(of_wan)
    broken = [each for each in found if each.error]
    if broken:
        click.echo("\ncannot be used:" if of_wan else "cannot be used:")
    for each in broken[:MAX_BROKEN]:
        click.echo(f"  {printable(each.error)}")
    if len(broken) > MAX_BROKEN:
        click.echo(
            f"  and {len(broken) - MAX_BROKEN} more; `modiff models list --json` has them all"
        )
    if num_others := len(found) - len(of_wan) - len(broken):
        click.echo(f"and {num_others} weight files that are no part of Wan", err=True)
    if not of_wan:
        _say_where_it_looked()


@models.command()
@click.argument("name", required=False)
@click.option("--preset", is_flag=True, help="NAME is a preset: where all its components are.")
@_json
@click.pass_context
def where(ctx: click.Context, name: str | None, preset: bool, as_json: bool) -> None:
    """Say where models are looked for, or where one is.

    NAME is a model such as wan2.1-t2v-14b, or a preset: then every model that it uses is told. The first file
    is the one that is used. Exit code 1 when one is absent, with what to get and where to put it.
    """
    if name is None:
        if preset:
            raise click.UsageError("--preset needs the name of a preset")
        _print_places(as_json=as_json)
        return
    from engine.checkpoints.known.catalogue import MODELS
    from engine.checkpoints.library import scan_places

    among = scan_places()
    models = [] if preset else [model for model in MODELS if model.name == name]
    if models:
        answers = [(m.kind, m.name, *_named(m.kind, m.name, among)) for m in models]
    else:
        answers = _of_preset(name, among, is_named_so=preset)
    if as_json:
        print_json(
            [
                {
                    "component": kind,
                    "name": model,
                    "found": [row(f) for f in found],
                    "absence": missing,
                }
                for kind, model, found, missing in answers
            ]
        )
    for kind, model, found, missing in answers:
        if missing:
            click.echo(printable(missing), err=True)
        elif not as_json:
            click.echo(f"{printable(model)} ({kind.replace('_', ' ')})")
            _print_table(found, indent="  ")
    if any(missing for *_, missing in answers):
        ctx.exit(FAILED)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
def add(path: Path) -> None:
    """Make a folder of models known, or one file.

    It is remembered and looked through from now on, never copied: what is put into it later is found too.
    """
    from engine.checkpoints.library import scan
    from engine.checkpoints.places import add as remember

    place, is_new = remember(path)
    if not is_new:
        click.echo(f"known already: {printable(str(place.path))} ({place.origin})")
        return
    click.echo(printable(str(place.path)))
    found = scan(place)
    usable = [
        each for each in found if each.recognition and each.recognition.component != "unknown"
    ]
    _print_table(usable, indent="  ")
    for each in found:
        if each.error:
            click.echo(printable(each.error), err=True)
    if not usable:
        click.echo("no model of Wan is in it yet; what is put there later will be found", err=True)


@models.command()
@click.argument("path", type=click.Path(path_type=Path))
def remove(path: Path) -> None:
    """Forget a folder or file that was added. Its files stay as they are."""
    from engine.checkpoints.places import remove as forget

    click.echo(f"forgot {printable(str(forget(path)))}; its files are untouched")


def _of_preset(name: str, among: Sequence[Found], *, is_named_so: bool) -> list[Answer]:
    """Where each component of a preset is; raises for a name that means nothing."""
    from engine.checkpoints.library import wanted
    from engine.components.umt5 import tokenizer_file
    from presets.library import list_presets, load_preset

    is_preset = name.endswith(".toml") or any(info.name == name for info in list_presets())
    if not is_named_so and not is_preset:
        wanted("", name)
    parts = load_preset(name).components
    encoder = parts.text_encoder
    tokenizer = _at(lambda: tokenizer_file(encoder, lambda: among))
    return [
        ("text_encoder", encoder.checkpoint, *_named("text_encoder", encoder.checkpoint, among)),
        ("tokenizer", encoder.tokenizer or encoder.checkpoint, *tokenizer),
        (
            "denoiser",
            parts.denoiser.checkpoint,
            *_named("denoiser", parts.denoiser.checkpoint, among),
        ),
        ("vae", parts.vae.checkpoint, *_named("vae", parts.vae.checkpoint, among)),
    ]


def _named(kind: str, checkpoint: str, among: Sequence[Found]) -> tuple[list[Found], str]:
    """All that will do for a name or path of a component, or one line for what is absent."""
    from engine.checkpoints.known import catalogue
    from engine.checkpoints.library import absence, find
    from engine.checkpoints.locate import locate

    if catalogue.model(checkpoint, kind) is None:
        return _at(lambda: locate(kind, checkpoint))
    found = find(kind, checkpoint, among)
    return found, "" if found else absence(kind, checkpoint, among)


def _at(locate: Callable[[], Path]) -> tuple[list[Found], str]:
    from engine.checkpoints.library import look
    from engine.errors import CheckpointError

    try:
        found = look(locate())
    except CheckpointError as error:
        return [], str(error)
    return ([], found.error) if found.error else ([found], "")


def _print_table(found: Sequence[Found], indent: str = "") -> None:
    from tui.describe.models import table

    for line in columns(table(found)):
        click.echo(indent + line)


def _print_places(*, as_json: bool) -> None:
    from engine.checkpoints.places import places

    known = places()
    if as_json:
        print_json([{"path": str(p.path), "origin": p.origin, "exists": p.exists} for p in known])
        return
    rows = [(p.origin, "" if p.exists else "not there", printable(str(p.path))) for p in known]
    for line in columns(rows):
        click.echo(line)


def _say_where_it_looked() -> None:
    from engine.checkpoints.places import places

    there = [str(place.path) for place in places() if place.exists]
    click.echo(
        f"no model of Wan in {printable(', '.join(there)) or 'any known place'}; `modiff models add FOLDER` makes "
        "a folder known, `modiff models where wan2.1-t2v-1.3b` says what to download",
        err=True,
    )
