"""Runs found, labelled, removed, and related to each other."""

from __future__ import annotations

import json
import time

import pytest

from store.database.database import immediate, rows
from store.errors import BadRequest, StoreError, UnknownRun
from store.lineage import runs
from store.lineage.events import StageFinished
from store.lineage.records import STATUSES, Compared, LinkRecord
from store.store import open_store
from tests.counting import instructions


def enqueue(store, prompt="a circle", *, preset="micro", output="/v/{run}.mp4", parent=""):
    spec = json.dumps({"prompt": prompt, "seed": 1}, ensure_ascii=False).encode()
    return store.enqueue(spec, preset=preset, output=output, parent=parent)


def found(store, **wanted):
    return [run.id for run in store.search(limit=99, **wanted)]


# Search


def test_text_is_looked_for_in_all_that_people_wrote(store):
    by_prompt = enqueue(store, 'a "needle" in\nthe hay')
    by_preset = enqueue(store, preset="needle-preset")
    by_output = enqueue(store, output="/videos/NEEDLE.mp4")
    by_note = enqueue(store)
    store.note(by_note, "not the needle that I meant")
    other = enqueue(store, "hay")
    assert found(store, words=["Needle"]) == [by_note, by_output, by_preset, by_prompt]
    assert found(store, words=['a "NEEDLE" in\nthe']) == [by_prompt]
    assert found(store, words=[other[1:]]) == [other]
    assert found(store, words=["seed"]) == []
    assert found(store, words=[""]) == [other, by_note, by_output, by_preset, by_prompt]


def test_letters_match_their_capitals_beyond_ascii(store):
    run_id = enqueue(store, "Ein GRÜNER Kreis, straße, КРУГ")
    for text in ("grüner", "STRASSE", "круг", "KREIS"):
        assert found(store, words=[text]) == [run_id]


@pytest.mark.parametrize("text", ["%", "_", "100%", "a_b", "\\", "*", "[x]"])
def test_characters_with_a_meaning_in_patterns_mean_themselves(store, text):
    enqueue(store, "a circle, axb, 100 per cent")
    run_id = enqueue(store, f"before {text} after", output="o")
    assert found(store, words=[text]) == [run_id]


def test_specs_without_a_readable_prompt_do_not_disturb_a_search(store):
    for spec in (b"{}", b'{"prompt":7}', b'{"prompt":"a\\u0000needle"}', b'{"prompt":[]}'):
        store.enqueue(spec, preset="p", output="o")
    run_id = enqueue(store, "needle")
    assert run_id in found(store, words=["needle"])
    assert len(found(store, words=["p"])) == 5


def test_text_that_is_not_unicode_is_refused(store):
    run_id = enqueue(store)
    for refused in (
        lambda: found(store, words=["\udcff"]),
        lambda: found(store, preset="\udcff"),
        lambda: found(store, tags=["\udcff"]),
        lambda: store.note(run_id, "\udcff"),
    ):
        with pytest.raises(StoreError, match="not valid Unicode"):
            refused()


def test_all_that_is_asked_for_must_fit(store, engine):
    first, second, third = (enqueue(store, f"circle {i}", preset=f"p{i % 2}") for i in range(3))
    store.tag(first, ["good", "red"])
    store.tag(second, ["good"])
    assert found(store, tags=["good"]) == [second, first]
    assert found(store, tags=["good", "red"]) == [first]
    assert found(store, tags=["goo"]) == []
    assert found(store, preset="p0") == [third, first]
    assert found(store, preset="p0", tags=["good"], words=["circle 0"], status="queued") == [first]
    assert found(store, preset="p0", tags=["good"], words=["circle 2"]) == []
    assert [run.id for run in store.search(limit=1, tags=["good"])] == [second]


def test_runs_are_found_by_when_they_were_asked_for(store, monkeypatch):
    clock = iter([100, 1, 200, 2, 300, 3])  # each enqueueing reads it for the run and its event
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    first, second, third = (enqueue(store) for _ in range(3))
    assert found(store, since_ns=200) == [third, second]
    assert found(store, until_ns=200) == [first]
    assert found(store, since_ns=101, until_ns=300) == [second]


def test_every_status_can_be_asked_for(store, engine):
    expected = {}
    for status in STATUSES[2:]:
        expected[status] = enqueue(store)
        store.lease(engine)
        store.finish(expected[status], status)
    expected["running"] = enqueue(store)
    store.lease(engine)
    expected["queued"] = enqueue(store)
    assert set(expected) == set(STATUSES)
    for status, run_id in expected.items():
        assert found(store, status=status) == [run_id]
        assert [run.id for run in store.runs(limit=9, status=status)] == [run_id]
        assert store.run(run_id).status == status
    with pytest.raises(StoreError, match="unknown status"):
        store.search(limit=9, status="crashed")


# Labels


def test_tags_are_a_sorted_set(store):
    run_id, other = enqueue(store), enqueue(store)
    store.tag(run_id, ["z", "a/b.c_d-e", "z"])
    store.tag(run_id, ["B", "a/b.c_d-e"])
    assert store.tags_of([run_id, other, "nothing"]) == {
        run_id: ("B", "a/b.c_d-e", "z"),
        other: (),
        "nothing": (),
    }
    store.untag(run_id, ["z", "never there"])
    assert store.tags_of([run_id])[run_id] == ("B", "a/b.c_d-e")
    assert store.tags_of([]) == {}


@pytest.mark.parametrize("name", ["", " ", "a b", "-x", ".x", "a\n", "é", "a" * 65, "a,b", "\x1b"])
def test_what_is_no_tag_is_refused_with_all_others(store, name):
    run_id = enqueue(store)
    with pytest.raises(StoreError, match="is not a tag") as caught:
        store.tag(run_id, ["fine", name])
    assert "\n" not in str(caught.value)
    assert store.tags_of([run_id])[run_id] == ()
    store.tag(run_id, ["a" * 64])


def test_a_note_is_kept_replaced_and_removed(store):
    run_id = enqueue(store)
    assert store.run(run_id).note == ""
    for text in ("first\nnote, ünïcode", "second", "", "x" * runs.MAX_NOTE):
        store.note(run_id, text)
        assert store.run(run_id).note == text
    with pytest.raises(StoreError, match="at most"):
        store.note(run_id, "x" * (runs.MAX_NOTE + 1))


def test_a_pin_is_set_and_taken_back(store):
    run_id = enqueue(store)
    assert not store.run(run_id).pinned
    store.pin(run_id)
    store.pin(run_id)
    assert store.run(run_id).pinned
    store.unpin(run_id)
    assert not store.run(run_id).pinned


def test_a_run_that_does_not_exist_has_no_labels(store):
    for refused in (
        lambda: store.tag("nothing", ["a"]),
        lambda: store.untag("nothing", ["a"]),
        lambda: store.note("nothing", "a"),
        lambda: store.pin("nothing"),
        lambda: store.unpin("nothing"),
        lambda: store.remove(["nothing"]),
        lambda: store.ancestors("nothing"),
        lambda: store.tree("nothing"),
        lambda: store.set_latents("nothing", ""),
    ):
        with pytest.raises(UnknownRun, match="nothing"):
            refused()


# Removal


def test_a_removed_run_leaves_no_row_of_its_own(store, engine):
    run_id, other = enqueue(store), enqueue(store)
    for name in (run_id, other):
        store.tag(name, ["t"])
        store.append(name, [StageFinished("load", 0.5, False)])
        link = LinkRecord("k", "step")
        store.record_link(name, link, stage="denoise", index=0, source="computed", seconds=0)
        store.lease(engine)
        store.finish(name, "done")
    store.remove([run_id])
    with pytest.raises(UnknownRun):
        store.run(run_id)
    for table, column in [
        ("runs", "id"),
        ("events", "run_id"),
        ("stages", "run_id"),
        ("run_links", "run_id"),
        ("tags", "run_id"),
    ]:
        left = rows(store.lineage, f"SELECT DISTINCT {column} FROM {table}")
        assert left == [(other,)], table
    assert set(store.find_links(["k"])) == {"k"}


def test_runs_are_removed_all_or_none(store, engine):
    done, running, queued = enqueue(store), enqueue(store), enqueue(store)
    store.lease(engine)
    store.finish(done, "done")
    store.lease(engine)
    for at_work, status in ((running, "running"), (queued, "queued")):
        with pytest.raises(StoreError, match=f"run {at_work} is {status}"):
            store.remove([done, at_work])
    with pytest.raises(UnknownRun):
        store.remove([done, "nothing"])
    assert store.run(done).status == "done"
    store.request_pause(queued)
    store.remove([done, queued, done])
    assert found(store) == [running]
    store.remove([])


def test_removal_survives_a_power_cut_before_any_blob_goes(store, monkeypatch):
    durable = []
    real = runs.immediate

    def watched(lineage, *, durable=False, _seen=durable):
        _seen.append(durable)
        return real(lineage, durable=durable)

    monkeypatch.setattr(runs, "immediate", watched)
    run_id = enqueue(store)
    store.request_cancel(run_id)
    store.remove([run_id])
    assert durable == [True]


# Relations


@pytest.fixture
def family(store):
    """Ids by name: a has b and c, b has d, c has e; z is alone."""
    ids = {"": ""}
    for name, parent in [("a", ""), ("b", "a"), ("z", ""), ("c", "a"), ("d", "b"), ("e", "c")]:
        ids[name] = enqueue(store, parent=ids[parent])
    return ids


def names(family, records):
    by_id = {run_id: name for name, run_id in family.items()}
    return [by_id[record.id] for record in records]


def test_children_and_ancestors(store, family):
    assert names(family, store.children(family["a"])) == ["b", "c"]
    assert store.children(family["e"]) == []
    assert names(family, store.ancestors(family["d"])) == ["b", "a"]
    assert store.ancestors(family["a"]) == []


def test_branches_are_told_newest_first_also_without_their_parents(store, family):
    before = store.branches()
    assert set(before) == {family[name] for name in "bcde"}
    created = [record.id for record in store.runs(limit=99)]
    assert before == [run_id for run_id in created if run_id in before]
    store.request_cancel(family["a"])
    store.remove([family["a"]])
    assert store.branches() == before


@pytest.mark.parametrize("name", "abcde")
def test_a_tree_is_the_same_from_each_of_its_runs(store, family, name):
    tree = store.tree(family[name])
    assert names(family, [record for record, _ in tree]) == ["a", "b", "d", "c", "e"]
    assert [depth for _, depth in tree] == [0, 1, 2, 1, 2]


def test_the_tree_of_a_single_run(store, family):
    [(record, depth)] = store.tree(family["z"])
    assert (record.id, depth) == (family["z"], 0)


def test_a_removed_parent_parts_the_tree_and_leaves_its_branches(store, family):
    store.request_cancel(family["a"])
    store.remove([family["a"]])
    assert names(family, [record for record, _ in store.tree(family["d"])]) == ["b", "d"]
    assert store.ancestors(family["b"]) == []
    assert store.run(family["b"]).parent == family["a"]
    assert names(family, store.children(family["a"])) == ["b", "c"]


def test_a_circle_of_parents_ends(store, family):
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET parent=? WHERE id=?", (family["d"], family["a"]))
        connection.execute("UPDATE runs SET parent=id WHERE id=?", (family["z"],))
    assert names(family, store.ancestors(family["a"])) == ["d", "b"]
    tree = names(family, [record for record, _ in store.tree(family["a"])])
    assert sorted(tree) == ["a", "b", "c", "d", "e"]
    assert len(store.tree(family["z"])) == 1


def test_a_long_line_of_branches(store):
    parent = ""
    with immediate(store.lineage) as connection:
        for i in range(1500):
            connection.execute(
                "INSERT INTO runs (id, status, preset, spec, output, created_ns, parent) "
                "VALUES (?, 'done', 'p', '{}', 'o', 0, ?)",
                (f"r{i}", parent),
            )
            parent = f"r{i}"
    assert [depth for _, depth in store.tree("r700")] == list(range(1500))
    assert len(store.ancestors("r1499")) == 1499


def test_ten_thousand_runs_are_looked_at_once_each(root):
    with open_store(root) as store:
        spec = json.dumps({"prompt": "a word " * 30, "more": {f"k{i}": i for i in range(60)}})
        with immediate(store.lineage) as connection:
            connection.executemany(
                "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
                "VALUES (?, 'done', 'p', ?, '/v/o.mp4', 0)",
                [(f"r{i}", spec) for i in range(10_000)],
            )
        found, count = instructions(
            store.lineage, lambda: store.search(limit=20, words=["not there"])
        )
        assert found == []
        assert count < 100 * 10_000  # 27 for each
        several = ["not", "there"]
        _, count = instructions(store.lineage, lambda: store.search(limit=20, words=several))
        assert count < 100 * 10_000
        wanted = [Compared("more.k7", ">", 7), Compared("prompt", "=", "*not there*")]
        found, count = instructions(store.lineage, lambda: store.search(limit=20, compared=wanted))
        assert found == []
        assert count < 200 * 10_000


# Settings, stars, and what a shell asks for


def test_settings_are_compared_where_they_are(store):
    def add(**spec):
        return store.enqueue(json.dumps(spec).encode(), preset="p", output="o")

    small = add(seed=7, scheduler={"name": "unipc", "steps": 20}, guidance={"scale": 2.5})
    large = add(seed=2**64 - 1, scheduler={"name": "dpm++"}, guidance={"scale": [6, 6, 1]})
    pieces = add(flag=True, guidance={"scale": [{"from": 0, "to": 1, "scale": 9}]})

    def those(key, comparison, value, **more):
        return found(store, compared=[Compared(key, comparison, value, **more)])

    assert those("seed", "=", 7) == [small]
    assert those("seed", "=", 2**64 - 1) == [large]
    assert those("seed", "=", 2**64 - 2) == []
    assert those("seed", ">", 2**63) == [large]
    assert those("guidance.scale", ">", 3) == [large]
    assert those("guidance.scale", "<=", 2.5) == [large, small]
    assert those("scheduler.name", "=", "UniPC") == [small]
    assert those("scheduler.name", "=", "*p*") == [large, small]
    assert those("scheduler.name", "=", "[du]*") == []
    assert those("scheduler.name", ">", 0) == []
    assert those("scheduler.steps", "<", 50, fits_absent=True) == [pieces, large, small]
    assert those("flag", "=", True) == [pieces]
    assert those("flag", "=", False) == []


def test_a_spec_that_is_no_json_fits_no_setting(store):
    run_id = store.enqueue(b'{"seed": 7}', preset="p", output="o")
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET spec='{' WHERE id=?", (run_id,))
    assert found(store, compared=[Compared("seed", "=", 7)]) == []


def test_stars_are_given_and_taken(store):
    good, bad = (store.enqueue(b"{}", preset="p", output="o") for _ in range(2))
    store.rate(good, 5)
    store.rate(bad, 2)
    assert store.run(good).rating == 5
    assert found(store, compared=[Compared("rating", ">=", 3)]) == [good]
    store.rate(good, 0)
    assert found(store, compared=[Compared("rating", ">=", 1)]) == [bad]
    for stars in (-1, 6):
        with pytest.raises(BadRequest, match="1 to 5 stars"):
            store.rate(good, stars)


def test_the_beginning_of_a_tag_and_of_a_preset(store):
    one, two = (store.enqueue(b"{}", preset=name, output="o") for name in ("wan-a", "wan-b"))
    store.tag(one, ["sweep/abc"])
    store.pin(two)
    assert found(store, tags=["sweep/*"]) == [one]
    assert found(store, tags=["sweep/"]) == []
    assert found(store, preset="wan*") == [two, one]
    assert found(store, is_pinned=True) == [two]


def test_ids_that_begin_so_are_found_among_any_number(store):
    first = store.enqueue(b"{}", preset="p", output="o")
    for _ in range(5):
        store.enqueue(b"{}", preset="p", output="o")
    assert [run.id for run in store.runs_like(first[:7], limit=3)] == [first]
    assert len(store.runs_like("", limit=3)) == 3
    assert store.runs_like("0*", limit=3) == []


def test_who_will_write_where(store):
    run_id = store.enqueue(b"{}", preset="p", output="/o/a.mp4")
    done = store.enqueue(b"{}", preset="p", output="/o/b.mp4")
    store.request_cancel(done)
    found = store.writing_to(["/o/a.mp4", "/o/b.mp4", "/o/c.mp4"])
    assert found == {"/o/a.mp4": (run_id, "queued")}
