"""Runs on engines of this process, for tests of faults: what they are compared with, and what is on record of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.process.version import installed_version
from engine.process.worker import Worker
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.lineage.events import (
    Event,
    Message,
    PlanMade,
    StepFinished,
)
from store.lineage.records import RunRecord, Segment
from store.store import Store
from tests.delivered import content
from tests.integration.forker import ROOT, Fault

TEST_SECONDS = 300
STEPS = 8
SCHEDULERS = ("unipc", "dpm++", "euler")
THINNED = {
    "keep.every=3": (3, 6),
    "keep.every=0 keep.first=1": (1,),
    "keep.every=0 keep.steps=[2,5]": (2, 5),
    "keep.budget_mb=0": (),
}
VIDEO = '["video", "latents"]'
NUM_TEXTS = 2
QUICK = {"fault": "busy_seconds", "seconds": 0.1}
HOLDER = """
import sys
from store.store import open_store
with open_store(sys.argv[1]) as store:
    connection = store.lineage.db.conn
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE runs SET note='half written'")
    print("held", flush=True)
    sys.stdin.readline()
"""
GATED_STEP = 3
WAIT_SECONDS = 60.0


class Asked:
    is_set = False


class Watched:
    """The pipeline's own runner; `look` sees each event after it was logged."""

    def __init__(self, store: Store, look: Callable[[RunRecord, Event], None]) -> None:
        self.runner = Runner(store)
        self.look = look

    def execute(self, run: RunRecord, spec: RunSpec, *, emit, cancelled, paused, between) -> str:
        def told(event: Event) -> None:
            emit(event)
            self.look(run, event)

        return self.runner.execute(
            run, spec, emit=told, cancelled=cancelled, paused=paused, between=between
        )


class Here:
    """An engine in this process, with its models warm, for faults that leave it alive."""

    def __init__(self, store: Store, like: Here | None = None) -> None:
        """like: an engine whose models this one uses too; to load them takes as long as to compute a run."""
        self.store = store
        self.watched = Watched(store, lambda run, event: None)
        if like is not None:
            self.watched.runner._residents = like.watched.runner.residents()

    def work(self, look: Callable[[RunRecord, Event], None] = lambda run, event: None) -> None:
        """Work off the queue."""
        self.watched.look = look
        with self.store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
            Worker(self.store, "engineaaaa", lambda _: self.watched, Asked()).work(idle_seconds=0)

    def make(self, spec: RunSpec, segments: Sequence[Segment] = ()) -> str:
        """Queue a run and see it done."""
        run_id = enqueue(self.store, spec, segments)
        self.work()
        assert done(self.store, run_id)
        return run_id


class Calm(Here):
    """An engine whose store nothing happens to: what the others are compared with."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._made: dict[tuple[bytes, tuple[Segment, ...]], str] = {}

    def make(self, spec: RunSpec, segments: Sequence[Segment] = ()) -> str:
        """A run of that spec, one for all who ask."""
        wanted = (encode_spec(spec), tuple(segments))
        if wanted not in self._made:
            self._made[wanted] = super().make(spec, segments)
        return self._made[wanted]


def spec_of(*overrides: str, kinds: str = '["latents"]') -> RunSpec:
    size = ("width=16", "height=16", "frames=5")
    own = (f"scheduler.steps={STEPS}", *size, f"output.kinds={kinds}")
    return load_preset("micro", [*own, *overrides])


def enqueue(store: Store, spec: RunSpec, segments: Sequence[Segment] = ()) -> str:
    return store.enqueue(
        encode_spec(spec),
        preset="micro",
        output=str(store.root.parent / "{run}.mp4"),
        segments=segments,
    )


def done(store: Store, run_id: str) -> bool:
    run = store.run(run_id)
    assert (run.status, run.error) == ("done", "")
    return True


def steps(store: Store, run_id: str) -> list[tuple[int, str, str]]:
    """(index, key, digest of the latents) of what the run saw."""
    found = [link for link in store.links_of(run_id) if link.stage == "step"]
    return [(link.index, link.key, link.latents) for link in found]


def assert_same(store: Store, run_id: str, calm: Calm, spec: RunSpec, segments=()) -> None:
    """The run ended as it does where nothing happens."""
    other = calm.make(spec, segments)
    assert done(store, run_id)
    assert store.run(run_id).latents == calm.store.run(other).latents
    assert steps(store, run_id) == steps(calm.store, other)
    ours, theirs = (
        Path(each.run(of).output) for each, of in ((store, run_id), (calm.store, other))
    )
    if "latents" in spec.output.kinds:
        found, expected = ours.with_suffix(".safetensors"), theirs.with_suffix(".safetensors")
        assert content(found) == content(expected)
    if "video" in spec.output.kinds:
        assert content(ours) == content(theirs)


def told(store: Store, run_id: str, kind: type[Event]) -> list[Event]:
    return [event for _, event in store.events(run_id) if isinstance(event, kind)]


def warnings(store: Store, run_id: str) -> list[str]:
    return [event.text for event in told(store, run_id, Message) if event.level == "warning"]


def computed(store: Store, run_id: str) -> list[int]:
    """The steps that were computed for a run, in all of its attempts."""
    return [e.step for e in told(store, run_id, StepFinished) if e.source == "computed"]


def last_plan(store: Store, run_id: str) -> PlanMade:
    return told(store, run_id, PlanMade)[-1]


def of_stage(store: Store, run_id: str, stage: str, index: int = 0):
    return next(
        link for link in store.links_of(run_id) if (link.stage, link.index) == (stage, index)
    )


def no_room(target: str, error: str, path: str, first: int = 1, last: int = 10**9) -> Fault:
    return {
        "fault": "fail",
        "target": target,
        "error": error,
        "path": path,
        "first": first,
        "last": last,
    }


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Fails after a minute in which it was not so."""
    last = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < last, f"not {what} within {WAIT_SECONDS:g} s"
        time.sleep(0.005)


@contextlib.contextmanager
def held(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A viewer in the middle of a write, for as long as nobody ends it."""
    viewer = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert viewer.stdout is not None
        assert viewer.stdout.readline() == "held\n"
        yield viewer
    finally:
        viewer.kill()
        viewer.communicate()


def wait_for(store: Store, run_id: str, kind: type[Event]) -> None:
    """Until the run has told such an event; fails after a minute without one."""
    last = time.monotonic() + WAIT_SECONDS
    while not told(store, run_id, kind):
        assert time.monotonic() < last, f"no {kind.__name__} within {WAIT_SECONDS:g} s"
        time.sleep(0.005)


def gated(gate: Path) -> Fault:
    target = "engine.stages.denoise:_check_finite"
    return {"fault": "wait_for_file", "target": target, "call": GATED_STEP, "path": str(gate)}
