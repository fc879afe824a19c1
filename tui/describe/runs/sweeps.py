"""A sweep before it is queued: its runs, checked as the command line checks them, and what all of them would take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from engine.output.taken import check_outputs
from engine.tasks.stages import DECODE, DENOISE, LOAD
from tui.describe.plan import journal_bytes
from tui.text import counted
from tui.units import duration, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.graph import Node
    from engine.plan import Plan
    from engine.runs.estimates import Experience
    from engine.runs.sweep import Axis, Member
    from presets.spec.run import RunSpec
    from store.store import Store

# The command line asks for --yes above this: at a minute each, a thousand runs are most of a day.
MAX_UNASKED = 1000
# More values of a range than these are told by its first ones and its last.
MAX_LISTED = 8
# A plan of micro takes a hundredth of a second, of a long run more.
MAX_PLANNED = 64


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """What a sweep would compute; steps that several runs share count once. total_steps: of all runs. fresh_steps:
    of them, those to compute; stored_steps: those that are stored. seconds: None unless all of it is known."""

    num_runs: int
    total_steps: int
    stored_steps: int
    fresh_steps: int
    seconds: float | None
    bytes: int

    @property
    def shared_steps(self) -> int:
        """Those that another run of the sweep computes."""
        return self.total_steps - self.stored_steps - self.fresh_steps


def checked_members(
    store: Store,
    axes: Sequence[Axis],
    load: Callable[[Sequence[str]], RunSpec],
    *,
    from_step: int | None = None,
    stop_at: int | None = None,
    pattern: str = "",
) -> list[Member]:
    """The runs of a sweep, in the order in which they are to be queued; nothing is. load: as of
    `engine.runs.sweep.make_members`; pattern: of the outputs, as of `with_outputs`. Raises as these do, and
    PresetError where an output is taken."""
    from engine import client
    from engine.runs.sweep import make_members, with_outputs

    check = partial(client.check, store)
    look = partial(client.settled, store)
    members = make_members(axes, load, check, look=look, from_step=from_step, stop_at=stop_at)
    members = with_outputs(members, pattern)
    check_outputs(store, [member.spec for member in members])
    return members


def range_lines(axes: Sequence[Axis]) -> list[str]:
    """A line for each axis with a range: how many values it has, and which."""
    return [
        f"{axis.key}: {counted(len(axis.values), 'value')}, {_listed(axis.values)}"
        for axis in axes
        if axis.has_range
    ]


def _listed(values: Sequence[str]) -> str:
    if len(values) > MAX_LISTED:
        values = [*values[: MAX_LISTED - 2], "…", values[-1]]
    return ", ".join(values)


def num_variants(over: Sequence[str]) -> int:
    """How many runs `variants` makes. Raises PresetError for more than MAX_UNASKED."""
    from engine.runs.sweep import count, parse_axes
    from presets.errors import PresetError

    total = count(parse_axes(over))
    if total > MAX_UNASKED:
        raise PresetError(f"this would be {total} runs; expected at most {MAX_UNASKED}")
    return total


def variants(
    store: Store, spec: RunSpec, over: Sequence[str], *, stop_at: int | None
) -> list[Member]:
    """Runs like `spec`, one for every combination of values. over: as of `modiff sweep --over`. A path of its output
    is their pattern. Raises as `checked_members` does."""
    from engine.runs.sweep import parse_axes
    from presets.library.loading import override

    num_variants(over)
    axes, load = parse_axes(over), partial(override, spec)
    return checked_members(store, axes, load, stop_at=stop_at, pattern=spec.output.path)


def planned_variants(
    store: Store, spec: RunSpec, over: Sequence[str], *, stop_at: int | None
) -> tuple[int, PlannedSweep | None]:
    """How many variants of a run there would be, and what they would compute together; None where they are too many to
    be planned while somebody types. Raises as `variants` does."""
    total = num_variants(over)
    if total > MAX_PLANNED:
        return total, None
    members = variants(store, spec, over, stop_at=stop_at)
    return total, planned_sweep(store, members, stop_at=stop_at)


def planned_sweep(
    store: Store, members: Sequence[Member], *, stop_at: int | None = None
) -> PlannedSweep:
    """The plans of all runs in one. Nothing is queued, loaded or written. Raises as `engine.client.submit` does."""
    from engine import client
    from engine.runs.estimates import experience_with, likeness

    past: dict[str, Experience] = {}
    seen: set[str] = set()
    loaded: set[str] = set()
    total = stored = fresh_steps = num_bytes = 0
    seconds: list[float | None] = []
    for member in members:
        plan = client.plan(store, member.spec, segments=member.segments, stop_at=stop_at)
        like = likeness(member.spec)
        if like not in past:
            past[like] = experience_with(store, member.spec)
        known = past[like]
        fresh = _fresh_nodes(plan, seen)
        titles = [node.stage.told for node in fresh]
        steps, num_steps = titles.count(DENOISE.name), len(plan.chain)
        if fresh and like not in loaded:
            loaded.add(like)
            seconds.append(known.seconds.get(LOAD.name))
        if steps:
            step = known.seconds.get(DENOISE.name)
            seconds.append(None if step is None else step * steps)
            kept = journal_bytes(member.spec, num_steps - steps, num_steps, plan.latent_bytes)
            num_bytes += kept + plan.latent_bytes
        if DECODE.name in titles:
            num_bytes += round(known.video_bytes or 0)
        seconds += [known.seconds.get(title) for title in set(titles) - {DENOISE.name}]
        total += num_steps
        stored += plan.num_stored_steps
        fresh_steps += steps
    all_known = [each for each in seconds if each is not None]
    return PlannedSweep(
        num_runs=len(members),
        total_steps=total,
        stored_steps=stored,
        fresh_steps=fresh_steps,
        seconds=sum(all_known) if len(all_known) == len(seconds) else None,
        bytes=num_bytes,
    )


def _fresh_nodes(plan: Plan, seen: set[str]) -> list[Node]:
    """The nodes to compute that are none of those that earlier plans compute; these become `seen` with them."""
    from engine.graph import structures

    names = structures(plan.order)
    fresh = [
        node
        for node in plan.order
        if plan.states[node] == "compute" and not node.stage.is_free and names[node] not in seen
    ]
    seen.update(names[node] for node in fresh)
    return fresh


def sweep_lines(planned: PlannedSweep) -> list[str]:
    """What it comes to, in words."""
    runs = counted(planned.num_runs, "run")
    parts = [f"{planned.fresh_steps} of {planned.total_steps} steps to compute"]
    if planned.shared_steps:
        parts.append(f"{planned.shared_steps} shared among them")
    if planned.stored_steps:
        parts.append(f"{planned.stored_steps} stored")
    time = "not known: no like run yet" if planned.seconds is None else duration(planned.seconds)
    return [
        runs,
        f"steps   {', '.join(parts)}",
        f"time    {time}",
        f"disk    {size(planned.bytes) if planned.bytes else 'nothing'}",
    ]
