"""How a viewer asks for a run. Torch-free; how it watches one: `engine.runs.following`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.errors import InputError
from engine.inputs.settle import Settled, another_clip, holds_given
from engine.inputs.settle import settle as settle_inputs
from engine.output import encoders, ffmpeg
from engine.output.paths import default_output
from engine.output.taken import check_output, output_path
from engine.process.launch import retire_other_engines
from engine.tasks.reach import reach
from engine.tasks.route import route_of, route_of_run
from engine.tasks.stages import EXPAND
from engine.tasks.wan import CLIP
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.expansion import expands
from presets.library.loading import override
from presets.output.formats import DEFAULT
from presets.output.rules import format_of, of_branch
from presets.settings.by_key import changed_keys, settings_of
from presets.tasks import PICTURES, has_pictures
from presets.validation import validate
from store.blobs.blobs import is_stored as is_blob_stored
from store.errors import StoreError
from store.lineage.records import Segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.plan import Plan
    from engine.tasks.route import Route
    from presets.spec.output import OutputSpec
    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store


def submit(
    store: Store,
    spec: RunSpec,
    *,
    preset: str = "",
    output: str = "",
    parent: str = "",
    parent_step: int | None = None,
    segments: Sequence[Segment] = (),
    stop_at: int | None = None,
    is_checked: bool = False,
) -> str:
    """Check a run and queue it; returns its id.

    output: where the output goes; empty means the spec's own path, or a file in the current folder
    that is named after the run. parent, parent_step, segments, stop_at: as of RunRecord. is_checked: its components
    and output were checked just now, as `engine.runs.sweep.make_members` does once for all of its runs.
    Raises PresetError, ComponentError or CheckpointError before anything is queued, StoreError if it cannot be.
    """
    # reads plugins and file headers: only when asked to run
    from engine.components.choice import settle

    if output:
        spec = _with_output(spec, msgspec.structs.replace(spec.output, path=output))
    spec = validate(spec)
    if not is_checked:
        store.recover()  # a run of an engine that is gone holds no path
        check_output(store, spec)
    path = output_path(spec.output.path or default_output(spec.output), spec.output.kinds)
    _check_encoder(spec)
    spec = settled(store, settle(spec)).spec  # the engine may have been started with other folders
    if not is_checked:
        check(store, spec)
        is_expansion_new(store, spec)  # which raises where nobody could be asked
        # an engine of other code must not get what this one understands
        retire_other_engines(store)
    route = route_of(spec, segments)
    _check_stop(stop_at, route)
    _check_clip(store, route, segments)
    return store.enqueue(
        encode_spec(spec),
        preset=preset,
        output=str(path),
        parent=parent,
        parent_step=parent_step,
        segments=segments,
        stop_at=stop_at,
    )


@dataclass(frozen=True, slots=True)
class Branched:
    """What a branch will be: its spec and preset, the settings of what it shares, and its first own step."""

    spec: RunSpec
    preset: str
    segments: tuple[Segment, ...]
    step: int
    stop_at: int | None


def branched(
    store: Store,
    run_id: str,
    *,
    at: int | Literal["decode"],
    overrides: Sequence[str] = (),
    output: str = "",
) -> Branched:
    """What `branch` would queue. Raises PresetError where what is changed cannot change there."""
    run = store.run(run_id)
    before = decode_spec(run.spec_json)
    spec = override(before, overrides)
    route = route_of_run(run)
    if at == "decode":
        _check_decoding_only(before, spec)
        segments, step = list(run.segments), run.stop_at or route.num_steps
        if step == route.num_steps and _is_other_encoder(before, spec):
            # or what its steps hang on would be another, and they with it
            segments = _segments_before(run, route, step)
    else:
        if not 0 <= at < route.num_steps:
            raise PresetError(
                f"run {run_id} has no step {at} to branch at; expected 0 to {route.num_steps - 1}"
            )
        if at:
            _check_shared(before, spec)
        segments, step = _segments_before(run, route, at), at
    spec = _with_output(spec, of_branch(before.output, spec.output, output))
    stop_at = run.stop_at if at == "decode" else None
    return Branched(spec, run.preset, tuple(segments), step, stop_at)


def is_unchanged(run: RunRecord, wanted: Branched) -> bool:
    """Whether a branch would be its run once more: each step by the same settings, and an output that nobody named."""
    before, after = route_of_run(run), route_of(wanted.spec, wanted.segments)
    if (before.num_steps, run.stop_at) != (
        after.num_steps,
        wanted.stop_at,
    ) or wanted.spec.output.path:
        return False
    starts = {part.start for part in (*before.parts, *after.parts)}
    pairs = [(before.spec, after.spec), *((before.spec_at(at), after.spec_at(at)) for at in starts)]
    return all({*changed_keys(*pair)} <= {"output.path"} for pair in pairs)


def branch(
    store: Store,
    run_id: str,
    *,
    at: int | Literal["decode"],
    overrides: Sequence[str] = (),
    output: str = "",
) -> str:
    """Queue a run that shares the first `at` steps of another and goes on with what `overrides` change; returns
    its id. With "decode" it shares all steps, and only the decoding may change.

    Raises PresetError where what is changed cannot change there, and as `submit` does.
    """
    wanted = branched(store, run_id, at=at, overrides=overrides, output=output)
    return submit(
        store,
        wanted.spec,
        preset=wanted.preset,
        parent=run_id,
        parent_step=wanted.step,
        segments=wanted.segments,
        stop_at=wanted.stop_at,
    )


def resume(store: Store, run_id: str) -> None:
    """Queue a run again that was paused, interrupted or cancelled or has failed; what it stored is not computed
    again. Raises StoreError where there is nothing to resume, InputError where it would read a file that is gone or
    another one by now."""
    _name_output(store, run_id)
    run = store.run(run_id)
    if run.is_finished and run.status != "done":
        _check_given(store, run)
    store.resume(run_id)


def finish(store: Store, run_id: str) -> str:
    """Queue a run again that was to stop early, now to its last step; returns its id."""
    _name_output(store, run_id)
    store.continue_run(run_id)
    return run_id


def review(
    store: Store, run_id: str, *, text: str = "", again: bool = False, as_typed: bool = False
) -> None:
    """Answer a run that stopped at step 0, for its expanded prompt to be read, and queue it again: to go on with
    that, with `text` instead, or with the prompt as typed; or, with `again`, to have it expanded anew and wait.

    Raises PresetError for a text that no prompt can be, StoreError for a run that does not wait.
    """
    spec = decode_spec(store.run(run_id).spec_json)
    wanted = spec.expansion
    if text:
        wanted = msgspec.structs.replace(wanted, text=text)
    elif again:
        # another seed is another question; on a run that fell back to the typed prompt it is the same one
        seed = (wanted.seed + wanted.enabled) % 2**31
        wanted = msgspec.structs.replace(wanted, seed=seed, enabled=True)
    elif as_typed:
        wanted = msgspec.structs.replace(wanted, enabled=False)
    _name_output(store, run_id)
    store.reconsider(
        run_id,
        encode_spec(msgspec.structs.replace(spec, expansion=wanted)),
        stop_at=0 if again else None,
    )


def launch(store: Store, spec: RunSpec, *, preset: str = "") -> str:
    """Check a run and queue it; one that has its prompt expanded anew stops there, to be read (`review`). Its id.
    Raises as `submit` does."""
    stop_at = 0 if is_expansion_new(store, spec) else None
    return submit(store, spec, preset=preset, stop_at=stop_at)


def is_expansion_new(store: Store, spec: RunSpec) -> bool:
    """Whether a run would have its prompt expanded, and not as one before it. Raises as `plan` does."""
    return expands(spec) and bool(plan(store, spec, stop_at=0).job())


def _check_given(store: Store, run: RunRecord) -> None:
    """InputError where a run that goes on would read a file that is gone or another one by now; one that has made a
    step has read all of them."""
    if any(link.stage == "step" for link in store.links_of(run.id)):
        return
    route = route_of_run(run)
    _check_clip(store, route, run.segments)
    if not all(_holds(store, route.spec, name) for name in PICTURES[route.spec.task]):
        plan(store, route.spec, segments=run.segments, stop_at=run.stop_at)


def _check_clip(store: Store, route: Route, segments: Sequence[Segment]) -> None:
    """InputError where a clip is to be encoded whose file is gone or another one by now: here, not once the models are
    loaded."""
    spec = route.parts[0].spec
    path = spec.video.path
    if not path or _holds(store, spec, "video"):
        return
    made = plan(store, route.spec, segments=segments)
    if any(made.states[node] == "compute" for node in made.order if node.stage is CLIP):
        if os.path.isfile(path):
            raise another_clip(path)
        raise InputError(
            f"{path} is not there, and what was encoded of it is not stored; put it there or name another as "
            "video.path (a bundle brings it along for `modiff store import --trust`)",
            key="video.path",
        )


def _holds(store: Store, spec: RunSpec, name: str) -> bool:
    """Whether the file of a picture or a clip still is what the run was queued with."""
    from store.index.index import open_index

    with open_index(store.root) as index:
        return holds_given(spec, name, index)


def _check_encoder(spec: RunSpec) -> None:
    """ComponentError where the video cannot be written here. That the ffmpeg that comes along writes H.264 is taken for
    granted: to start it would take a third of the time of a run that is stored."""
    if "video" in spec.output.kinds:
        name, chosen = format_of(spec.output), ffmpeg.chosen()
        if chosen or name != DEFAULT:
            _check_once(name, chosen)


@cache
def _check_once(name: str, _program: str) -> None:
    encoders.check(name)


def _with_output(spec: RunSpec, output: OutputSpec) -> RunSpec:
    return msgspec.structs.replace(spec, output=output)


def _name_output(store: Store, run_id: str) -> None:
    """A run from a bundle has no output of this machine: it gets one in the current folder."""
    run = store.run(run_id)
    spec = decode_spec(run.spec_json)
    _check_encoder(spec)
    if not run.output:
        kinds = spec.output.kinds
        path = output_path(default_output(spec.output).replace("{run}", run_id), kinds)
        store.set_output(run_id, str(path))


def check(store: Store, spec: RunSpec) -> None:
    """Refuses a run whose components, files, extensions or options do not exist or do not fit.

    Raises ComponentError, CheckpointError or PresetError: one line naming the key.
    """
    from engine.components import choice
    from engine.components.descriptions import Descriptions
    from store.index.index import open_index

    with open_index(store.root) as index:
        choice.check(spec, Descriptions(index))


def settled(store: Store, spec: RunSpec) -> Settled:
    """A run with the pictures and the clip that it begins from looked at, and its size; lines for people about them.
    Raises PresetError, InputError."""
    if not (PICTURES[spec.task] or spec.video.path):
        return Settled(spec)
    from store.index.index import open_index

    def is_stored(key: str) -> bool:
        link = store.find_links([key]).get(key)
        return link is not None and is_blob_stored(store.root, link.digest)

    with open_index(store.root) as index:
        return settle_inputs(spec, index, is_stored)


def verify(store: Store, run_id: str) -> str:
    """Queue a verification: the run computed once more, nothing reused, and held against what is on record. The
    last but one event of its log is the verdict (`Verified`). Returns its id; it is no run of the user's.

    Raises StoreError where nothing of the run is on record.
    """
    run = store.run(run_id)
    if not any(link.stage == "step" for link in store.links_of(run_id)):
        raise StoreError(f"run {run_id} has no steps on record; there is nothing to compare with")
    return store.enqueue(
        run.spec_json,
        preset=run.preset,
        output="",
        segments=run.segments,
        stop_at=run.stop_at,
        verifies=run_id,
    )


def plan(
    store: Store, spec: RunSpec, *, segments: Sequence[Segment] = (), stop_at: int | None = None
) -> Plan:
    """What of a run is stored and what would be computed. Nothing is queued, loaded or written.

    Raises as `submit` does.
    """
    from engine.components import choice
    from engine.components.descriptions import Descriptions
    from engine.plan import make_plan
    from engine.results import StoreRecords
    from engine.tasks.targets import targets_of
    from store.index.index import open_index

    spec = settled(store, choice.settle(validate(spec))).spec
    route = route_of(spec, segments)
    _check_stop(stop_at, route)
    with open_index(store.root) as index:
        describe = Descriptions(index)
        choice.check(spec, describe)
        targets = targets_of(route, describe, stop_at)
        made = make_plan(StoreRecords(store), targets, describe)
    if made.state(EXPAND.name) == "compute":
        choice.check_can_ask([(EXPAND.component, spec.components.prompt_expander)])
    return made


def is_warm(store: Store, made: Plan) -> bool:
    """Whether a live engine has every model in memory that a plan needs, as of its last run. False for one that is at
    work, which may put others in their place."""
    from engine.components.descriptions import Descriptions
    from engine.components.memory.halves import copies
    from engine.components.memory.held import held_name
    from store.index.index import open_index

    idle = [engine for engine in store.engines() if not engine.run and not engine.is_retiring]
    if not idle or not made.needs:
        return False
    with open_index(store.root) as index:
        describe = Descriptions(index)
        needed = {
            held_name(kind, each, describe(kind, part))
            for kind, part in made.needs.items()
            for each in copies(part)
        }
    return any(needed <= {*engine.held} for engine in idle)


def plan_unseen(
    store: Store, spec: RunSpec, *, segments: Sequence[Segment] = (), stop_at: int | None = None
) -> tuple[Plan, dict[str, int]]:
    """As `plan`, for a run whose models are published and need not be here; with the bytes that the weights of each
    component will take in memory. That such a run was made before is not seen.

    Raises as `plan` does, but for what is absent only where it is not published.
    """
    from engine.components import choice
    from engine.components.descriptions import Descriptions
    from engine.components.unseen import Published
    from engine.plan import make_plan
    from engine.results import StoreRecords
    from engine.tasks.targets import targets_of
    from store.index.index import open_index

    spec = settled(store, validate(spec)).spec
    route = route_of(spec, segments)
    _check_stop(stop_at, route)
    with open_index(store.root) as index:
        describe = Published(Descriptions(index))
        about = choice.check(spec, describe)
        targets = targets_of(route, describe, stop_at)
        made = make_plan(StoreRecords(store), targets, describe)
    return made, {kind: each.num_bytes for kind, each in about.items() if each.num_bytes}


def _check_stop(stop_at: int | None, route: Route) -> None:
    if stop_at == 0 and expands(route.spec):
        return
    if stop_at is not None and not 1 <= stop_at <= route.num_steps:
        raise PresetError(f"cannot stop at step {stop_at}: expected 1 to {route.num_steps}")


def _segments_before(run: RunRecord, route: Route, at: int) -> list[Segment]:
    """Whose settings hold for the first `at` steps of a run."""
    parts = [part for part in route.parts if part.start < at]
    return [Segment(min(part.stop, at), encode_spec(part.spec)) for part in parts]


def _is_other_encoder(before: RunSpec, after: RunSpec) -> bool:
    """Whether what a run begins from, a picture or a clip, would go through another VAE."""
    is_given = has_pictures(before) or bool(before.video.path)
    return is_given and before.components.vae != after.components.vae


def _check_shared(before: RunSpec, after: RunSpec) -> None:
    made_with = settings_of(before)
    for key in changed_keys(before, after):
        if reach(key) == "noise":
            raise PresetError(
                f"the shared steps were made with {made_with[key]!r}; branch at step 0 to change it"
                if made_with[key] != ""
                else "the shared steps were made without; branch at step 0 to change it",
                key=key,
            )


def _check_decoding_only(before: RunSpec, after: RunSpec) -> None:
    for key in changed_keys(before, after):
        if reach(key) != "end":
            raise PresetError(
                "at decode only components.vae, fps, output and keep may change; name a step with --at to "
                "change the rest",
                key=key,
            )
