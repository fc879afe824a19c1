"""Engines killed at random moments while they work: does every run end as if nothing had happened?

    python -m tests.benchmark.storm --kills 200 --seed 1

The same batch of runs is made twice: by an engine that is left alone, and by engines that are killed at moments that
the seed decides (so many events after they began, and some milliseconds), each followed by a resume of the run it
worked on. Then all is compared: what each run ended with, each of its steps, its files, and what lies in the store.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from engine import client
from presets.library.loading import load_preset
from store.database.database import check
from store.lineage.events import PlanMade, RunStarted, StageStarted, StepFinished
from store.lineage.records import QUEUED, RUNNING
from store.store import Store, open_store
from tests.delivered import content
from tests.integration.chain_engine import Engines

STEPS = 8
SCHEDULERS = ("unipc", "dpm++", "euler")
KEEPS = ((), (), ("keep.every=3",), ("keep.every=0", "keep.first=1", "keep.steps=[2,5]"))
# An engine is killed once it has told so many events at most, which is a run and a half, and this many seconds later.
MOST_EVENTS = 24
LONGEST_SECONDS_AFTER = 0.05


@dataclass(frozen=True)
class Wanted:
    """A run of the batch: of its own, or a branch of the `parent`-th at step `at`."""

    overrides: tuple[str, ...]
    parent: int | None = None
    at: int = 0


@dataclass
class Report:
    """What came of a storm. stages: where runs were when their engine was killed."""

    kills: int = 0
    interrupted: int = 0
    runs: int = 0
    computed: int = 0
    reused: int = 0
    drafts: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)


def batch(rng: random.Random, size: int, first: int) -> list[Wanted]:
    """Runs that differ in all that a branch, a solver or a policy can make a difference in."""
    runs: list[Wanted] = []
    for index in range(size):
        if index % 3 == 2:
            runs.append(
                Wanted(
                    (f"guidance.scale={rng.choice((1, 3.5, 6))}", 'output.kinds=["latents"]'),
                    parent=first + index - rng.choice((1, 2)),
                    at=rng.randint(1, STEPS - 1),
                )
            )
            continue
        kinds = '["video", "latents"]' if index % 2 else '["latents"]'
        own = (
            f"seed={rng.randrange(2**31)}",
            f"scheduler.name={rng.choice(SCHEDULERS)}",
            f"scheduler.steps={STEPS}",
            f"output.kinds={kinds}",
        )
        runs.append(Wanted((*own, *rng.choice(KEEPS))))
    return runs


def submit(store: Store, folder: Path, wanted: Wanted, ids: list[str]) -> str:
    ending = ".mp4" if any('"video"' in each for each in wanted.overrides) else ".safetensors"
    output = str(folder / f"{len(ids)}{ending}")
    if wanted.parent is None:
        spec = load_preset("micro", list(wanted.overrides))
        return client.submit(store, spec, preset="micro", output=output)
    parent = ids[wanted.parent]
    return client.branch(store, parent, at=wanted.at, overrides=wanted.overrides, output=output)


def storm(
    folder: Path,
    *,
    kills: int,
    seed: int,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Make the batch in both ways and compare; AssertionError at the first difference."""
    rng = random.Random(seed)
    report = Report()
    begun = time.perf_counter()
    for name in ("stormy", "calm"):
        (folder / name).mkdir()
    with (
        open_store(folder / "stormy" / "store") as stormy,
        open_store(folder / "calm" / "store") as calm,
        Engines() as engines,
    ):
        wanted, ids = _stormy_runs(stormy, folder / "stormy", engines, rng, kills, report, tell)
        undisturbed: list[str] = []
        for each in wanted:
            undisturbed.append(submit(calm, folder / "calm", each, undisturbed))
        assert engines.serve(calm.root) == 0
        for run_id, calm_id in zip(ids, undisturbed, strict=True):
            compare(stormy, run_id, calm, calm_id)
        report.drafts = stormy.sweep()
        check_store(stormy)
    report.runs = len(ids)
    report.seconds = time.perf_counter() - begun
    return report


def _stormy_runs(
    store: Store,
    folder: Path,
    engines: Engines,
    rng: random.Random,
    kills: int,
    report: Report,
    tell: Callable[[str], None],
) -> tuple[list[Wanted], list[str]]:
    """What was asked for and the runs of it, each done in the end, for as long as there is somebody to kill."""
    wanted: list[Wanted] = []
    ids: list[str] = []
    kept: dict[str, int] = {}
    while report.kills < kills:
        if not store.queued():
            for each in batch(rng, 6, len(wanted)):
                wanted.append(each)
                ids.append(submit(store, folder, each, ids))
        engine = engines.start(store.root)
        _wait_for_events(store, engines, engine, rng.randrange(MOST_EVENTS))
        time.sleep(rng.uniform(0, LONGEST_SECONDS_AFTER))
        code = engines.kill(engine)
        assert code in (0, -9), f"an engine ended with {code}"
        report.kills += code == -9
        _resume(store, report, kept)
        tell(f"{report.kills} of {kills} kills, {len(ids)} runs")
    assert engines.serve(store.root) == 0
    for run_id in ids:
        _check_promise(store, run_id, kept)
        sources = [event for _, event in store.events(run_id) if isinstance(event, StepFinished)]
        report.computed += sum(event.source == "computed" for event in sources)
        report.reused += sum(event.source == "reused" for event in sources)
    return wanted, ids


def _wait_for_events(store: Store, engines: Engines, engine: int, count: int) -> None:
    """Until so many more events are on record, or the engine has ended."""

    def told() -> int:
        rows = store.lineage.db.conn.execute("SELECT count(*) FROM events").fetchall()
        return int(rows[0][0])

    last = told() + count
    while told() < last and engines.is_alive(engine):
        time.sleep(0.002)


def _resume(store: Store, report: Report, kept: dict[str, int]) -> None:
    """Take up again what the dead engine worked on. kept: how many steps of a run its next plan must find."""
    for run_id in store.recover():
        _check_promise(store, run_id, kept)
        links = store.find_links([key for _, key, _ in _steps(store, run_id)])
        whole = [bool(link.digest) for link in links.values()]
        kept[run_id] = max(kept.get(run_id, 0), len(whole) if all(whole) else 0)
        started = [
            event.stage for _, event in store.events(run_id) if isinstance(event, StageStarted)
        ]
        report.stages[started[-1] if started else "plan"] += 1
        report.interrupted += 1
        client.resume(store, run_id)
    assert not store.runs(limit=1, status=RUNNING)
    failed = store.runs(limit=1, status="failed")
    assert not failed, failed[0].error


def _check_promise(store: Store, run_id: str, kept: dict[str, int]) -> None:
    """No step that was on record when an engine died is missing from the plan of the next one that came to make
    one."""
    events = [event for _, event in store.events(run_id)]
    attempts = [index for index, event in enumerate(events) if isinstance(event, RunStarted)]
    for event in events[attempts[-1] :]:
        if isinstance(event, PlanMade):
            assert event.reused_steps >= kept.pop(run_id, 0), run_id


def compare(store: Store, run_id: str, calm: Store, calm_id: str) -> None:
    """A run and the undisturbed one: the same end, the same steps on the way."""
    run, other = store.run(run_id), calm.run(calm_id)
    assert (run.status, run.error) == ("done", ""), run
    assert other.status == "done", other
    assert run.latents == other.latents, run_id
    steps, undisturbed = _steps(store, run_id), _steps(calm, calm_id)
    assert len(steps) == STEPS
    assert steps == undisturbed, run_id
    main = Path(run.output)
    assert main.is_file()
    latents = main.with_suffix(".safetensors")
    assert content(latents) == content(Path(other.output).with_suffix(".safetensors"))


def _steps(store: Store, run_id: str) -> list[tuple[int, str, str]]:
    links = store.links_of(run_id)
    return [(link.index, link.key, link.latents) for link in links if link.stage == "step"]


def check_store(store: Store) -> None:
    """The invariants of a store at rest, looked at from outside: no draft is left, every file is what its name
    says, and every row speaks of files that are there."""
    check(store.lineage)
    assert list((store.root / "tmp").iterdir()) == []
    blobs = {path for path in (store.root / "blobs").rglob("*") if S_ISREG(path.lstat().st_mode)}
    for path in blobs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    names = {f"sha256:{path.name}" for path in blobs}
    connection = sqlite3.connect(f"file:{store.root / 'lineage.db'}?mode=ro", uri=True)
    try:
        promised = connection.execute(
            "SELECT digest FROM links UNION SELECT state FROM links "
            "UNION SELECT latents FROM runs WHERE status='done'"
        ).fetchall()
    finally:
        connection.close()
    assert {name for (name,) in promised if name} <= names
    assert not [run for run in store.runs(limit=10**6) if run.status == QUEUED and run.engine]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many engines")
    parser.add_argument("--seed", type=int, default=1, help="of the batch and the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modiff-storm-") as folder:
        os.environ["MODIFF_STORE"] = folder
        report = storm(Path(folder), kills=options.kills, seed=options.seed, tell=print)
    print(report)


if __name__ == "__main__":
    main()
