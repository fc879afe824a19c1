"""`modiff models get`: the published models that a preset needs, downloaded to where they are found."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.output import Invocation, print_json, print_lines
from tui.text import columns, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.checkpoints.download import Remote
    from engine.checkpoints.library import Found
    from engine.components.needed import Needed

_EPILOG = """\b
Examples:
  modiff models get wan2.1-t2v-1.3b --dry-run
  modiff models get wan2.1-t2v-14b
  modiff models get umt5-xxl wan2.1-vae --to /big/models

Exit codes: 0 all is here, 1 failed, 2 bad input, 130 stopped; the same command goes on where it stopped.
"""


@click.command(epilog=_EPILOG)
@click.argument("names", metavar="PRESET|MODEL...", nargs=-1, required=True)
@click.option(
    "--to",
    "home",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the models go, each into a folder of its own; it is made known if it is not.  [default: the models "
    "folder]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Tell what would be downloaded; nothing is asked of the network.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: what was needed, and where it is now."
)
@click.pass_obj
def get(
    invocation: Invocation,
    names: tuple[str, ...],
    home: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Download the models that are missing.

    PRESET means every model that it uses, MODEL a name such as wan2.1-vae. The files come from Hugging Face, or the
    mirror that HF_ENDPOINT names; each is checked by its size and SHA-256 before it is used.
    """
    from engine.checkpoints.library import scan_places
    from engine.errors import CheckpointError
    from tui.describe.models import missing

    parts = _needed(names, scan_places(), home)
    lacks = missing.absent(parts)
    if not as_json or dry_run:
        _print(parts, as_json=as_json)
    nameless = [part.absence for part in lacks if part.release is None]
    if nameless:
        raise CheckpointError("\n".join(nameless))
    if lacks and not dry_run:
        _get(invocation, lacks, home, yes=yes)
        parts = _needed(names, scan_places(), home)
        if still := missing.absent(parts):
            raise CheckpointError("\n".join(part.absence for part in still))
    if dry_run:
        return
    if as_json:
        _print(parts, as_json=True)
    elif not lacks:
        click.echo("nothing is missing", err=True)
    else:
        for part in parts:
            click.echo(printable(str(part.found[0].path)))


def _needed(names: Sequence[str], among: Sequence[Found], home: Path | None) -> list[Needed]:
    """The models that the names mean, each once, to go where they were asked for."""
    from dataclasses import replace

    from engine.checkpoints.known.catalogue import MODELS
    from engine.checkpoints.library import target_of, wanted
    from engine.components.needed import named, needed
    from presets.library.listing import list_presets
    from presets.library.loading import load_preset

    presets = {info.name for info in list_presets()}
    found: dict[tuple[str, str], Needed] = {}
    for name in names:
        if name.endswith(".toml") or name in presets:
            parts = needed(load_preset(name), among)
        elif models := [model for model in MODELS if model.name == name]:
            parts = [named(model.kind, model.name, among) for model in models]
        else:
            wanted("", name)  # raises
            continue
        for part in parts:
            if home is not None and part.release is not None:
                place = Path(os.path.abspath(home.expanduser()))
                part = replace(part, target=target_of(part.release, place))
            found.setdefault((part.kind, part.name), part)
    return list(found.values())


def _print(parts: Sequence[Needed], *, as_json: bool) -> None:
    from tui.describe.models import missing

    if as_json:
        print_json({"models": missing.as_json(parts)})
        return
    print_lines(columns(missing.rows(parts)), err=True)
    for part in missing.absent(parts):
        for note in part.notes:
            click.echo(printable(f"{missing.title_of(part)}: {note}"), err=True)


def _get(invocation: Invocation, lacks: Sequence[Needed], home: Path | None, *, yes: bool) -> None:
    from engine.checkpoints.download import bytes_left, free_bytes, look_up, room_problem
    from engine.checkpoints.known.catalogue import decimal_size
    from engine.checkpoints.places import models_folder
    from engine.errors import DownloadFailed

    place = models_folder() if home is None else Path(os.path.abspath(home.expanduser()))
    remotes: list[Remote] = []
    for part in lacks:
        assert part.release is not None
        assert part.target is not None
        remotes += look_up(part.release, part.target)
    if problem := room_problem(remotes, place):
        raise DownloadFailed(problem)
    left = bytes_left(remotes)
    total = sum(remote.num_bytes for remote in remotes)
    begun = f", of which {decimal_size(total - left)} are here already" if left < total else ""
    is_new = _is_unknown(place, remotes)
    click.echo(
        f"{decimal_size(total)}{begun}, into {printable(str(place))}, with {decimal_size(free_bytes(place))} free"
        f"{', which becomes known to modiff' if is_new else ''}",
        err=True,
    )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask; add --yes")
        click.confirm("download?", abort=True, err=True, default=True)
    place.mkdir(parents=True, exist_ok=True)
    if is_new:
        from engine.checkpoints.places import add

        add(place)
    try:
        for number, remote in enumerate(remotes, 1):
            _fetch(remote, f"{number}/{len(remotes)}")
    except KeyboardInterrupt:
        here = decimal_size(total - bytes_left(remotes))
        again = shlex.join(["modiff", *invocation.arguments])
        click.echo(
            f"\n{here} of {decimal_size(total)} are here and stay; `{printable(again)}` goes on from there",
            err=True,
        )
        raise


def _is_unknown(place: Path, remotes: Sequence[Remote]) -> bool:
    """Whether nothing would look for models where these go."""
    from engine.checkpoints.places import holder

    return holder(place) is None and any(holder(remote.target) is None for remote in remotes)


def _fetch(remote: Remote, count: str) -> None:
    from engine.checkpoints.download import fetch
    from tui.cli.transfer import Transfer

    with Transfer(f"{count} {Path(remote.name).name}", remote.num_bytes) as shown:
        fetch(remote, on_progress=shown.loaded, on_check=shown.checked)
