"""Clean-ups: what goes and in which order, what never goes, and what a death in between leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import locks
from store.blobs import blobs
from store.database import database
from store.database.database import immediate, open_lineage, rows
from store.errors import StoreBusy, StoreFull
from store.lineage.events import Message
from store.store import open_store
from store.upkeep import gc
from store.upkeep.contents import look
from store.upkeep.gc import clean, collect, make_room, preview, writing
from store.upkeep.removal import GRACE_NS, Policy, make_plan
from store.upkeep.verify import verify
from tests.counting import instructions
from tests.stores.made_stores import (
    DAY_NS,
    STEP_BYTES,
    large,
    make_run,
    on_disk,
    promised,
    put,
    put_rows,
)

ALL = Policy(budget_bytes=0)


def removed(plan):
    return [each.digest for each in plan.removals]


# What goes, and in which order


def test_nothing_goes_while_all_is_within_the_budget(store):
    make_run(store, "a")
    before = on_disk(store)
    plan = clean(store.lineage, Policy(budget_bytes=4 * STEP_BYTES))
    assert plan.removals == ()
    assert plan.left_bytes == 4 * STEP_BYTES
    assert on_disk(store) == before


def test_a_blob_that_no_row_names_goes_once_it_is_an_hour_old(store):
    old, young = put(store, "old", age_days=1), put(store, "young")
    future = put(store, "future", age_days=-400)
    assert removed(clean(store.lineage, Policy())) == [old]
    assert on_disk(store) == {young, future}


def test_a_blob_that_was_asked_for_again_is_young(store):
    digest = put(store, "old", age_days=1)
    blobs.put(store.root, bytes(blobs.get(store.root, digest)))
    assert clean(store.lineage, Policy()).removals == ()


def test_steps_go_from_the_end_and_keep_what_is_known_of_them(store):
    made = make_run(store, "a", age_days=5)
    before = store.find_links(made.keys)
    plan = clean(store.lineage, Policy(budget_bytes=2 * STEP_BYTES))
    assert removed(plan) == [made.steps[3], made.steps[2]]
    assert plan.freed_bytes == 2 * STEP_BYTES
    assert plan.seconds == pytest.approx(2.0)
    after = store.find_links(made.keys)
    assert [after[key].digest for key in made.keys] == [*made.steps[:2], "", ""]
    assert [after[key].num_bytes for key in made.keys] == [STEP_BYTES] * 2 + [0] * 2
    assert [after[key].latents for key in made.keys] == [before[key].latents for key in made.keys]
    assert [link.digest for link in store.links_of(made.id) if link.stage == "step"] == made.steps


def test_outputs_and_prompts_go_only_when_asked_for(store):
    made = make_run(store, "a", age_days=5)
    clean(store.lineage, ALL)
    assert on_disk(store) == {made.text, made.latents, made.video}
    plan = clean(store.lineage, Policy(older_than_ns=DAY_NS, outputs=True))
    assert set(removed(plan)) == {made.latents, made.video}
    assert on_disk(store) == {made.text}
    assert promised(store) == {made.text}
    assert store.run(made.id).latents == made.latents


@pytest.mark.parametrize(
    "older", [{"age_days": 9}, {"num_bytes": 5 * STEP_BYTES}, {"seconds": 0.1}]
)
def test_old_and_large_and_cheap_goes_first(store, older):
    wanted = {"age_days": 2.0, "num_bytes": STEP_BYTES, "seconds": 10.0, "num_steps": 2}
    kept = make_run(store, "kept", **wanted)
    gone = make_run(store, "gone", **{**wanted, **older})
    plan = clean(store.lineage, Policy(budget_bytes=2 * STEP_BYTES))
    assert removed(plan) == gone.steps[::-1]
    assert set(kept.steps) <= on_disk(store)


def test_steps_that_branches_share_go_last(store):
    trunk = make_run(store, "trunk", age_days=9)
    make_run(store, "branch", parent=trunk, at=2, age_days=1)
    order = removed(clean(store.lineage, ALL))
    assert len(order) == 6
    assert order[-2:] == [trunk.steps[1], trunk.steps[0]]


def test_keyframes_go_after_all_steps(store):
    made = make_run(store, "a", keyframes=(1, 3), age_days=1)
    thin = make_run(store, "b", keyframes=(1, 3), thinned=range(4), age_days=50)
    order = removed(clean(store.lineage, ALL))
    assert set(order[:4]) == set(made.steps)
    assert set(order[4:]) == {*made.keyframes.values(), *thin.keyframes.values()}


def test_a_keyframe_costs_all_the_steps_that_it_saves(store):
    make_run(store, "a", num_steps=6, keyframes=(2, 5), thinned=range(6), seconds=2.0)
    assert preview(store.lineage, ALL).seconds == pytest.approx(12.0)


def test_a_journal_beside_its_keyframe_costs_nothing(store):
    made = make_run(store, "a", num_steps=1, keyframes=(0,), seconds=2.0)
    plan = preview(store.lineage, Policy(budget_bytes=3 * STEP_BYTES))
    assert removed(plan) == made.steps
    assert plan.seconds == 0
    after = {each[3]: each[:3] for each in plan.changes}
    assert after == {made.keys[0]: ("", made.keyframes[0], 3 * STEP_BYTES)}


def test_what_was_not_used_for_long_goes_whatever_the_budget(store):
    old = make_run(store, "old", age_days=31)
    new = make_run(store, "new", age_days=29)
    plan = clean(store.lineage, Policy(older_than_ns=30 * DAY_NS))
    assert removed(plan) == old.steps[::-1]
    assert set(new.steps) <= on_disk(store)


def test_a_clock_that_was_ahead_makes_nothing_old(store):
    made = make_run(store, "a", age_days=-3650)
    assert clean(store.lineage, Policy(older_than_ns=0)).removals == ()
    assert set(made.steps) <= on_disk(store)


def test_what_a_removed_run_left_goes_first_and_whole(store):
    gone = make_run(store, "gone", age_days=1, seconds=100)
    kept = make_run(store, "kept", age_days=300)
    store.remove([gone.id])
    left = {*gone.steps, gone.text, gone.latents, gone.video}
    plan = clean(store.lineage, Policy(budget_bytes=4 * STEP_BYTES))
    assert set(removed(plan)) == left
    assert on_disk(store).isdisjoint(left)
    assert store.find_links(gone.keys) == {}
    assert set(kept.steps) <= on_disk(store)


def test_what_a_removed_run_left_stays_of_use_within_the_budget(store):
    gone = make_run(store, "gone", num_steps=4, keyframes=(3,), thinned=range(3), age_days=1)
    store.remove([gone.id])
    clean(store.lineage, Policy(budget_bytes=10**6))
    assert set(store.find_links(gone.keys)) == set(gone.keys)
    clean(store.lineage, ALL)
    assert rows(store.lineage, "SELECT count(*) FROM links") == [(0,)]


def test_final_latents_that_a_removed_run_left_keep_the_chain_that_leads_to_them(store):
    gone = make_run(store, "gone", thinned=range(4), age_days=1)
    store.remove([gone.id])
    assert clean(store.lineage, Policy(budget_bytes=10**6)).dropped == ()
    assert set(store.find_links(gone.keys)) == set(gone.keys)


def test_steps_that_another_run_has_stay_when_one_is_removed(store):
    trunk = make_run(store, "trunk", age_days=9)
    branch = make_run(store, "branch", parent=trunk, at=2, age_days=1)
    store.remove([trunk.id])
    clean(store.lineage, Policy(budget_bytes=4 * STEP_BYTES))
    assert set(branch.steps) <= on_disk(store)
    assert set(trunk.steps[2:]).isdisjoint(on_disk(store))


def test_a_result_that_differs_from_the_links_is_kept_for_its_run(store):
    first = make_run(store, "a", num_steps=1, outputs=False, age_days=2)
    other = put(store, "other bytes", age_days=2)
    second = store.enqueue(b"{}", preset="p", output="o")
    link = store.find_links(first.keys)[first.keys[0]]
    wrong = type(link)(link.key, "step", other, link.latents, num_bytes=STEP_BYTES, seconds=1.0)
    store.record_link(second, wrong, stage="step", index=0, source="computed", seconds=1.0)
    assert clean(store.lineage, Policy()).removals == ()
    store.request_cancel(second)
    clean(store.lineage, ALL)
    assert on_disk(store) == {first.text}
    assert clean(store.lineage, ALL).removals == ()


@pytest.mark.parametrize("is_thinned", [False, True])
def test_what_a_run_saw_is_kept_for_it_when_another_result_takes_its_place(store, is_thinned):
    """A chain of another machine does not replay here: this machine's is found by its keys from
    now on, and that run still has all of its own."""
    there = make_run(store, "a", num_steps=3, age_days=2)
    here = store.enqueue(b"{}", preset="p", output="o")
    for index, key in enumerate(there.keys):
        digest = put(store, f"here {index}", age_days=2)
        link = store.find_links([key])[key]
        given = {"state": digest, "digest": ""} if is_thinned else {"digest": digest}
        link = replace(link, **given, latents=blobs.digest_of(b"%d" % index))
        store.record_link(
            here, link, stage="step", index=index, source="computed", seconds=1.0, replaces=True
        )
    store.request_cancel(here)
    before = on_disk(store)
    assert clean(store.lineage, Policy()).removals == ()
    seen = [link.digest for link in store.links_of(there.id) if link.stage == "step"]
    assert seen == there.steps
    assert before >= set(seen)
    assert [each.kind for each in preview(store.lineage, ALL).removals[:3]] == ["step"] * 3
    store.pin(there.id)
    clean(store.lineage, ALL)
    assert on_disk(store) >= {*there.steps, there.latents, there.video, there.text}
    store.unpin(there.id)
    order = [digest for digest in removed(clean(store.lineage, ALL)) if digest in there.steps]
    assert order == there.steps[::-1]


def test_links_that_came_without_their_rows_are_of_their_run(store):
    """What a bundle brought: the run says what it saw, and no link vouches for it."""
    made = make_run(store, "a", age_days=2)
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links")
    assert clean(store.lineage, Policy()).removals == ()
    plan = clean(store.lineage, ALL)
    assert removed(plan) == made.steps[::-1]
    assert plan.seconds == pytest.approx(4.0)


def test_steps_that_follow_each_other_in_a_circle_go_too(store):
    first = make_run(store, "a", num_steps=1, outputs=False)
    second = make_run(store, "b", num_steps=1, outputs=False)
    for made, index in ((first, 1), (second, 1)):
        other = second if made is first else first
        store.record_link(
            made.id,
            store.find_links(other.keys)[other.keys[0]],
            stage="step",
            index=index,
            source="reused",
            seconds=0,
        )
    assert len(clean(store.lineage, ALL).removals) == 2


def test_a_dry_run_says_what_would_go_and_does_nothing(store):
    make_run(store, "a", age_days=3)
    make_run(store, "b", age_days=2, keyframes=(1,))
    before, said = on_disk(store), preview(store.lineage, ALL)
    assert on_disk(store) == before
    assert promised(store) <= before
    assert removed(clean(store.lineage, ALL)) == removed(said)


# What never goes


@pytest.mark.parametrize(
    "state",
    [{"pinned": True}, {"status": "running"}, {"status": "queued"}, {"paused": True}],
    ids=["pinned", "running", "queued", "paused"],
)
def test_what_such_a_run_and_its_ancestors_need_never_goes(store, engine, state):
    grandparent = make_run(store, "grandparent", age_days=300)
    parent = make_run(store, "parent", parent=grandparent, at=2, age_days=200, keyframes=(3,))
    run = make_run(store, "run", parent=parent, at=3, age_days=100, keyframes=(3,), **state)
    other = make_run(store, "other", age_days=1)
    before = on_disk(store)
    plan = clean(store.lineage, Policy(0, 0, outputs=True))
    assert set(removed(plan)) == {*other.steps, other.latents, other.video}
    assert before - on_disk(store) == set(removed(plan))
    assert plan.left_bytes > 0
    assert store.find_links(run.keys)[run.keys[0]].digest == grandparent.steps[0]


def test_a_run_whose_engine_is_dead_is_at_rest_also_while_nobody_wrote_so(store):
    made = make_run(store, "a", age_days=3, status="running")
    assert store.run(made.id).status == "running"
    assert set(removed(preview(store.lineage, ALL))) == set(made.steps)
    assert set(removed(clean(store.lineage, ALL))) == set(made.steps)
    assert store.run(made.id).status == "running"  # a clean-up ends no run


def test_a_pin_that_comes_while_a_clean_up_begins_counts(store, monkeypatch):
    made = make_run(store, "a", age_days=100)
    scan = gc.scan_blobs

    def scan_and_pin(root):
        found = scan(root)
        with open_store(root) as another:
            another.pin(made.id)
        return found

    monkeypatch.setattr(gc, "scan_blobs", scan_and_pin)
    assert clean(store.lineage, ALL).removals == ()


CONTENTS = st.integers(0, 6).map("velocity {}".format)


@st.composite
def histories(draw):
    """Runs, each from the noise or a branch of an earlier one, some of equal bytes."""
    runs = []
    for number in range(draw(st.integers(1, 5))):
        num_steps = draw(st.integers(1, 4))
        parent = draw(st.none() | st.integers(0, number - 1)) if number else None
        longest = num_steps if parent is None else min(num_steps, runs[parent]["num_steps"])
        steps = st.sets(st.integers(0, num_steps - 1))
        runs.append(
            {
                "num_steps": num_steps,
                "parent": parent,
                "at": 0 if parent is None else draw(st.integers(0, longest)),
                "status": draw(st.sampled_from(["done"] * 4 + ["failed", "queued", "running"])),
                "pinned": draw(st.sampled_from([False, False, True])),
                "paused": False,
                "age_days": draw(st.sampled_from([-1.0, 0.0, 0.5, 3.0, 40.0])),
                "seconds": draw(st.sampled_from([0.0, 1.0, 60.0])),
                "keyframes": draw(steps),
                "thinned": draw(steps),
                "contents": draw(
                    st.none() | st.lists(CONTENTS, min_size=num_steps, max_size=num_steps)
                ),
                "outputs": draw(st.booleans()),
                "is_removed": draw(st.sampled_from([False, False, True])),
            }
        )
    return runs


POLICIES = st.builds(
    Policy,
    budget_bytes=st.none() | st.integers(0, 20 * STEP_BYTES),
    older_than_ns=st.none() | st.sampled_from([0, 2 * DAY_NS, 30 * DAY_NS]),
    outputs=st.booleans(),
)


def emptied(store):
    with immediate(store.lineage) as connection:
        for table in ("events", "stages", "tags", "run_links", "links", "runs"):
            connection.execute(f"DELETE FROM {table}")
    shutil.rmtree(store.root / "blobs")
    (store.root / "blobs").mkdir()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), policy=POLICIES, orphans=st.integers(0, 2))
def test_whatever_the_history_only_what_may_go_goes(store, engine, history, policy, orphans):
    emptied(store)
    made = []
    for number, run in enumerate(history):
        given_ = {name: value for name, value in run.items() if name != "is_removed"}
        given_["parent"] = None if run["parent"] is None else made[run["parent"]]
        made.append(make_run(store, f"run {number}", **given_))
    for number in range(orphans):
        put(store, f"orphan {number}", age_days=number)
    # What must stay, from the history alone.
    safe = [run["pinned"] or run["status"] in ("queued", "running") for run in history]
    is_there = [
        not run["is_removed"] or is_safe for run, is_safe in zip(history, safe, strict=True)
    ]
    store.remove([each.id for each, there in zip(made, is_there, strict=True) if not there])
    for number, run in reversed(list(enumerate(history))):
        if safe[number] and is_there[number] and run["parent"] is not None:
            safe[run["parent"]] = True
    links = {row[0]: row for row in rows(store.lineage, "SELECT * FROM links")}
    must_stay: set[str] = set()
    rows_stay: set[str] = set()
    for each, is_safe, there in zip(made, safe, is_there, strict=True):
        if not there:
            continue
        must_stay.add(each.text)
        if is_safe or not policy.outputs:
            must_stay |= {each.latents, each.video}
        if is_safe:
            rows_stay |= set(each.keys)
            must_stay |= {*each.steps, *each.keyframes.values()}
            for key in each.keys:
                must_stay |= {links[key][2], links[key][4]}
    must_stay = (must_stay - {""}) & on_disk(store)

    before = {path: path.stat().st_size for path in (store.root / "blobs").rglob("?" * 64)}
    plan = clean(store.lineage, policy)
    after = on_disk(store)

    assert must_stay <= after
    changed = {row[0]: row for row in rows(store.lineage, "SELECT * FROM links")}
    assert all(changed[key] == links[key] for key in rows_stay)
    for digest in promised(store):
        blobs.get(store.root, digest)
    assert plan.freed_bytes == sum(before.values()) - sum(
        path.stat().st_size for path in before if path.exists()
    )
    if policy.budget_bytes is not None and plan.left_bytes > policy.budget_bytes:
        assert all(
            each.is_protected or each.need not in (1, 2, *([3] if policy.outputs else []))
            for each in preview(store.lineage, policy).removals
        )
        assert any(safe)
    again = clean(store.lineage, policy)
    assert (again.removals, again.dropped) == ((), ())
    assert on_disk(store) == after
    assert not verify(store.lineage).problems


def reachable(store, keys):
    """How many of a chain's steps are stored without a hole."""
    found = store.find_links(keys)
    digests = [found[key].digest if key in found else "" for key in keys]
    return digests.index("") if "" in digests else len(digests)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories(), budget=st.integers(0, 20 * STEP_BYTES))
def test_a_clean_up_leaves_no_step_behind_a_hole(store, history, budget):
    emptied(store)
    made = []
    for number, run in enumerate(history):
        parent = None if run["parent"] is None else made[run["parent"]]
        wanted = {name: run[name] for name in ("num_steps", "at", "age_days", "seconds")}
        made.append(make_run(store, f"run {number}", parent=parent, **wanted))
    store.remove([each.id for each, run in zip(made, history, strict=True) if run["is_removed"]])
    clean(store.lineage, Policy(budget_bytes=budget))
    for each in made:
        found = store.find_links(each.keys)
        num_stored = sum(bool(link.digest) for link in found.values())
        assert num_stored == reachable(store, each.keys)


# Deaths, other processes and full disks


DIE = """
import os, signal, sys
from store.upkeep import gc
from store.upkeep.removal import Policy
from store.store import open_store
unlink, left = os.unlink, [int(sys.argv[2])]
def unlink_or_die(path, *rest):
    if "blobs" in str(path):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
    unlink(path, *rest)
os.unlink = unlink_or_die
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    gc.clean(store.lineage, Policy(budget_bytes=0))
"""


@pytest.mark.parametrize("num_unlinked", [0, 1, 5])
def test_a_death_before_the_files_are_gone_leaves_only_what_nobody_needs(
    start, store, root, num_unlinked
):
    made = make_run(store, "a", age_days=3)
    gone = make_run(store, "gone", age_days=2)
    store.remove([gone.id])
    process = start(DIE, root, num_unlinked)
    process.read()
    assert process.child.wait(60) == -9
    assert promised(store) == {made.text, made.video}
    found = verify(store.lineage)
    assert found.problems == ()
    num_left = 4 + 4 + 3 - num_unlinked
    assert found.unreferenced.num_blobs == num_left
    assert len(clean(store.lineage, Policy()).removals) == num_left
    assert on_disk(store) == {made.text, made.latents, made.video}


def test_the_rows_forget_durably_before_a_file_goes(store, monkeypatch):
    make_run(store, "a", num_steps=1, age_days=3)
    log = []
    monkeypatch.setattr(gc.os, "unlink", lambda path: log.append("unlink"))
    store.lineage.db.conn.set_trace_callback(log.append)
    clean(store.lineage, ALL)
    store.lineage.db.conn.set_trace_callback(None)
    first = log.index("unlink")
    assert log.index("PRAGMA synchronous=FULL") < log.index("BEGIN IMMEDIATE")
    assert log.index("BEGIN IMMEDIATE") < log.index("COMMIT") < first
    assert log.index("COMMIT") < log.index("PRAGMA synchronous=NORMAL")
    assert any(line.startswith("UPDATE links") for line in log[:first])


def test_a_clean_up_of_blobs_alone_is_durable_too(store):
    """Its fsync is that of the commit by which they came to be needed no more."""
    put(store, "orphan", age_days=1)
    wal = store.root / "lineage.db-wal"
    size = wal.stat().st_size
    assert len(clean(store.lineage, Policy()).removals) == 1
    assert wal.stat().st_size > size


WRITE_HALF = """
import sys
from pathlib import Path
from store.blobs import blobs
from store.upkeep.gc import writing
from store.lineage.records import LinkRecord
from store.store import open_store
with open_store(sys.argv[1]) as store:
    with writing(Path(sys.argv[1])):
        digest = blobs.put(store.root, b"in flight")
        print(digest, flush=True)
        sys.stdin.readline()
        store.record_link(
            sys.argv[2], LinkRecord("k", "step", digest), stage="step", index=9,
            source="computed", seconds=1,
        )
    print("written", flush=True)
    sys.stdin.readline()
"""


def test_nothing_is_collected_while_a_run_writes(start, store, engine, root, monkeypatch):
    monkeypatch.setattr(gc, "COLLECTOR_SECONDS", 0.05)
    made = make_run(store, "a", status="running")
    orphan = put(store, "orphan", age_days=1)
    process = start(WRITE_HALF, root, made.id)
    digest = process.read()
    os.utime(blobs.blob_path(root, digest), (0, 0))
    with writing(root):  # any number may
        pass
    with pytest.raises(StoreBusy, match="a run is writing") as caught:
        clean(store.lineage, ALL)
    assert "\n" not in str(caught.value)
    assert {orphan, digest} <= on_disk(store)
    process.go()
    assert process.read() == "written"
    assert removed(clean(store.lineage, ALL)) == [orphan]
    assert digest in on_disk(store)


def test_writers_who_come_while_a_clean_up_waits_do_not_go_before_it(store, root, monkeypatch):
    monkeypatch.setattr(gc, "COLLECTOR_SECONDS", 60.0)
    orphan = put(store, "orphan", age_days=1)
    cleaned = []

    def collecting():
        with open_store(root) as own:
            cleaned.extend(removed(clean(own.lineage, ALL)))

    with writing(root):
        collector = threading.Thread(target=collecting)
        collector.start()
        while not locks.is_held(root / "locks" / "gc-turn"):
            time.sleep(0.001)
        monkeypatch.setattr(gc, "WRITER_SECONDS", 0.0)
        with pytest.raises(StoreBusy), writing(root):
            pass
    monkeypatch.undo()
    collector.join()
    assert cleaned == [orphan]
    with writing(root):
        pass


def test_a_writer_waits_for_a_clean_up_and_two_clean_ups_exclude_each_other(
    store, root, monkeypatch
):
    monkeypatch.setattr(gc, "COLLECTOR_SECONDS", 0.05)
    monkeypatch.setattr(gc, "WRITER_SECONDS", 0.05)
    with gc._alone(root):
        with pytest.raises(StoreBusy, match=r"locks/gc is held by process \d+ "), writing(root):
            pass
        with pytest.raises(StoreBusy, match="another clean-up"):
            clean(store.lineage, ALL)
    with writing(root):
        pass


WRITE_MANY = """
import sys, time
from pathlib import Path
from store.blobs import blobs
from store.upkeep.gc import writing
from store.keys import derive_key
from store.lineage.records import LinkRecord
from store.store import open_store
with open_store(sys.argv[1]) as store:
    run_id = store.enqueue(b"{}", preset="p", output="o")
    print(run_id, flush=True)
    sys.stdin.readline()
    for i in range(60):
        with writing(store.root):
            # every third is of bytes that were stored, and collected, before
            digest = blobs.put(store.root, f"{sys.argv[2]} {i // 3}".encode() * 100)
            store.record_link(
                run_id, LinkRecord(derive_key("step", [sys.argv[2], i]), "step", digest),
                stage="step", index=i, source="computed", seconds=1,
            )
        time.sleep(0.002)
    store.request_cancel(run_id)
"""


def test_clean_ups_beside_writers_lose_nothing_that_is_promised(start, store, root):
    writers = [start(WRITE_MANY, root, number) for number in range(2)]
    for writer in writers:
        writer.read()
    for writer in writers:
        writer.go()
    num_cleaned = 0
    while any(writer.child.poll() is None for writer in writers):
        with immediate(store.lineage) as connection:  # so that there is always something to take
            connection.execute("UPDATE runs SET status='done'")
        clean(store.lineage, ALL)
        num_cleaned += 1
        verdict = verify(store.lineage)
        assert verdict.problems == ()
    for writer in writers:
        writer.finish()
    assert num_cleaned > 2
    assert rows(store.lineage, "SELECT count(*) FROM run_links") == [(120,)]
    clean(store.lineage, ALL)
    assert promised(store) == set()


def test_a_full_disk_is_made_room_on_before_the_rows_can_be_written(store, monkeypatch):
    made = make_run(store, "a", age_days=2)
    forget, calls = gc._forget, []

    def full_at_first(*arguments):
        calls.append(on_disk(store))
        if len(calls) == 1:
            raise StoreFull("no space left")
        return forget(*arguments)

    monkeypatch.setattr(gc, "_forget", full_at_first)
    assert collect(store.root, 0) == 4 * STEP_BYTES
    assert len(calls[0]) == len(calls[1]) + 4
    assert promised(store) == {made.text, made.video}
    assert verify(store.lineage).problems == ()


FULL_DISK = """
import sys
from pathlib import Path
from store.upkeep.gc import collect
from store.store import open_store
from tests.stores.made_stores import make_run, on_disk, promised
from store.errors import StoreFull
from store.database.database import immediate
root = Path(sys.argv[1]) / "store"
with open_store(root) as store:
    made = make_run(store, "a", num_bytes=500_000)
    filler = open(root / "filler", "wb", buffering=0)
    try:
        while True:
            filler.write(bytes(1024))
    except OSError:
        pass
    try:
        with immediate(store.lineage) as connection:
            connection.execute("UPDATE runs SET note=?", ("x" * 100_000,))
        raise SystemExit("the disk is not full")
    except StoreFull:
        pass
    assert collect(root, 0) == 2_000_000
    assert promised(store) == {made.text, made.video}, promised(store)
    assert promised(store) <= on_disk(store)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET note=?", ("x" * 100_000,))
    store.check()
print("collected")
"""


def test_on_a_disk_that_is_full_to_the_last_byte(tmp_path):
    root = str(Path(__file__).parents[4])
    mount = f'mount -t tmpfs -o size=4m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    command = ["unshare", "-Urm", "sh", "-c", mount, FULL_DISK]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
        )
    except FileNotFoundError:
        pytest.skip("no unshare(1) here")
    if "unshare" in done.stderr or "mount" in done.stderr.splitlines()[:1]:
        pytest.skip(f"no file system of one's own here: {done.stderr.strip()}")
    assert done.stdout.strip() == "collected", done.stderr


def test_collect_opens_the_store_itself(store):
    make_run(store, "a")
    assert collect(store.root, 2 * STEP_BYTES) == 2 * STEP_BYTES
    with closing(open_lineage(store.root, busy_seconds=1)) as lineage:
        assert preview(lineage, Policy(budget_bytes=2 * STEP_BYTES)).removals == ()


def test_unfinished_writes_of_dead_processes_go_too(store):
    (store.root / "tmp" / "999999999-abc").write_bytes(b"x")
    clean(store.lineage, Policy())
    assert list((store.root / "tmp").iterdir()) == []


# Size


def test_a_plan_for_many_links_is_made_in_one_go():
    contents = large(800, 50)
    assert len(contents.links) >= 25_000
    begun = time.process_time()
    plan = make_plan(contents, Policy(budget_bytes=750_000), now_ns=10_000 * DAY_NS)
    # CPU seconds, twenty times what it takes: only a plan that grows with the square of the links gets there
    assert time.process_time() - begun < 12
    assert plan.left_bytes <= 750_000
    assert len(plan.changes) == len(plan.removals) > 15_000


def test_every_row_is_read_once(store):
    contents = large(400, 50)
    put_rows(store.lineage, contents)
    found, count = instructions(store.lineage, lambda: look(store.lineage))
    assert len(found.links) == len(contents.links)
    assert len(found.run_links) == len(contents.run_links)
    assert count < 100 * (len(found.links) + len(found.run_links))  # 17 for each


def test_an_hour_is_measured_from_the_last_sign_of_use(store):
    """A row that remembers a blob which it does not claim any more counts, too."""
    made = make_run(store, "a", num_steps=1, outputs=False, age_days=2)
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE links SET digest='', used_ns=? WHERE kind='step'", (time.time_ns(),)
        )
    assert clean(store.lineage, Policy()).removals == ()
    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE links SET used_ns=? WHERE kind='step'", (time.time_ns() - 2 * GRACE_NS,)
        )
    assert removed(clean(store.lineage, Policy())) == made.steps


# What nobody asked for


class Disk:
    """What the system says of the store's disk."""

    def __init__(self, monkeypatch, *, free, total=10**12):
        self.free, self.total = free, total
        monkeypatch.setattr("store.upkeep.space.shutil.disk_usage", lambda _: self)


def test_a_store_within_its_budget_on_a_disk_with_room_is_not_even_looked_at(store, monkeypatch):
    make_run(store, "a", age_days=99)
    put(store, "orphan", age_days=99)
    Disk(monkeypatch, free=11 << 30)
    monkeypatch.setattr("store.upkeep.gc.scan_blobs", None)
    assert make_room(store.root) == 0


def test_a_store_over_its_budget_is_brought_under_it(store, monkeypatch):
    made = make_run(store, "a", age_days=9)
    monkeypatch.setattr("store.upkeep.gc.default_budget", lambda root: 3 * STEP_BYTES)
    pinned = make_run(store, "pinned", pinned=True, age_days=99)
    before = on_disk(store)
    assert make_room(store.root) == 4 * STEP_BYTES
    assert before - on_disk(store) == set(made.steps)
    assert set(pinned.steps) <= on_disk(store)
    assert make_room(store.root) == 0  # more cannot go: a pin is a pin


@pytest.mark.parametrize(
    ("total", "reserve"), [(10**10, 1 << 30), (10**11, 2 * 10**9), (10**13, 10 << 30)]
)
def test_a_nearly_full_disk_gets_its_reserve_back(store, monkeypatch, total, reserve):
    made = make_run(store, "a", age_days=9)
    disk = Disk(monkeypatch, free=reserve, total=total)
    assert make_room(store.root) == 0
    disk.free -= STEP_BYTES + 1
    assert make_room(store.root) == 2 * STEP_BYTES
    assert on_disk(store) >= {*made.steps[:2], made.latents, made.video, made.text}
    disk.free = 0
    make_room(store.root)
    assert on_disk(store) == {made.latents, made.video, made.text}


def test_whoever_found_no_room_gets_as_much(store, monkeypatch):
    """A quota is nothing that the disk tells of."""
    made = make_run(store, "a", age_days=9)
    Disk(monkeypatch, free=10**11)
    assert make_room(store.root, STEP_BYTES) == STEP_BYTES
    assert make_room(store.root, 10**9) == 3 * STEP_BYTES
    assert on_disk(store) == {made.latents, made.video, made.text}


def test_room_is_not_made_while_somebody_writes(store, monkeypatch):
    make_run(store, "a")
    monkeypatch.setattr("store.upkeep.gc.COLLECTOR_SECONDS", 0.02)
    with writing(store.root), pytest.raises(StoreBusy):
        make_room(store.root, 10**9)


def test_what_finds_no_room_is_stored_after_a_clean_up(monkeypatch, tmp_path):
    calls = []

    def store_it():
        calls.append("store")
        if calls == ["store"]:
            raise StoreFull("no space left")

    monkeypatch.setattr(
        "store.upkeep.gc.make_room", lambda root, num_bytes: calls.append(num_bytes) or 5
    )
    gc.with_room(tmp_path, 7, store_it)
    assert calls == ["store", 7, "store"]


def test_without_room_to_be_made_it_is_the_full_disk_that_is_told(monkeypatch, tmp_path):
    def store_it():
        raise StoreFull("no space left")

    monkeypatch.setattr("store.upkeep.gc.make_room", lambda root, num_bytes: 0)
    with pytest.raises(StoreFull, match="no space left"):
        gc.with_room(tmp_path, 7, store_it)


def made_large(store, root):
    """Runs with 12 MB of events, which are removed again; how large the database was."""
    ids = [store.enqueue(b"{}", preset="p", output="o") for _ in range(30)]
    for run_id in ids:
        store.append(run_id, [Message("info", "x" * 40_000)] * 10)
        store.request_cancel(run_id)
    store.lineage.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (root / "lineage.db").stat().st_size
    store.remove(ids)
    return size


def test_a_clean_up_gives_back_what_removed_runs_took_in_the_database(root):
    with open_store(root) as store:
        before = made_large(store, root)
        kept = store.enqueue(b"{}", preset="p", output="o")
        clean(store.lineage, Policy())
    after = (root / "lineage.db").stat().st_size
    assert after < before // 2
    assert after >= database.SLACK_BYTES
    with open_store(root) as store:
        store.check()
        assert store.run(kept).status == "queued"


def test_a_database_of_before_is_rebuilt_once_where_that_is_asked_for(root, monkeypatch):
    with open_store(root) as store:
        store.lineage.db.conn.execute("PRAGMA auto_vacuum=NONE")
        store.lineage.db.conn.execute("VACUUM")
        before = made_large(store, root)
        clean(store.lineage, Policy())
        assert rows(store.lineage, "PRAGMA auto_vacuum") == [(0,)]
        monkeypatch.setattr(database.shutil, "disk_usage", lambda _: SimpleNamespace(free=before))
        database.shrink(store.lineage, rebuilds=True)
        assert rows(store.lineage, "PRAGMA auto_vacuum") == [(0,)]  # no room for two copies
        monkeypatch.undo()
        kept = store.enqueue(b"{}", preset="p", output="o")
        clean(store.lineage, Policy(), rebuilds=True)
        assert rows(store.lineage, "PRAGMA auto_vacuum") == [(2,)]
        assert store.run(kept).status == "queued"
        store.check()
    assert (root / "lineage.db").stat().st_size < before // 10


def test_a_database_that_cannot_shrink_costs_no_clean_up(store, monkeypatch):
    made = make_run(store, "a", age_days=3)

    def locked(*_given, **_more):
        raise StoreBusy("locked")

    monkeypatch.setattr(gc, "shrink", locked)
    assert set(removed(clean(store.lineage, ALL))) == set(made.steps)


def test_drafts_are_not_swept_while_anybody_writes(start, root, store):
    """Whoever it is: the pid in a draft's name may be of another container."""
    draft = root / "tmp" / "999999999-abc"
    draft.write_bytes(b"half of it")
    process = start(WRITER_THAT_WAITS, root)
    process.read()
    assert store.sweep() == 0
    assert draft.exists()
    process.kill()
    assert store.sweep() == 1
    assert not draft.exists()


WRITER_THAT_WAITS = """
import sys
from pathlib import Path
from store.upkeep.gc import writing
with writing(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.readline()
"""
