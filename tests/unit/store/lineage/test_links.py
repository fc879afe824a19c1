"""Links: first come, first kept; each run keeps what it saw; what was lost is a miss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from store.blobs import blobs
from store.database.database import immediate, rows
from store.errors import StoreError, StoreFull, UnknownRun
from store.keys import derive_key
from store.lineage import links
from store.lineage.events import LinkStored, Message
from store.lineage.records import LinkRecord, RunLink
from store.store import open_store


def key(i):
    return derive_key("step", {"index": i})


def digest(text):
    return blobs.digest_of(text.encode())


def step(i=0, velocity="v", latents="x", **fields):
    given = {"num_bytes": 100, "seconds": 2.5, "environment": '{"device":"cpu"}', **fields}
    return LinkRecord(
        key=key(i),
        kind="step",
        digest=velocity and digest(velocity),
        latents=latents and digest(latents),
        facts='{"sigma":[1,2]}',
        **given,
    )


@pytest.fixture
def run_id(store):
    return store.enqueue(b"{}", preset="p", output="o")


def record(store, run_id, link, index=0, source="computed", **fields):
    given = {"stage": "denoise", "seconds": 0.5, **fields}
    return store.record_link(run_id, link, index=index, source=source, **given)


def warnings(store, run_id):
    return [event.text for _, event in store.events(run_id) if isinstance(event, Message)]


def test_a_link_is_found_by_its_key_as_it_was_recorded(store, run_id):
    links_ = [step(i, f"v{i}", f"x{i}") for i in range(3)]
    for i, link in enumerate(links_):
        record(store, run_id, link, i)
    found = store.find_links([key(2), key(0), key(7), key(0)])
    assert set(found) == {key(0), key(2)}
    assert found[key(2)].created_ns > 0
    assert replace(found[key(2)], created_ns=0, used_ns=0) == links_[2]
    assert store.find_links([]) == {}


def test_more_keys_than_a_statement_has_parameters_are_found(store, run_id):
    record(store, run_id, step(3))
    assert set(store.find_links([key(i) for i in range(40_000)])) == {key(3)}


def test_a_run_has_its_links_in_order_with_their_events(store, run_id):
    record(store, run_id, step(1, "v1", "x1"), 1, sigma=0.5, timestep=500.5)
    record(store, run_id, step(0, "v0", "x0"), 0, "reused", sigma=1.0, timestep=1000, seconds=0.01)
    record(store, run_id, LinkRecord(key(9), "text", digest("t")), stage="text_encode")
    assert store.links_of(run_id) == [
        RunLink(
            run_id, "denoise", 0, key(0), digest("v0"), digest("x0"), 1.0, 1000, "reused", 0.01
        ),
        RunLink(
            run_id, "denoise", 1, key(1), digest("v1"), digest("x1"), 0.5, 500.5, "computed", 0.5
        ),
        RunLink(run_id, "text_encode", 0, key(9), digest("t"), "", None, None, "computed", 0.5),
    ]
    logged = [event for _, event in store.events(run_id) if isinstance(event, LinkStored)]
    assert logged[0] == LinkStored("denoise", 1, key(1), digest("v1"), digest("x1"), "computed")
    assert logged[2] == LinkStored("text_encode", 0, key(9), digest("t"), "", "computed")
    assert store.links_of(store.enqueue(b"{}", preset="p", output="o")) == []


def test_a_known_key_keeps_its_first_result_and_the_run_what_it_saw(store, run_id):
    record(store, run_id, step(0, "first", "x"))
    second = store.enqueue(b"{}", preset="p", output="o")
    kept = record(store, second, step(0, "second", "y"), 4)
    assert (kept.digest, kept.latents) == (digest("first"), digest("x"))
    assert store.find_links([key(0)])[key(0)] == kept
    [seen] = store.links_of(second)
    assert (seen.digest, seen.latents) == (digest("second"), digest("y"))
    [warning] = warnings(store, second)
    assert "\n" not in warning
    for part in ("denoise 4", key(0), digest("first"), digest("second")):
        assert part in warning
    assert warnings(store, run_id) == []


def test_other_latents_from_the_same_result_are_told_too(store, run_id):
    record(store, run_id, step(0, "v", "x"))
    assert record(store, run_id, step(0, "v", "y")).latents == digest("x")
    [warning] = warnings(store, run_id)
    assert digest("x") in warning
    assert digest("y") in warning
    assert "latents" in warning


def told(store, run_id, level):
    events = [event for _, event in store.events(run_id) if isinstance(event, Message)]
    return [event.text for event in events if event.level == level]


def test_a_result_that_does_not_replay_here_gives_its_place_to_the_one_made_here(store, run_id):
    first = record(store, run_id, step(0, "there", "x", state=digest("state"), num_bytes=400))
    second = store.enqueue(b"{}", preset="p", output="o")
    here = step(0, "here", "y", environment='{"device":"cuda"}', resume_at=3, keep="chain")
    kept = record(store, second, here, 4, replaces=True)
    assert kept == store.find_links([key(0)])[key(0)]
    assert replace(kept, created_ns=0, used_ns=0) == here
    assert kept.created_ns >= first.created_ns
    assert (store.links_of(run_id)[0].digest, store.links_of(second)[0].digest) == (
        digest("there"),
        digest("here"),
    )
    assert told(store, second, "warning") == []
    [line] = told(store, second, "info")
    assert "\n" not in line
    for part in ("denoise 4", key(0), digest("there")[:19], digest("here")[:19]):
        assert part in line
    assert digest("here") not in line
    assert told(store, run_id, "info") == []


def test_the_same_result_replaces_nothing(store, run_id):
    first = record(store, run_id, step(0, "v", "x", state=digest("state"), num_bytes=400))
    again = record(store, run_id, step(0, "v", "x"), replaces=True)
    assert again == replace(first, used_ns=again.used_ns)
    assert warnings(store, run_id) == []


def test_a_replacement_of_what_nobody_has_is_a_first_result(store, run_id):
    assert record(store, run_id, step(0, "v", "x"), replaces=True).digest == digest("v")
    assert warnings(store, run_id) == []


def test_where_the_rest_of_a_state_is_computed_from_stays_with_the_link(store, run_id):
    record(store, run_id, step(0, resume_at=0, keep="cache"))
    record(store, run_id, step(0))
    found = store.find_links([key(0)])[key(0)]
    assert (found.resume_at, found.keep) == (0, "cache")
    record(store, run_id, step(1))
    assert record(store, run_id, step(1, resume_at=7)).resume_at == 7
    assert store.find_links([key(1)])[key(1)].resume_at == 7


def test_recording_the_same_again_only_says_that_it_was_used(store, run_id):
    first = record(store, run_id, step())
    second = record(store, run_id, replace(first, seconds=0.0), source="reused")
    assert second == replace(first, used_ns=second.used_ns)
    assert second.used_ns >= first.used_ns
    assert warnings(store, run_id) == []
    [seen] = store.links_of(run_id)
    assert seen.source == "reused"


def test_a_keyframe_joins_the_journal_entry_of_its_step(store, run_id):
    record(store, run_id, step(num_bytes=100))
    state = digest("state")
    assert record(store, run_id, step(state=state, num_bytes=400)).num_bytes == 400
    assert store.find_links([key(0)])[key(0)].state == state
    again = record(store, run_id, step(num_bytes=100))
    assert (again.state, again.num_bytes) == (state, 400)


def test_a_thinned_link_takes_its_result_back(store, run_id):
    state = digest("state")
    record(store, run_id, step(velocity="", state=state, num_bytes=300))
    kept = record(store, run_id, step(velocity="v", num_bytes=100))
    assert (kept.digest, kept.state, kept.num_bytes) == (digest("v"), state, 400)
    assert warnings(store, run_id) == []


def test_a_result_that_does_not_belong_to_a_keyframe_is_not_put_beside_it(store, run_id):
    record(store, run_id, step(velocity="", latents="x", state=digest("state")))
    kept = record(store, run_id, step(velocity="other", latents="y"))
    assert (kept.digest, kept.latents) == ("", digest("x"))
    assert len(warnings(store, run_id)) == 1


def test_a_link_of_which_nothing_is_left_becomes_what_was_computed(store, run_id):
    first = record(store, run_id, step(0, "v", "x"))
    assert store.forget_blob(digest("v")) == 1
    lost = store.find_links([key(0)])[key(0)]
    assert (lost.digest, lost.latents, lost.num_bytes) == ("", digest("x"), 0)
    kept = record(store, run_id, step(0, "w", "y", environment='{"device":"cuda"}'))
    assert (kept.digest, kept.latents) == (digest("w"), digest("y"))
    assert (kept.environment, kept.created_ns) == ('{"device":"cuda"}', first.created_ns)
    assert len(warnings(store, run_id)) == 1


def test_a_forgotten_blob_is_a_miss_wherever_it_was_named(store, run_id):
    gone = digest("gone")
    record(store, run_id, step(0, "gone", "x", state=digest("state")), 0)
    record(store, run_id, step(1, "v", "gone"), 1)
    record(store, run_id, step(2, "v", "x", state=gone), 2)
    record(store, run_id, step(3, "v", "x"), 3)
    before = store.links_of(run_id)
    assert store.forget_blob(gone) == 2
    found = store.find_links([key(i) for i in range(4)])
    assert [found[key(i)].digest for i in range(4)] == ["", digest("v"), digest("v"), digest("v")]
    assert [found[key(i)].latents for i in range(4)] == [
        digest("x"),
        gone,
        digest("x"),
        digest("x"),
    ]
    assert [found[key(i)].state for i in range(4)] == [digest("state"), "", "", ""]
    assert [found[key(i)].num_bytes for i in range(4)] == [100, 100, 100, 100]
    assert store.links_of(run_id) == before
    assert store.forget_blob(gone) == 0


@pytest.mark.parametrize("text", ["", "sha256:", "v", "sha256:" + "G" * 64])
def test_only_a_digest_can_be_forgotten(store, run_id, text):
    record(store, run_id, step(0, ""))
    with pytest.raises(StoreError, match="is not a digest"):
        store.forget_blob(text)


def test_a_link_belongs_to_a_run_and_has_a_source(store, run_id):
    with pytest.raises(UnknownRun):
        record(store, "nothing", step())
    with pytest.raises(ValueError, match="source 'guessed'"):
        record(store, run_id, step(), source="guessed")
    assert store.find_links([key(0)]) == {}


def test_a_sigma_that_is_not_a_number_is_none(store, run_id):
    record(store, run_id, step(), sigma=math.nan)
    assert store.links_of(run_id)[0].sigma is None


def test_a_link_is_recorded_whole_or_not_at_all(store, run_id):
    before = store.events(run_id)
    [(num_pages,)] = rows(store.lineage, "PRAGMA page_count")
    store.lineage.db.execute(f"PRAGMA max_page_count={num_pages}")
    with pytest.raises(StoreFull):
        record(store, run_id, step(environment="x" * 200_000))
    assert store.find_links([key(0)]) == {}
    assert store.links_of(run_id) == []
    assert store.events(run_id) == before


RECORD_MANY = """
import sys
from store.blobs.blobs import digest_of
from store.keys import derive_key
from store.lineage.records import LinkRecord
from store.store import open_store
with open_store(sys.argv[1]) as store:
    run_id = store.enqueue(b"{}", preset="p", output="o")
    print(run_id, flush=True)
    sys.stdin.readline()
    for i in range(60):
        link = LinkRecord(
            derive_key("step", i), "step", digest_of(f"{i} {sys.argv[2]}".encode())
        )
        kept = store.record_link(
            run_id, link, stage="denoise", index=i, source="computed", seconds=0.1
        )
        print(kept.digest)
"""


def test_processes_that_record_the_same_keys_agree_on_what_is_kept(start, root):
    with open_store(root) as store:
        processes = [start(RECORD_MANY, root, i) for i in range(3)]
        run_ids = [process.read() for process in processes]
        for process in processes:
            process.go()
        kept = [process.finish() for process in processes]
        assert kept[0] == kept[1] == kept[2]
        assert len(kept[0]) == 60
        num_links = 60
        assert rows(store.lineage, "SELECT count(*) FROM links") == [(num_links,)]
        assert sum(len(warnings(store, run_id)) for run_id in run_ids) == 2 * num_links
        for run_id in run_ids:
            assert len(store.links_of(run_id)) == num_links
        store.check()


KILLED = """
import os, signal, sys
from store.lineage import history
from store.lineage.records import LinkRecord
from store.store import open_store
with open_store(sys.argv[1]) as store:
    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    history.insert = die
    print("ready", flush=True)
    store.record_link(
        sys.argv[2], LinkRecord("k", "step"), stage="denoise", index=0, source="computed", seconds=0
    )
"""


def test_an_engine_killed_while_it_records_leaves_no_half_link(start, root, store, run_id):
    process = start(KILLED, root, run_id)
    process.read()
    process.child.wait(60)
    assert store.find_links(["k"]) == {}
    assert store.links_of(run_id) == []
    record(store, run_id, step())
    store.check()


def test_links_outlive_the_runs_that_made_them(store, run_id):
    record(store, run_id, step())
    store.request_cancel(run_id)
    store.remove([run_id])
    assert store.find_links([key(0)])[key(0)].digest == digest("v")
    assert rows(store.lineage, "SELECT count(*) FROM run_links") == [(0,)]


def test_a_collected_link_leaves_the_run_what_it_saw(store, run_id):
    record(store, run_id, step())
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links")
    assert links.of_run(store.lineage, run_id)[0].digest == digest("v")
