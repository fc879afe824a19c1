"""Faults while a chain is computed, stored and read, injected for real: after each, no stored link is lost, nothing
wrong is reused, and the next run works."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from engine import client
from engine.chain import journal
from engine.checkpoints.locate import locate
from engine.models.text_encoders.t5 import UMT5
from engine.process.version import installed_version
from engine.process.worker import Worker, main
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library import load_preset
from presets.spec import RunSpec
from store.blobs.blobs import blob_path
from store.database.database import immediate
from store.index.index import open_index
from store.index.previews import get_preview
from store.lineage.events import (
    Event,
    Message,
    PlanMade,
    RunStarted,
    StepFinished,
)
from store.lineage.records import RunRecord, Segment
from store.store import Store, open_store
from tests.benchmark.storm import check_store
from tests.delivered import content
from tests.integration.chain_engine import ROOT, Engines, Fault

TEST_SECONDS = 120
STEPS = 8
SCHEDULERS = ("unipc", "dpm++", "euler")
THINNED = {
    "keep.every=3": (3, 6),
    "keep.every=0 keep.first=1": (1,),
    "keep.every=0 keep.steps=[2,5]": (2, 5),
    "keep.budget_mb=0": (),
}


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A test that waits for what never comes fails instead of hanging."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError(f"the test was still waiting after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with Engines() as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


class Asked:
    is_set = False


class Watched:
    """The pipeline's own runner; `look` sees each event after it was logged."""

    def __init__(self, store: Store, look: Callable[[RunRecord, Event], None]) -> None:
        self.runner = Runner(store)
        self.look = look

    def execute(self, run: RunRecord, spec: RunSpec, *, emit, cancelled, paused) -> str:
        def told(event: Event) -> None:
            emit(event)
            self.look(run, event)

        return self.runner.execute(run, spec, emit=told, cancelled=cancelled, paused=paused)


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


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    with open_store(tmp_path_factory.mktemp("calm") / "store") as opened:
        yield Calm(opened)


@pytest.fixture
def here(store: Store, calm: Calm) -> Here:
    return Here(store, like=calm)


def spec_of(*overrides: str, kinds: str = '["latents"]') -> RunSpec:
    own = (f"scheduler.steps={STEPS}", f"output.kinds={kinds}")
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


# Pause, cancel, resume


def stop_at(store: Store, step: int, request: str) -> Callable[[RunRecord, Event], None]:
    """Ask for the end of a run at the moment when it has finished that step."""

    def look(run: RunRecord, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == step and event.source == "computed":
            getattr(store, f"request_{request}")(run.id)

    return look


def forget_all(store: Store) -> None:
    """As if nothing had been made yet."""
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_stopped_after_any_step_goes_on_to_the_same_bits(here, calm, scheduler):
    store, spec = here.store, spec_of(f"scheduler.name={scheduler}")
    for step in range(1, STEPS + 1):
        forget_all(store)
        pauses = (step + SCHEDULERS.index(scheduler)) % 2 == 0
        run_id = enqueue(store, spec)
        here.work(stop_at(store, step, "pause" if pauses else "cancel"))
        assert store.run(run_id).status == ("paused" if pauses else "cancelled")
        assert computed(store, run_id) == list(range(1, step + 1))
        client.resume(store, run_id)
        here.work()
        assert last_plan(store, run_id).reused_steps == step
        assert computed(store, run_id) == list(range(1, STEPS + 1))
        assert_same(store, run_id, calm, spec)
    check_store(store)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("keep", THINNED)
def test_a_thinned_run_goes_on_from_the_nearest_keyframe(here, calm, scheduler, keep):
    """One run that is stopped again and again."""
    store = here.store
    spec = spec_of(f"scheduler.name={scheduler}", *keep.split())
    run_id = enqueue(store, spec)
    reached = 0
    for step in (2, 3, 5, 8):
        here.work(stop_at(store, step, "pause"))
        assert store.run(run_id).status == "paused"
        keyframe = max((kept for kept in THINNED[keep] if kept <= reached), default=0)
        assert last_plan(store, run_id).reused_steps == keyframe
        client.resume(store, run_id)
        reached = step
    here.work()
    assert last_plan(store, run_id).reused_steps == max(THINNED[keep], default=0)
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    check_store(store)


def test_a_branch_may_encode_the_same_prompt_elsewhere(here, calm):
    """Where an encoder runs is in no key: both parts of the run have one prompt between them."""
    base, spec = spec_of(), spec_of("components.text_encoder.device=auto", "guidance.scale=6")
    segments = [Segment(4, encode_spec(base))]
    run_id = here.make(spec, segments)
    elsewhere = spec_of("guidance.scale=6")
    assert_same(here.store, run_id, calm, elsewhere, segments)


def test_a_sweep_computes_what_its_runs_share_once(here, calm):
    """4 seeds x 3 scales of guidance that differ from step 10 on: 4 prefixes of 10 steps."""
    store, total, at = here.store, 12, 10
    runs = []
    for seed, scale in itertools.product(range(4), (2.5, 4, 6)):
        base = spec_of(f"scheduler.steps={total}", f"seed={seed}")
        spec = spec_of(f"scheduler.steps={total}", f"seed={seed}", f"guidance.scale={scale}")
        segments = [Segment(at, encode_spec(base))]
        output = str(store.root.parent / f"{seed}-{scale}.mp4")
        runs.append((client.submit(store, spec, output=output, segments=segments), spec, segments))
    here.work()
    counts = [len(computed(store, run_id)) for run_id, _, _ in runs]
    assert sum(counts) == 4 * at + 12 * (total - at)
    assert sorted(counts) == [total - at] * 8 + [total] * 4
    for run_id, spec, segments in (runs[1], runs[-1]):
        assert_same(store, run_id, calm, spec, segments)


# Kills at each point of what is written


VIDEO = '["video", "latents"]'
NUM_TEXTS = 2
# Blobs in order: the prompts, the steps, the latents, the video; each followed by its row.
KILLS: list[tuple[str, int, str]] = [
    ("store.blobs.blobs:write_durably", 1, "before"),
    ("store.blobs.blobs:put", 1, "after"),
    *(
        (point, NUM_TEXTS + 1, "after")
        for point in ("store.blobs.blobs:put", "store.lineage.links:record")
    ),
    *(
        (point, NUM_TEXTS + 5, "after")
        for point in ("store.blobs.blobs:put", "store.lineage.links:record")
    ),
    ("store.blobs.files:_write_draft", NUM_TEXTS + 4, "after"),
    ("store.blobs.files:sync_folder", NUM_TEXTS + 6, "before"),
    ("store.blobs.blobs:put", NUM_TEXTS + STEPS + 1, "before"),
    ("store.blobs.blobs:put", NUM_TEXTS + STEPS + 1, "after"),
    ("store.lineage.queue:set_latents", 1, "after"),
    ("engine.stages.video:decode", 1, "before"),
    ("engine.output.media:encode_video", 1, "after"),
    ("store.blobs.blobs:put", NUM_TEXTS + STEPS + 2, "after"),
    ("store.lineage.links:record", NUM_TEXTS + STEPS + 1, "after"),
    ("engine.output.media:write_bytes", 1, "after"),
    ("engine.output.media:write_bytes", 2, "after"),
    ("store.lineage.queue:finish", 1, "before"),
]


@pytest.mark.parametrize(("target", "call", "when"), KILLS)
def test_a_kill_at_any_write_loses_nothing_that_is_on_record(
    store, engines, calm, target, call, when
):
    spec = spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    fault = {"fault": "kill", "target": target, "call": call, "when": when}
    assert engines.serve(store.root, fault) == -signal.SIGKILL
    assert store.recover() == [run_id]
    on_record = steps(store, run_id)
    assert [index for index, _, _ in on_record] == list(range(len(on_record)))
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert last_plan(store, run_id).reused_steps == len(on_record)
    assert steps(store, run_id)[: len(on_record)] == on_record
    assert_same(store, run_id, calm, spec)
    assert store.run(run_id).output == str(store.root.parent / f"{run_id}.mp4")
    assert warnings(store, run_id) == []
    check_store(store)


# No room


QUICK = {"fault": "busy_seconds", "seconds": 0.1}


def no_room(target: str, error: str, path: str, first: int = 1, last: int = 10**9) -> Fault:
    return {
        "fault": "fail",
        "target": target,
        "error": error,
        "path": path,
        "first": first,
        "last": last,
    }


# Drafts in order: the prompts, the steps, the latents, the video. See KILLS.
FULL: dict[str, tuple[Fault, ...]] = {
    "all blobs": (no_room("os:write", "ENOSPC", "/store/tmp/"),),
    "from the third step on": (no_room("os:write", "ENOSPC", "/store/tmp/", NUM_TEXTS + 3),),
    "one step": (no_room("os:write", "EDQUOT", "/store/tmp/", NUM_TEXTS + 3, NUM_TEXTS + 3),),
    "the latents": (no_room("os:fsync", "ENOSPC", "/store/tmp/", 11, 11),),
    "the video": (no_room("os:fsync", "EIO", "/store/tmp/", 12),),
    "folders of blobs": (no_room("os:mkdir", "EROFS", "/store/blobs/", 3),),
    "the index": (no_room("os:mkdir", "ENOSPC", "/store/index"),),
    "files of 16 kB": ({"fault": "no_larger_files", "num_bytes": 16_000},),
    "files of 200 kB": ({"fault": "no_larger_files", "num_bytes": 200_000}, QUICK),
    "the database": ({"fault": "full_database", "pages": 0}, QUICK),
    "the database, later": ({"fault": "full_database", "pages": 3}, QUICK),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_costs_the_store_its_part_and_no_result(store, engines, calm, where):
    spec = spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    code = engines.serve(store.root, *FULL[where])
    assert code in (0, 1)
    store.recover()
    check_degraded(store, run_id, calm, spec)
    again = enqueue(store, spec)
    assert engines.serve(store.root) == 0
    assert_same(store, again, calm, spec)
    assert warnings(store, again) == []
    check_store(store)


def check_degraded(store: Store, run_id: str, calm: Calm, spec: RunSpec) -> None:
    """A run that its store failed ended well with its files as they should be, or with one line that says why; what
    is stored is whole."""
    run = store.run(run_id)
    told = warnings(store, run_id)
    assert len(told) == len(set(told))
    assert all("could not be" in text and "\n" not in text for text in told)
    store.sweep()
    check_store(store)
    if run.status == "done":
        other = calm.make(spec)
        found, expected = Path(run.output), Path(calm.store.run(other).output)
        for suffix in (".mp4", ".safetensors"):
            ours, theirs = (content(path.with_suffix(suffix)) for path in (found, expected))
            assert ours == theirs
    else:
        assert run.status in ("queued", "failed", "interrupted")
        assert "\n" not in run.error
        if run.status != "queued":
            assert run.error


def test_a_replay_needs_no_room_in_the_database(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    enqueue(store, spec)
    assert engines.serve(store.root) == 0
    run_id = enqueue(store, spec)
    assert engines.serve(store.root, {"fault": "full_database", "pages": 0}, QUICK) == 0
    store.recover()
    check_degraded(store, run_id, calm, spec)
    assert Path(store.run(run_id).output).is_file()


def test_whatever_ends_the_journal_the_run_goes_on(here, calm, monkeypatch):
    """Not only what a store says: one step is lost, and the next one is kept with all that it takes to go on."""
    calls = itertools.count(1)
    digest = journal.latents_digest

    def third(*given):
        if next(calls) == 3:
            raise MemoryError("no memory left")
        return digest(*given)

    monkeypatch.setattr(journal, "latents_digest", third)
    spec = spec_of("scheduler.steps=16")
    run_id = here.make(spec)
    assert warnings(here.store, run_id) == ["step 3 could not be stored: no memory left"]
    assert [index for index, _, _ in steps(here.store, run_id)] == [0, 1, *range(3, 16)]
    assert here.store.run(run_id).latents == calm.store.run(calm.make(spec)).latents
    again = here.make(spec)
    assert computed(here.store, again) == []
    assert here.store.run(again).latents == here.store.run(run_id).latents
    segments = [Segment(12, encode_spec(spec))]
    branched = spec_of("scheduler.steps=16", "guidance.scale=6")
    branch = here.make(branched, segments)
    assert computed(here.store, branch) == [13, 14, 15, 16]
    other = calm.make(branched, segments)
    assert here.store.run(branch).latents == calm.store.run(other).latents


@contextlib.contextmanager
def elsewhere(mount: str) -> Iterator[Engines]:
    """Engines that see another file system, where this system lets a user have one."""
    probe = ["unshare", "-Urm", "sh", "-c", mount]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs user namespaces")
    with Engines(mount) as opened:
        yield opened


def test_a_disk_that_is_really_full(tmp_path, calm):
    """4 MB, nearly all of it taken by something else."""
    disk, spec = tmp_path / "disk", spec_of(kinds=VIDEO)
    disk.mkdir()
    with open_store(tmp_path / "before" / "store") as store:
        run_id = enqueue(store, spec)
    fill = f"cp -r {store.root} {disk}/store; cat /dev/zero > {disk}/rest; truncate -s -500K {disk}/rest"
    with elsewhere(
        f"mount -t tmpfs -o size=4m tmpfs {disk} && {{ {fill}; }} 2>/dev/null"
    ) as engines:
        assert engines.serve(disk / "store", QUICK) in (0, 1)
        # as another process sees it, since SQLite follows the way into another file system back out of it
        seen = Path(f"/proc/{engines.pid}/root", *disk.parts[1:], "store")
        shutil.copytree(seen, tmp_path / "after" / "store")
    with open_store(tmp_path / "after" / "store") as store:
        store.recover()
        logs = [path.read_text() for path in (store.root / "logs").iterdir()]
        assert any("no space left" in log for log in logs)
        check_degraded(store, run_id, calm, spec)
        here = Here(store, like=calm)
        assert_same(store, here.make(spec), calm, spec)
        client.resume(store, run_id)
        here.work()
        assert_same(store, run_id, calm, spec)
        check_store(store)


def test_a_store_that_cannot_be_written_is_told_in_one_line(store, calm, tmp_path):
    spec = spec_of()
    run_id = enqueue(store, spec)
    root = store.root
    with elsewhere(f"mount --bind {root} {root} && mount -o remount,bind,ro {root}") as engines:
        engine = engines.start(root)
        assert engines.wait(engine) == 1
    assert store.run(run_id).status == "queued"
    assert_same(store, Here(store, like=calm).make(spec), calm, spec)
    assert done(store, run_id)
    check_store(store)


# Damage


DAMAGES = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "grown": lambda path: write(path, path.read_bytes() + b"\0"),
    "zeros": lambda path: write(path, bytes(path.stat().st_size)),
    "a bit of the header": lambda path: flip(path, 3),
    "a bit in the middle": lambda path: flip(path, path.stat().st_size // 2),
    "the last bit": lambda path: flip(path, -1),
    "deleted": lambda path: path.unlink(),
    "its folder deleted": lambda path: shutil.rmtree(path.parent.parent),
    "a link": lambda path: replace(path, lambda: path.symlink_to(move(path))),
    "a link to nothing": lambda path: replace(path, lambda: path.symlink_to("/nonexistent")),
    "a pipe": lambda path: replace(path, lambda: os.mkfifo(path)),
    "a folder": lambda path: replace(path, lambda: (path.mkdir(), (path / "file").write_text("x"))),
}
# What is not a file is no blob to a plan either; what is one turns out to be damaged when it is read.
UNSEEN = ("deleted", "its folder deleted", "a link to nothing", "a pipe", "a folder")


def write(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    write(path, data)


def replace(path: Path, put: Callable[[], object]) -> None:
    kept = path.read_bytes()
    path.unlink()
    (path.parents[3] / "kept").write_bytes(kept)
    put()


def move(path: Path) -> Path:
    return path.parents[3] / "kept"


def check_repaired(store: Store, run_id: str, digest: str, damage: str) -> None:
    """The damage was told, set aside and mended."""
    told = [text for text in warnings(store, run_id) if digest in text]
    assert len(told) == (0 if damage in UNSEEN else 1), told
    if told:
        assert "was damaged" in told[0]
    if "deleted" not in damage:
        [aside] = (store.root / "quarantine").glob(f"{digest.removeprefix('sha256:')}.*")
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    assert blob_path(store.root, digest).is_file()
    check_store(store)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_computed_again(here, calm, damage):
    """Read by a branch behind it, which then finds it whole."""
    store, spec = here.store, spec_of("scheduler.steps=4")
    parent = here.make(spec)
    digest = of_stage(store, parent, "step", 1).digest
    DAMAGES[damage](blob_path(store.root, digest))
    segments = [Segment(3, encode_spec(spec))]
    branched = spec_of("scheduler.steps=4", "guidance.scale=6")
    branch = here.make(branched, segments)
    assert_same(store, branch, calm, branched, segments)
    assert computed(store, branch) == [2, 3, 4]
    check_repaired(store, branch, digest, damage)
    again = here.make(branched, segments)
    assert computed(store, again) == []
    assert warnings(store, again) == []


SOME = ("a bit in the middle", "cut short", "zeros", "deleted", "a link", "a folder")


@pytest.mark.parametrize("damage", SOME)
def test_a_damaged_prompt_is_encoded_again(here, calm, damage):
    store = here.store
    digest = of_stage(store, here.make(spec_of("scheduler.steps=2")), "text").digest
    DAMAGES[damage](blob_path(store.root, digest))
    other = spec_of("scheduler.steps=2", "seed=7")
    run_id = here.make(other)
    assert_same(store, run_id, calm, other)
    check_repaired(store, run_id, digest, damage)
    again = here.make(spec_of("scheduler.steps=2", "seed=8"))
    assert of_stage(store, again, "text").source == "reused"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", SOME)
def test_damaged_latents_are_made_of_the_steps_again(here, calm, damage):
    store, spec = here.store, spec_of("scheduler.steps=4")
    digest = store.run(here.make(spec)).latents
    DAMAGES[damage](blob_path(store.root, digest))
    run_id = here.make(spec)
    assert computed(store, run_id) == []
    assert_same(store, run_id, calm, spec)
    check_repaired(store, run_id, digest, damage)
    again = here.make(spec)
    assert last_plan(store, again).stages["denoise"] == "stored"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", ["a bit in the middle", "deleted", "a pipe"])
def test_a_damaged_video_is_decoded_again(here, calm, damage):
    store, spec = here.store, spec_of(kinds=VIDEO)
    digest = of_stage(store, here.make(spec), "video").digest
    DAMAGES[damage](blob_path(store.root, digest))
    run_id = here.make(spec)
    assert computed(store, run_id) == []
    assert_same(store, run_id, calm, spec)
    assert len(warnings(store, run_id)) == (damage not in UNSEEN)
    check_store(store)
    again = here.make(spec)
    assert last_plan(store, again).stages["decode"] == "stored"
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", SOME)
def test_behind_a_damaged_keyframe_there_is_an_earlier_one(here, calm, damage):
    store, spec = here.store, spec_of("keep.every=3")
    parent = here.make(spec)
    key = of_stage(store, parent, "step", 5).key
    digest = store.find_links([key])[key].state
    DAMAGES[damage](blob_path(store.root, digest))
    segments = [Segment(7, encode_spec(spec))]
    branched = spec_of("keep.every=3", "guidance.scale=6")
    run_id = here.make(branched, segments)
    assert computed(store, run_id) == [4, 5, 6, 7, 8]
    assert_same(store, run_id, calm, branched, segments)
    check_repaired(store, run_id, digest, damage)
    again = here.make(branched, segments)
    assert warnings(store, again) == []


def test_everything_damaged_at_once_is_everything_made_again(here, calm):
    """The latents as they are needed, then the steps under them, then the prompts of those."""
    store, spec = here.store, spec_of(kinds=VIDEO)
    here.make(spec)
    for path in (store.root / "blobs").rglob("*"):
        if path.is_file():
            flip(path, -1)
    run_id = here.make(spec)
    assert computed(store, run_id) == list(range(1, STEPS + 1))
    assert_same(store, run_id, calm, spec)
    assert all("\n" not in text for text in warnings(store, run_id))
    check_store(store)
    again = here.make(spec)
    assert computed(store, again) == []
    assert warnings(store, again) == []


@pytest.mark.parametrize("damage", ["a bit in the middle", "deleted"])
def test_a_prompt_that_is_encoded_otherwise_now_is_another_chain(here, calm, damage, monkeypatch):
    """A machine or a library that rounds otherwise: what was made from the first bytes is not what comes of these."""
    store, spec = here.store, spec_of()
    parent = here.make(spec)
    DAMAGES[damage](blob_path(store.root, of_stage(store, parent, "text").digest))
    encode = UMT5.encode
    monkeypatch.setattr(UMT5, "encode", lambda *given: encode(*given) * 1.01)
    run_id = here.make(spec_of("seed=9"))
    text = of_stage(store, run_id, "text")
    for step in steps(store, run_id):
        facts = json.loads(store.find_links([step[1]])[step[1]].facts)
        assert facts["inputs"]["positive.text"] == text.digest
    again = here.make(spec_of("seed=9"))
    assert store.run(again).latents == store.run(run_id).latents


# A store that fails for a while


@contextlib.contextmanager
def away(store: Store) -> Iterator[None]:
    """A store without the folder for its drafts: no blob can be written, the database can."""
    drafts = store.root / "tmp"
    aside = drafts.rename(store.root / "aside")
    try:
        yield
    finally:
        aside.rename(drafts)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Fails after a minute in which it was not so."""
    last = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < last, f"not {what} within {WAIT_SECONDS:g} s"
        time.sleep(0.005)


class Failing:
    """A store that takes no blob from a step of a run on to another one; what is seen then.

    until: the store works again before that step is told of. look: called with each step meanwhile and after."""

    def __init__(
        self, store: Store, first: int, until: int, look: Callable[[int], None] = lambda step: None
    ) -> None:
        self.store = store
        self.first, self.until = first, until
        self.look = look
        self._stack = contextlib.ExitStack()

    def __call__(self, run: RunRecord, event: Event) -> None:
        if not isinstance(event, StepFinished):
            return
        if event.step == self.first - 1:
            wait_until(lambda: len(steps(self.store, run.id)) == event.step, "stored")
            self._stack.enter_context(away(self.store))
        if event.step == self.until - 1:
            self._stack.close()
        self.look(event.step)


def stored_steps(store: Store, run_id: str) -> list[int]:
    """The steps of which the store has bytes, from 1."""
    links = {link.index: link.key for link in store.links_of(run_id) if link.stage == "step"}
    found = store.find_links(list(links.values()))
    return [
        index + 1
        for index, key in sorted(links.items())
        if any(
            d and blob_path(store.root, d).is_file() for d in (found[key].digest, found[key].state)
        )
    ]


def infos(store: Store, run_id: str) -> list[str]:
    return [event.text for event in told(store, run_id, Message) if event.level == "info"]


def test_a_store_that_fails_for_a_while_gets_what_it_missed_before_the_run_ends(here, calm):
    """Told when it begins and when it ends, while the run goes on."""
    store, spec = here.store, spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)

    def look(step: int) -> None:
        if step == 5:
            wait_until(lambda: len(warnings(store, run_id)) == 1, "told")
            assert len(steps(store, run_id)) == 2
        if step == 9:
            wait_until(lambda: len(steps(store, run_id)) == 9, "caught up")

    here.work(Failing(store, 3, 8, look))
    [warning] = warnings(store, run_id)
    assert warning.startswith("step 3 could not be stored yet (reading or writing ")
    assert any(
        re.match("steps are stored again, [1-9] of them late$", t) for t in infos(store, run_id)
    )
    assert stored_steps(store, run_id) == list(range(1, 17))
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_each_trouble_of_a_store_is_told_once(here, calm):
    store, spec = here.store, spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)
    troubles = Failing(store, 3, 6), Failing(store, 9, 12)

    def look(run: RunRecord, event: Event) -> None:
        for each in troubles:
            each(run, event)

    here.work(look)
    assert [text[:7].strip() for text in warnings(store, run_id)] == ["step 3", "step 9"]
    assert stored_steps(store, run_id) == list(range(1, 17))
    assert_same(store, run_id, calm, spec)


def test_a_store_that_fails_to_the_end_costs_the_steps_and_says_how_many(here, calm):
    store, spec = here.store, spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    stack = contextlib.ExitStack()

    def look(run: RunRecord, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            wait_until(lambda: len(steps(store, run_id)) == 2, "stored")
            stack.enter_context(away(store))

    with stack:
        here.work(look)
    assert done(store, run_id)
    assert (
        len(warnings(store, run_id)) == 4
    )  # the first step, the rest of them, the latents, the video
    assert warnings(store, run_id)[1].startswith("6 of the steps could not be stored: ")
    assert stored_steps(store, run_id) == [1, 2]
    again = here.make(spec)
    assert last_plan(store, again).reused_steps == 2
    assert_same(store, again, calm, spec)


def test_what_is_kept_in_memory_is_bounded_and_the_newest_of_it_can_be_gone_on_from(
    here, calm, monkeypatch
):
    store, spec = here.store, spec_of("scheduler.steps=16")
    first = here.make(spec_of("scheduler.steps=2"))
    key = of_stage(store, first, "step").key
    step_bytes = store.find_links([key])[key].num_bytes
    monkeypatch.setattr(journal, "HELD_BYTES", 3 * step_bytes)
    run_id = enqueue(store, spec)
    here.work(Failing(store, 3, 12))
    assert done(store, run_id)
    assert [index for index, _, _ in steps(store, run_id)] == list(range(16))
    kept = stored_steps(store, run_id)
    assert kept[:2] == [1, 2]
    assert kept[-1] == 16
    assert 4 < 16 - len(kept) < 11
    assert [text for text in warnings(store, run_id) if "could not be kept in memory" in text]
    assert store.run(run_id).latents == calm.store.run(calm.make(spec)).latents
    base, branched = (
        [Segment(13, encode_spec(spec))],
        spec_of("scheduler.steps=16", "guidance.scale=6"),
    )
    branch = here.make(branched, base)
    assert computed(store, branch) == [14, 15, 16]
    assert store.run(branch).latents == calm.store.run(calm.make(branched, base)).latents
    lost = [Segment(5, encode_spec(spec))]
    earlier = here.make(branched, lost)
    assert computed(store, earlier) == list(range(3, 17))
    assert store.run(earlier).latents == calm.store.run(calm.make(branched, lost)).latents
    check_store(store)


def test_a_killed_run_goes_on_from_what_was_stored_after_the_trouble(store, engines, calm):
    spec = spec_of("scheduler.steps=16")
    run_id = enqueue(store, spec)
    trouble = no_room("os:write", "ENOSPC", "/store/tmp/", NUM_TEXTS + 3, NUM_TEXTS + 8)
    death = {
        "fault": "kill",
        "target": "store.lineage.queue:set_latents",
        "call": 1,
        "when": "before",
    }
    assert engines.serve(store.root, trouble, death) == -signal.SIGKILL
    assert store.recover() == [run_id]
    assert len(warnings(store, run_id)) == 1
    assert "no space left" in warnings(store, run_id)[0]
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert last_plan(store, run_id).reused_steps == 16
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_a_database_that_is_held_for_long_gets_the_steps_once_it_is_free(
    store, engines, calm, gate
):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate), QUICK)
    log = store.root / "logs" / f"engine-{engine}.log"
    wait_for(store, run_id, StepFinished)
    with held(store) as viewer:
        gate.touch()
        wait_until(lambda: "could not be stored yet" in log.read_text(), "told")
        if sys.platform == "linux":
            assert f"is locked by process {viewer.pid} (" in log.read_text()
    assert engines.wait(engine) == 0
    assert stored_steps(store, run_id) == list(range(1, STEPS + 1))
    assert_same(store, run_id, calm, spec)
    check_store(store)


def test_a_preview_that_cannot_be_made_costs_that_one(here, monkeypatch):
    calls = itertools.count(1)
    put = journal.put_preview

    def put_preview(*given):
        if next(calls) == 3:
            raise ValueError("no picture of that")
        put(*given)

    monkeypatch.setattr(journal, "put_preview", put_preview)
    run_id = here.make(spec_of())
    with open_index(here.store.root) as index:
        has = [get_preview(index, key) is not None for _, key, _ in steps(here.store, run_id)]
    assert has == [True, True, False, True, True, True, True, True]


# Waits that somebody wants to end


SUSPENDED = """
import os, signal, sys
from pathlib import Path
from store import locks
from store.store import open_store
with open_store(sys.argv[1]) as store:
    if sys.argv[2] == "database":
        store.lineage.db.conn.execute("BEGIN IMMEDIATE")
    else:
        lock = locks.acquire(store.root / "locks" / "gc", timeout_seconds=60)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextlib.contextmanager
def suspended(store: Store, what: str) -> Iterator[None]:
    """A process that was stopped while it held the database, or the lock of a clean-up."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED, str(store.root), what],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_cancel_does_not_wait_behind_a_suspended_clean_up(store, engines):
    run_id, after = enqueue(store, spec_of(kinds=VIDEO)), enqueue(store, spec_of("seed=5"))
    waits = store.root.parent / "waits"
    with suspended(store, "gc"):
        fault = {"fault": "touch", "target": "engine.results:writing", "path": str(waits)}
        engine = engines.start(store.root, fault)
        wait_until(waits.exists, "waiting for the lock")
        store.request_cancel(run_id)
        wait_until(lambda: store.run(run_id).status == "cancelled", "cancelled")
        store.request_cancel(after)
        assert engines.wait(engine) == 0


@pytest.mark.parametrize("what", ["gc", "database"])
def test_a_stop_does_not_wait_behind_a_suspended_process(store, engines, gate, what):
    run_id = enqueue(store, spec_of("scheduler.steps=400"))
    engine = engines.start(store.root, gated(gate), idle_seconds=60)
    wait_for(store, run_id, StepFinished)
    with suspended(store, what):
        gate.touch()
        os.kill(engine, signal.SIGTERM)
        assert engines.wait(engine) == 0
    store.recover()
    assert store.run(run_id).status == "interrupted"
    check_store(store)


def test_a_suspended_clean_up_costs_a_run_one_wait(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    run_id = enqueue(store, spec)
    with suspended(store, "gc"):
        assert engines.serve(store.root, {"fault": "writer_seconds", "seconds": 0.3}) == 0
    assert done(store, run_id)
    told_of = warnings(store, run_id)
    assert any(text.startswith("8 of the steps could not be stored: ") for text in told_of)
    if sys.platform == "linux":
        assert all(
            re.search(r"locks/gc is held by process \d+ \(.*suspended\)", t) for t in told_of
        )
    again = Here(store, like=calm).make(spec)
    assert_same(store, again, calm, spec)


# A database that others hold


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


@pytest.fixture
def gate(store: Store) -> Path:
    """The file before which a run with the fault `gated` does not go beyond its third step."""
    return store.root.parent / "gate"


def gated(gate: Path) -> Fault:
    target = "engine.stages.denoise:_check_finite"
    return {"fault": "wait_for_file", "target": target, "call": GATED_STEP, "path": str(gate)}


def test_a_database_that_is_locked_for_a_while_costs_time_only(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate))
    wait_for(store, run_id, StepFinished)
    with held(store):
        gate.touch()
        time.sleep(1.0)
        assert len(computed(store, run_id)) < GATED_STEP
    assert engines.wait(engine) == 0
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    assert len(computed(store, run_id)) == STEPS
    check_store(store)


def test_a_viewer_killed_while_it_writes_leaves_nothing(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate))
    wait_for(store, run_id, StepFinished)
    with held(store) as viewer:
        gate.touch()
        viewer.kill()
        assert engines.wait(engine) == 0
    assert_same(store, run_id, calm, spec)
    assert warnings(store, run_id) == []
    assert store.run(run_id).note == ""
    check_store(store)


def test_a_database_that_stays_locked_costs_the_record(store, engines, calm, gate):
    spec = spec_of()
    run_id = enqueue(store, spec)
    engine = engines.start(store.root, gated(gate), {"fault": "busy_seconds", "seconds": 0.05})
    wait_for(store, run_id, StepFinished)
    with held(store):
        gate.touch()
        assert engines.wait(engine) in (0, 1)
    store.recover()
    assert store.run(run_id).status == "interrupted"
    client.resume(store, run_id)
    assert engines.serve(store.root) == 0
    assert done(store, run_id)
    other = calm.make(spec)
    assert store.run(run_id).latents == calm.store.run(other).latents
    assert steps(store, run_id) == steps(calm.store, other)
    check_store(store)


# Clocks, versions, company


def test_a_clock_that_goes_backwards_changes_no_order(store, engines, calm):
    spec = spec_of(kinds=VIDEO)
    first, second = enqueue(store, spec), enqueue(store, spec_of("seed=1"))
    back = {"fault": "backward_clock", "seconds": 60}
    assert engines.serve(store.root, back) == 0
    assert_same(store, first, calm, spec)
    assert [event.step for event in told(store, second, StepFinished)] == list(range(1, STEPS + 1))
    assert store.run(first).seconds == 0
    third = enqueue(store, spec_of("seed=2"))
    kill = {"fault": "kill", "target": "store.blobs.blobs:put", "call": 4, "when": "before"}
    assert engines.serve(store.root, back, kill) == -signal.SIGKILL
    client.resume(store, *store.recover())
    assert engines.serve(store.root) == 0
    assert_same(store, third, calm, spec_of("seed=2"))
    check_store(store)


def test_a_store_of_a_newer_version_is_left_alone(store, engines, capsys):
    run_id = enqueue(store, spec_of())
    with immediate(store.lineage, durable=True) as connection:
        connection.execute("PRAGMA user_version=99")
    store.lineage.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (store.root / "lineage.db").read_bytes()
    assert main(["--store", str(store.root), "--idle-seconds", "0"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "schema 99" in error
    assert "upgrade modiff" in error
    assert engines.serve(store.root) == 1
    assert (store.root / "lineage.db").read_bytes() == before
    assert store.run(run_id).status == "queued"


def test_of_two_engines_started_at_once_one_serves(store, engines, calm):
    runs = {enqueue(store, spec_of(f"seed={seed}")): seed for seed in range(3)}
    started = [engines.start(store.root, idle_seconds=0.5) for _ in range(2)]
    assert [engines.wait(engine) for engine in started] == [0, 0]
    owners = {store.run(run_id).engine for run_id in runs}
    assert len(owners) == 1
    for run_id, seed in runs.items():
        assert len(told(store, run_id, RunStarted)) == 1
        assert_same(store, run_id, calm, spec_of(f"seed={seed}"))
    check_store(store)


def test_engines_of_two_stores_do_not_meet(tmp_path, engines, calm):
    spec = spec_of()
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(open_store(tmp_path / name / "store")) for name in "ab"]
        runs = [enqueue(store, spec) for store in stores]
        started = [engines.start(store.root) for store in stores]
        assert [engines.wait(engine) for engine in started] == [0, 0]
        for store, run_id in zip(stores, runs, strict=True):
            assert_same(store, run_id, calm, spec)
            assert computed(store, run_id) == list(range(1, STEPS + 1))
            check_store(store)


# Weights that change


def test_weights_changed_in_place_are_other_weights(here, tmp_path):
    """Same path, same size, same time of change as far as that can be set: other bytes are another chain."""
    store = here.store
    source = locate("denoiser", "builtin:micro")
    weights = tmp_path / "denoiser.safetensors"
    shutil.copyfile(source, weights)
    shutil.copyfile(source.with_name("config.json"), tmp_path / "config.json")
    original = weights.read_bytes()
    spec = spec_of(f"components.denoiser.checkpoint={weights}")
    first = here.make(spec)
    times = weights.stat()
    changed = bytearray(original)
    for at in range(len(changed) // 2, len(changed), 2048):
        changed[at] ^= 2

    def rewrite(data: bytes) -> None:
        with weights.open("r+b") as file:
            file.write(data)
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))

    rewrite(changed)
    second = here.make(spec)
    assert {key for _, key, _ in steps(store, first)}.isdisjoint(
        key for _, key, _ in steps(store, second)
    )
    assert store.run(second).latents != store.run(first).latents
    with open_store(tmp_path / "other" / "store") as other:  # whose engine has loaded nothing yet
        assert steps(other, Here(other).make(spec)) == steps(store, second)
    rewrite(original)
    third = here.make(spec)
    assert computed(store, third) == []
    assert store.run(third).latents == store.run(first).latents
    check_store(store)
