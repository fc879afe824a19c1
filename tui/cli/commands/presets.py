"""`modiff presets`: the library of presets on the command line. Data goes to stdout, bad input is
a `PresetError`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import msgspec

from presets.encoding import preset_schema
from presets.fields.listing import fields, item_fields
from presets.library.listing import list_presets
from presets.library.loading import load_preset
from presets.library.paths import preset_path, user_preset_dir
from presets.library.problems import preset_problems
from presets.library.saving import dump_preset, extended_by, save_from
from presets.settings.overrides import toml_value
from presets.spec.run import RunSpec
from presets.validation import to_plain
from tui.cli.options import json_option
from tui.cli.output import echo_path, print_json, print_lines
from tui.cli.settings.options import set_option
from tui.errors import BAD_INPUT
from tui.text import columns, escaped, printable

if TYPE_CHECKING:
    from pathlib import Path

    from presets.fields.listing import Field


@click.group()
def presets() -> None:
    """List, show, check and save presets."""


@presets.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all presets, the shipped ones first."""
    infos = list_presets()
    if as_json:
        print_json({"presets": [asdict(info) | {"path": str(info.path)} for info in infos]})
        return
    rows = [
        (
            printable(info.name),
            "shipped" if info.shipped else "user",
            f"broken: {info.error}" if info.error else printable(info.description),
        )
        for info in infos
    ]
    print_lines(columns(rows))


@presets.command()
@click.argument("preset", required=False)
@set_option
@click.option("--schema", is_flag=True, help="Print the JSON Schema of preset files instead.")
@click.option(
    "--keys",
    is_flag=True,
    help="Print every key that --set takes, N for the index in a list, every option of an extension, "
    "and what they take.",
)
@json_option
def show(
    preset: str | None, overrides: tuple[str, ...], schema: bool, keys: bool, as_json: bool
) -> None:
    """Print a preset as TOML, with everything filled in.

    Its parents and all defaults are resolved. PRESET is a name from `modiff presets list` or a path that
    ends in .toml.
    """
    if schema and keys:
        raise click.UsageError("--schema and --keys exclude each other")
    if schema or keys:
        if preset or overrides:
            raise click.UsageError("--schema and --keys take no preset and no --set")
        print_json(preset_schema(_extension_options())) if schema else _print_keys(as_json=as_json)
        return
    if preset is None:
        raise click.UsageError("Missing argument 'PRESET'.")
    spec = load_preset(preset, overrides)
    if as_json:
        print_json(msgspec.to_builtins(spec))
    else:
        click.echo(escaped(dump_preset(spec)), nl=False)


@presets.command()
@click.argument("names", metavar="[PRESET]...", nargs=-1)
@set_option
@json_option
@click.pass_context
def validate(
    ctx: click.Context, names: tuple[str, ...], overrides: tuple[str, ...], as_json: bool
) -> None:
    """Check presets.

    By name or by path; all of them when none is named. With --set as changed by it. All that is wrong with
    one is told at once.
    """
    infos = {} if names else {info.name: info.error for info in list_presets()}
    errors = {name: _errors_of(name, infos.get(name, ""), overrides) for name in names or infos}
    if as_json:
        checked = [
            {"name": name, "ok": not found, "error": "".join(found[:1]), "errors": found}
            for name, found in errors.items()
        ]
        print_json({"presets": checked})
    for name, found in errors.items():
        for error in found:
            names_it = name.endswith(".toml") and name in error
            click.echo(printable(error if names_it else f"{name}: {error}"), err=True)
        if not found and not as_json:
            click.echo(f"{printable(name)}: ok")
    if any(errors.values()):
        ctx.exit(BAD_INPUT)


@presets.command()
@click.argument("name")
@click.option("--from", "parent", metavar="PRESET", help="The preset to start from.")
@click.option(
    "--from-file",
    "file",
    metavar="FILE",
    help="A video, picture or latents of a run: the settings that travel with it, in full.",
)
@set_option
@click.option("--description", metavar="TEXT", help="One line for `modiff presets list`.")
@click.option("--overwrite", is_flag=True, help="Replace a preset of the same name.")
@json_option
def save(
    name: str,
    parent: str | None,
    file: str | None,
    overrides: tuple[str, ...],
    description: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Save a preset of your own.

    NAME becomes another preset, or what made a file, and what --set changes. Only the differences are written,
    so NAME follows its parent. A parent that is a file elsewhere is copied in full.
    """
    if (parent is None) == (file is None):
        raise click.UsageError("name one of --from PRESET and --from-file FILE")
    if file is not None:
        spec, parent = _of_file(file, overrides), ""
    else:
        spec = load_preset(parent or "", overrides)
    from engine.components.choice import problems

    for error in problems(spec):
        raise error
    parent = parent or ""
    extends, _ = extended_by(name, parent)
    path = save_from(name, spec, parent=parent, description=description, overwrite=overwrite)
    if as_json:
        print_json({"name": name, "path": str(path), "extends": extends})
    else:
        echo_path(path)


@presets.command()
@click.argument("name", required=False)
@json_option
def path(name: str | None, as_json: bool) -> None:
    """Print where presets lie.

    The file of the preset NAME, or without a name the folder of your own presets.
    """
    found: Path = preset_path(name) if name else user_preset_dir()
    if as_json:
        print_json({"name": name, "path": str(found)})
    else:
        echo_path(found)


def _of_file(file: str, overrides: tuple[str, ...]) -> RunSpec:
    from presets.library.loading import override
    from tui.describe.runs.of_file import path_of, settings_in

    return override(settings_in(path_of(file)), overrides)


def _errors_of(name: str, listed: str, overrides: tuple[str, ...]) -> list[str]:
    """listed: what is wrong with its name in the list of presets."""
    found = [str(error) for error in preset_problems(name, overrides) or _unknown(name, overrides)]
    return [listed] if listed and listed not in found and not overrides else found


def _unknown(name: str, overrides: tuple[str, ...]) -> list[Exception]:
    """What a preset that can be loaded asks of components and extensions that they do not know."""
    from engine.components.choice import problems

    return [*problems(load_preset(name, overrides))]


def _print_keys(*, as_json: bool) -> None:
    options = {
        name: fields(struct, "extensions[N].options.")
        for name, struct in _extension_options().items()
    }
    if as_json:
        rows = [_key(field) for field in (*fields(RunSpec), *item_fields(RunSpec))]
        rows += [
            _key(field) | {"extension": name} for name, found in options.items() for field in found
        ]
        print_json({"keys": rows})
        return
    for field in (*fields(RunSpec), *item_fields(RunSpec)):
        _print_key(field)
    for name, found in options.items():
        click.echo()
        click.echo(f"where extensions[N].name is {printable(name)}:")
        for field in found:
            _print_key(field)


def _extension_options() -> dict[str, type[msgspec.Struct]]:
    """name -> the options of every extension that is installed; of one that cannot be imported a warning."""
    from engine.errors import ComponentError
    from engine.extensions import registry

    found: dict[str, type[msgspec.Struct]] = {}
    for name in registry.extensions():
        try:
            found[name] = registry.find(name).Options
        except ComponentError as error:
            click.echo(f"warning: {printable(str(error))}", err=True)
    return found


def _key(field: Field) -> dict[str, Any]:
    return {
        "key": field.key,
        "expected": field.expected,
        "default": _default(field),
        "description": field.description,
    }


def _print_key(field: Field) -> None:
    default = _default(field)
    click.echo(field.key if default is None else f"{field.key} = {toml_value(default)}")
    click.echo(f"    {field.description}. Takes {field.expected}")


def _default(field: Field) -> Any:
    """What a key has where nobody sets it; None where it must be set."""
    return None if field.default is msgspec.NODEFAULT else to_plain(field.default)
