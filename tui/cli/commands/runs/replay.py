"""`modiff replay`: the output of a run again, from the store as far as that has it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.options import overwrite_option, quiet_option, result_json_option, run_argument
from tui.cli.output import Invocation, echo_path, print_json
from tui.cli.run_of_file import resolve_run
from tui.text import printable
from tui.units import duration

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store

_EPILOG = """\b
Examples:
  modiff replay k3f
  modiff replay k3f --output again.mp4
  modiff replay k3f --output master.mkv
  modiff replay k3f --verify

Exit codes: 0 done, 1 failed, 2 bad input, 130 cancelled.
"""


@click.command(epilog=_EPILOG)
@run_argument
@click.option(
    "--output",
    metavar="FILE",
    help="Where the output goes; a video may have another ending than the run's own, and is decoded again then.  "
    "[default: the run's own, or with -replay in its name where that is taken]",
)
@overwrite_option
@click.option(
    "--verify",
    is_flag=True,
    help="Compute everything again from the noise and compare each link; writes no output.",
)
@quiet_option
@result_json_option
@click.pass_obj
def replay(
    invocation: Invocation,
    run: str,
    output: str | None,
    overwrite: bool,
    verify: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make the output of a run again, from the store.

    RUN is an id from `modiff runs`, the beginning of one, or a video that it wrote. What is stored is
    checked and copied; what is not stored any more is computed again from what is, as a run of its own.

    With --verify nothing is reused: the run is computed again, in this process, and the first step that
    differs from what is on record is named, with what differs in the environment; exit code 1 then.
    """
    from engine.output.taken import check_output
    from engine.runs.expanded import with_text
    from presets.encoding import decode_spec
    from store.store import open_as_it_is
    from tui.cli.following.follow import follow_queued
    from tui.cli.following.manner import Manner

    began = time.perf_counter()
    with open_as_it_is() as store:
        store.recover_if_possible()  # a run of an engine that is gone holds no path
        run_id = resolve_run(store, run)
        record = store.run(run_id)
        if verify:
            from tui.cli.following.verification import verify_run

            return verify_run(store, record, quiet=quiet, as_json=as_json)
        if record.status != "done":
            way = "`modiff show` tells how far it is"
            if record.is_finished:
                way = f"`modiff resume {run_id}` goes on with it"
            raise click.ClickException(
                f"run {run_id} is {record.status} and has no output yet; {way}"
            )
        spec = _writing(decode_spec(record.spec_json), record, output, overwrite=overwrite)
        check_output(store, spec)
        path = Path(spec.output.path)
        stored = _stored_parts(store, record, spec)
        if stored is not None:
            told = _write(path, spec, _marked(stored, record, with_text(store, record, spec)))
            seconds = time.perf_counter() - began
            if not quiet:
                click.echo(f"run {run_id} replayed from the store in {duration(seconds)}", err=True)
            if as_json:
                done = {"run": run_id, "status": "done", "output": str(told)}
                print_json(done | {"seconds": round(seconds, 3), "stages": []})
            else:
                echo_path(told)
            return 0
        if not quiet:
            click.echo(
                f"not all that run {run_id} made is stored; the rest is computed again", err=True
            )
        return follow_queued(
            invocation,
            store,
            lambda: _submit_again(store, record, spec),
            Manner(quiet=quiet, as_json=as_json),
        )


def _writing(spec: RunSpec, record: RunRecord, output: str | None, *, overwrite: bool) -> RunSpec:
    """The run's spec with the path that the replay writes to."""
    import msgspec

    from engine.output.paths import output_paths, output_problem
    from presets.errors import PresetError
    from presets.output.rules import moved
    from presets.validation import validate

    if output:
        try:
            path = Path(output).expanduser().absolute()
        except RuntimeError as error:  # a home directory that cannot be told
            raise PresetError(f"{output}: {error}", key="output.path") from None
    else:
        path = _own_path(record, spec)
        taken = any(map(os.path.exists, output_paths(path, spec.output.kinds).values()))
        if taken:  # also with --overwrite: only who names the run's own output replaces it
            path = path.with_stem(f"{path.stem}-replay")
    if problem := output_problem(path, spec.output.kinds):
        raise PresetError(problem, key="output.path")
    written = msgspec.structs.replace(moved(spec.output, str(path)), overwrite=overwrite)
    return validate(msgspec.structs.replace(spec, output=written))


def _own_path(record: RunRecord, spec: RunSpec) -> Path:
    """The path from which `output_paths` made the run's main output."""
    from engine.output.paths import default_output

    # a run from a bundle has no output of this machine
    path = Path(record.output or default_output(spec.output).replace("{run}", record.id)).absolute()
    kinds = set(spec.output.kinds)
    if record.output and kinds == {"frames", "latents"}:
        return path.with_name(path.name.removesuffix("-frames") + ".safetensors")
    return path


def _stored_parts(store: Store, record: RunRecord, spec: RunSpec) -> dict[str, bytearray] | None:
    """The bytes of each kind of output, read and verified; None where one of them is not stored."""
    from store.blobs import blobs
    from store.errors import BlobCorrupt, BlobMissing

    video = _stored_video(store, record, spec)
    digests = {"video": video, "latents": record.latents, "frames": ""}
    wanted = {kind: digests[kind] for kind in spec.output.kinds}
    if not all(wanted.values()):
        return None
    found: dict[str, bytearray] = {}
    for kind, digest in wanted.items():
        try:
            found[kind] = blobs.get(store.root, digest)
        except (BlobMissing, BlobCorrupt) as error:
            store.forget_blob(digest)
            click.echo(f"warning: {printable(str(error))}", err=True)
            return None
    return found


def _stored_video(store: Store, record: RunRecord, spec: RunSpec) -> str:
    """The digest of the run's video in the format that is asked for; "" where there is none, or one that an older
    version encoded, which is told."""
    from engine.tasks.wan import VIDEO
    from presets.output.rules import format_of

    keys = [link.key for link in store.links_of(record.id) if link.stage == "video"]
    link = next(iter(store.find_links(keys).values()), None)
    if link is None or "video" not in spec.output.kinds:
        return ""
    facts, wanted = json.loads(link.facts or "{}"), format_of(spec.output)
    found = facts.get("params", {}).get("format")
    reason = "" if found == wanted else f"is {found}, not {wanted}"
    if facts.get("version") != VIDEO.version:
        reason = "was encoded by an older version of modiff"
    if reason and link.digest:
        click.echo(f"the stored video of run {record.id} {reason}; it is decoded again", err=True)
    return "" if reason else link.digest


def _submit_again(store: Store, record: RunRecord, spec: RunSpec) -> str:
    from engine.client import submit
    from engine.tasks.route import route_of

    num_steps = route_of(spec, record.segments).num_steps
    return submit(
        store,
        spec,
        preset=record.preset,
        parent=record.id,
        parent_step=num_steps if record.stop_at is None else record.stop_at,
        segments=record.segments,
        stop_at=record.stop_at,
    )


def _marked(
    parts: Mapping[str, bytearray], record: RunRecord, spec: RunSpec
) -> dict[str, bytes | bytearray]:
    """The stored files with what they say of their run, as a run writes them."""
    from engine.output.mark import mark_of
    from engine.output.marking import marked

    return marked(
        parts,
        mark_of(record, spec, record.latents),
        lambda line: click.echo(f"warning: {printable(line)}", err=True),
    )


def _write(path: Path, spec: RunSpec, parts: Mapping[str, bytes | bytearray]) -> Path:
    """Write every part where a run writes it; the main one's path."""
    from engine.output.paths import output_paths

    targets = output_paths(path, spec.output.kinds)
    for kind, target in targets.items():
        try:
            _place(target, parts[kind], overwrite=spec.output.overwrite)
        except FileExistsError:
            raise click.ClickException(
                f"{target} appeared just now and is kept; try again"
            ) from None
        except OSError as error:
            raise click.ClickException(
                f"cannot write {target}: {error.strerror or error}"
            ) from None
    return next(iter(targets.values()))


def _place(path: Path, data: bytes | bytearray, *, overwrite: bool) -> None:
    """`data` as the file `path`, whole or not at all; FileExistsError where it may not replace one."""
    from store.blobs.files import written_whole

    with written_whole(path, replaces=overwrite) as draft:
        draft.write_bytes(data)
