"""`modiff store export` and `modiff store import`: runs as one file, for another machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.bad_input import BadInput
from tui.cli.looking import store_as_it_is
from tui.cli.options import json_option, read_by, runs_argument
from tui.cli.output import print_json, print_lines
from tui.cli.run_of_file import resolve_run
from tui.describe.bundles import TRUST, imported_lines
from tui.text import counted, printable
from tui.units import read_size, size

if TYPE_CHECKING:
    from store.bundle.importing import Imported

# store.bundle.exporting.STEPS, repeated here because that module opens the store; held to it by a test
STEPS = ("all", "last", "none")

_EXPORT_EPILOG = """\b
Examples:
  modiff store export k3f --output fox.modiff
  modiff store export k3f q7a --lineage --steps last --output fox.modiff
"""
_IMPORT_EPILOG = """\b
Examples:
  modiff store import fox.modiff
  modiff store import fox.modiff --trust
"""


@click.command("export", epilog=_EXPORT_EPILOG)
@runs_argument
@click.option(
    "--output",
    "target",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The bundle, a new file; it usually ends in .modiff.",
)
@click.option(
    "--steps",
    type=click.Choice(STEPS),
    default="all",
    show_default=True,
    help="Which tensors go along: every step, to branch anywhere; the last latents, to decode "
    "again; or none, to see the video.",
)
@click.option("--lineage", "with_ancestors", is_flag=True, help="Also what the runs descend from.")
@click.option("--allow-missing", is_flag=True, help="Leave out what is missing or damaged.")
@json_option
def export(
    run_prefixes: tuple[str, ...],
    target: Path,
    steps: str,
    with_ancestors: bool,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Write runs and what they made as one file, a bundle.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. Everything is checked
    while it is copied. Notes and prompts go along as they are; paths, host and user names do not.
    """
    from store.bundle.exporting import export_bundle

    with store_as_it_is() as store:
        done = export_bundle(
            store.lineage,
            list(dict.fromkeys(resolve_run(store, prefix) for prefix in run_prefixes)),
            target,
            steps=steps,
            with_ancestors=with_ancestors,
            allow_missing=allow_missing,
            made_by=_made_by(),
        )
    for line in done.lost:
        click.echo(printable(line), err=True)
    if as_json:
        print_json(
            {
                "output": os.path.abspath(done.path),
                "bytes": done.num_bytes,
                "runs": list(done.runs),
                "blobs": done.num_blobs,
                "not_kept": done.num_thinned,
                "left_out": list(done.lost),
            }
        )
        return
    if done.num_thinned:
        click.echo(f"{counted(done.num_thinned, 'result')} of steps had not been kept", err=True)
    click.echo(
        f"{printable(str(done.path))}: {counted(len(done.runs), 'run')}, "
        f"{counted(done.num_blobs, 'blob')}, {size(done.num_bytes)}",
        err=True,
    )


@click.command("import", epilog=_IMPORT_EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    "is_trusted",
    is_flag=True,
    help=TRUST,
)
@click.option(
    "--max-size",
    default="100GB",
    show_default=True,
    callback=read_by(read_size),
    metavar="SIZE",
    help="Refuse a larger file.",
)
@json_option
def import_(file: Path, is_trusted: bool, max_size: int, as_json: bool) -> None:
    """Bring the runs of a bundle into the store.

    FILE is what `modiff store export` wrote. Without --trust its runs can be seen, replayed and
    branched, and no other run uses what they made. It comes in whole, or nothing of it does; exit
    code 2 when it is refused. Nothing is written outside the store.
    """
    from store.bundle.importing import import_bundle
    from store.bundle.strict import BundleRefused
    from store.store import open_store

    try:
        with open_store() as store:
            done = import_bundle(
                store.lineage,
                file,
                check_spec=_check_spec,
                is_trusted=is_trusted,
                max_bytes=max_size,
            )
    except BundleRefused as error:
        raise BadInput(printable(str(error))) from None
    if as_json:
        print_json(_imported_data(done))
        return
    print_lines(imported_lines(_imported_data(done), is_trusted=is_trusted), err=True)


def _check_spec(encoded: bytes) -> None:
    """BundleRefused for a run specification that is not valid."""
    from presets.encoding import decode_spec
    from presets.errors import PresetError
    from store.bundle.strict import BundleRefused

    try:
        decode_spec(encoded)
    except PresetError as error:
        raise BundleRefused(f"a spec is not valid: {error}") from error


def _imported_data(done: Imported) -> dict[str, object]:
    return {
        "runs": [
            {"run": run.id, "bundled_run": run.bundled_id, "new": run.is_new} for run in done.runs
        ],
        "new_blobs": done.num_blobs,
        "new_bytes": done.num_bytes,
        "new_links": done.num_links,
        "differing_links": done.num_different,
    }


def _made_by() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"modiff {version('modiff')}"
    except PackageNotFoundError:
        return "modiff"
