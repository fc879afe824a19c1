"""An engine's work in this very process: leases the first run of the queue, executes it and records how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import RunPaused
from engine.runner import Runner
from presets.encoding import decode_spec
from store.lineage.events import Event, PlanMade, StepFinished

# Overrides for the smallest clip that has a frame after the first: two frames of 2 by 2 latents, a fortieth of the
# preset's.
SMALL = ("width=16", "height=16", "frames=5")

# To be registered by whoever opens the store.
ENGINE = "engineaaaa"


def execute(runner: Runner, run_id: str, *, pause_after: int | None = None) -> list[Event]:
    """Execute the run, which is the first in the queue, as an engine does; its events in this attempt."""
    store = runner.store
    run = store.lease(ENGINE)
    assert run is not None
    assert run.id == run_id
    events: list[Event] = []
    done = 0

    def emit(event: Event) -> None:
        nonlocal done
        done += isinstance(event, StepFinished)
        events.append(event)
        store.append(run_id, [event])

    try:
        output = runner.execute(
            run,
            decode_spec(run.spec_json),
            emit=emit,
            cancelled=lambda: False,
            paused=lambda: pause_after is not None and done >= pause_after,
        )
    except RunPaused:
        store.finish(run_id, "paused")
    else:
        store.finish(run_id, "done", output=output)
    return events


def plan_in(events: Sequence[Event]) -> PlanMade:
    return next(event for event in events if isinstance(event, PlanMade))
