"""Rows that are damaged: passed over and told, never a reason for anything else to fail; mended or set aside."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

from store.blobs.blobs import digest_of
from store.database.database import immediate, rows
from store.errors import StoreDamaged, StoreError
from store.lineage import damage
from store.lineage.damage import RowDamaged
from store.lineage.events import RunFinished
from store.store import open_store
from store.upkeep import repair
from store.upkeep.contents import look
from store.upkeep.gc import clean, preview
from store.upkeep.removal import Policy
from store.upkeep.space import survey
from store.upkeep.verify import verify
from tests.stores.made_stores import make_run, on_disk

NO_TEXT = "CAST(x'61ff62' AS TEXT)"  # what a flipped bit makes of "a?b"


@pytest.fixture(autouse=True)
def _told_anew():
    damage.tell.cache_clear()


def damaged(store, table, column, value, where):
    """Make a value what no code of ours would write."""
    connection = store.lineage.db.conn
    connection.execute("PRAGMA ignore_check_constraints=ON")
    with immediate(store.lineage) as writing:
        writing.execute(f"UPDATE {table} SET {column}={value} WHERE {where}")
    connection.execute("PRAGMA ignore_check_constraints=OFF")


def read_all(store):
    """Everything that looks at a store; how many runs it lists."""
    for run_id in [run_id for (run_id,) in rows(store.lineage, "SELECT id FROM runs")]:
        if isinstance(run_id, str):
            keys = [link.key for link in store.links_of(run_id)]
            store.find_links(keys)
            store.events(run_id)
            store.log(run_id, limit=99)
            store.stages(run_id)
            store.tags_of([run_id])
            store.children(run_id)
            store.peak_memory(run_id)
    store.engines()
    store.recover_if_possible()
    store.queued()
    store.branches()
    store.search(limit=9, words=["kreis"])
    survey(store.root, look(store.lineage))
    preview(store.lineage, Policy(0))
    return len(store.runs(limit=99))


@pytest.fixture
def made(store):
    made = [make_run(store, name) for name in ("a", "b")]
    for one in made:
        store.tag(one.id, ["keep"])
        store.stage(one.id, "denoise", seconds=1.0, cached=False)
        store.note(one.id, "Ein Kreis")
    return made


# table, column, what it becomes, how many runs are listed then, whether the row stays once it is mended
CASES = [
    ("runs", "note", NO_TEXT, 1, True),
    ("runs", "latents", "'sha256:no'", 1, True),
    ("runs", "status", "'dond'", 1, True),
    ("runs", "created_ns", "x'01'", 1, True),
    ("runs", "spec", NO_TEXT, 1, False),
    ("runs", "spec", '\'{"prompt": "a\'', 1, False),
    ("runs", "segments", "'[[1]]'", 1, False),
    ("runs", "segments", "'[[1, \"{\"]]'", 1, False),
    ("runs", "id", NO_TEXT, 1, False),
    ("runs", "output", "7.5", 2, None),  # a text column makes a text of it: nobody can tell
    ("stages", "name", NO_TEXT, 2, False),
    ("events", "json", '\'{"kind":"run_qu\'', 2, False),
    ("events", "json", NO_TEXT, 2, False),
    ("events", "ns", "'x'", 2, True),
    ("tags", "tag", NO_TEXT, 2, False),
    ("links", "key", NO_TEXT, 2, False),
    ("links", "digest", NO_TEXT, 2, False),
    ("links", "state", "'sha256:'", 2, False),
    ("links", "facts", NO_TEXT, 2, True),
    ("links", "seconds", "x'00'", 2, False),
    ("run_links", "key", NO_TEXT, 2, False),
    ("run_links", "stage", NO_TEXT, 2, False),
    ("run_links", "digest", "'sha257:'", 2, False),
    ("run_links", "sigma", NO_TEXT, 2, True),
]


@pytest.mark.parametrize(("table", "column", "value", "num_listed", "is_mended"), CASES)
def test_a_damaged_row_is_passed_over_told_and_dealt_with(
    store, made, caplog, table, column, value, num_listed, is_mended
):
    store.lineage.db.conn.execute("PRAGMA foreign_keys=OFF")
    owner = {"runs": "id", "links": "key"}.get(table, "run_id")
    name = made[0].keys[0] if table == "links" else made[0].id
    where = (
        f"{owner}='{name}'"
        if table != "events"
        else f"id=(SELECT min(id) FROM events WHERE run_id='{name}')"
    )
    if table == "run_links":
        where += " AND stage='step' AND idx=0"
    [(num_rows,)] = rows(store.lineage, f"SELECT count(*) FROM {table}")
    damaged(store, table, column, value, where)
    assert read_all(store) == num_listed
    verdict = verify(store.lineage)
    if is_mended is None:
        assert verdict.is_sound
        return
    [found] = verdict.rows
    assert (found.table, found.faults[0][0]) == (table, column)
    assert not verdict.is_sound
    assert verify(store.lineage).rows == verdict.rows  # nothing was done
    repaired = verify(store.lineage, repairs=True)
    assert repaired.is_repaired
    assert ("mended" in repaired.rows[0].note) == is_mended
    assert verify(store.lineage).is_sound
    store.check()
    [(num_left,)] = rows(store.lineage, f"SELECT count(*) FROM {table}")
    assert num_rows - num_left == (not is_mended)
    [aside] = (store.root / "quarantine").glob("rows-*.jsonl")
    lines = [json.loads(line) for line in aside.read_text().splitlines()]
    assert {"table", "row"} == lines[0].keys()
    assert lines[0]["table"] == table
    if table == "runs" and not is_mended and column != "id":
        assert {line["table"] for line in lines} >= {"runs", "events", "run_links", "tags"}
    assert read_all(store) == (1 if table == "runs" and not is_mended else 2)


@pytest.mark.parametrize(
    "meanwhile",
    [
        "UPDATE runs SET note='anew' WHERE id=?",  # by whoever set the note again
        "UPDATE runs SET note='', created_ns=CAST(x'01' AS BLOB) WHERE id=?",  # damaged, but elsewhere
        "UPDATE runs SET id='anotherone' WHERE id=?",  # another run has its place
        "DELETE FROM runs WHERE id=?",
    ],
)
def test_a_row_that_changed_after_it_was_looked_at_is_left_as_it_is(
    store, made, monkeypatch, meanwhile
):
    store.lineage.db.conn.execute("PRAGMA foreign_keys=OFF")
    store.lineage.db.conn.execute("PRAGMA ignore_check_constraints=ON")
    damaged(store, "runs", "note", NO_TEXT, f"id='{made[0].id}'")
    real = repair.repair

    def repair_later(lineage, *arguments):
        with immediate(lineage) as connection:
            connection.execute(meanwhile, (made[0].id,))
        before = rows(lineage, "SELECT * FROM runs ORDER BY seq")
        done = real(lineage, *arguments)
        assert rows(lineage, "SELECT * FROM runs ORDER BY seq") == before
        return done

    monkeypatch.setattr("store.upkeep.verify.repair", repair_later)
    [found] = verify(store.lineage, repairs=True).rows
    assert found.note == repair.CHANGED
    assert not list((store.root / "quarantine").glob("rows-*"))


def test_rows_of_a_run_that_is_set_aside_go_with_it_whatever_is_wrong_with_them(store, made):
    store.lineage.db.conn.execute("PRAGMA foreign_keys=OFF")
    damaged(store, "stages", "name", NO_TEXT, f"run_id='{made[0].id}'")
    damaged(store, "runs", "spec", "'{'", f"id='{made[0].id}'")
    found = verify(store.lineage, repairs=True).rows
    assert {each.table for each in found} == {"runs", "stages"}
    assert all(each.note.startswith("set aside in ") for each in found)
    assert verify(store.lineage).is_sound


def test_who_asks_for_a_damaged_run_is_told_which_row_it_is(store, made, caplog):
    damaged(store, "runs", "spec", NO_TEXT, f"id='{made[0].id}'")
    with pytest.raises(RowDamaged) as caught:
        store.run(made[0].id)
    assert (caught.value.table, caught.value.row, caught.value.column) == (
        "runs",
        made[0].id,
        "spec",
    )
    text = str(caught.value)
    assert "\n" not in text
    assert "modiff store verify --repair" in text
    for _ in range(3):
        assert [run.id for run in store.runs(limit=9)] == [made[1].id]
    assert [record.message for record in caplog.records] == [text]


def test_a_damaged_run_does_not_stand_before_the_queue(store, engine):
    first, second = [store.enqueue(b"{}", preset="p", output="o") for _ in range(2)]
    damaged(store, "runs", "spec", "'{'", f"id='{first}'")
    assert store.lease(engine).id == second
    [(status, error)] = rows(store.lineage, f"SELECT status, error FROM runs WHERE id='{first}'")
    assert status == "failed"
    assert "the table runs is damaged" in error
    assert [event for _, event in store.events(first)][-1] == RunFinished("failed", error)


def test_a_damaged_link_is_a_miss_and_is_replaced(store, made):
    key = made[0].keys[1]
    known = store.find_links([key])[key]
    damaged(store, "links", "digest", NO_TEXT, f"key='{key}'")
    assert store.find_links([key]) == {}
    store.record_link(made[1].id, known, stage="step", index=9, source="computed", seconds=1.0)
    assert store.find_links([key])[key].digest == known.digest


def test_what_a_damaged_row_still_names_is_not_removed(store, made):
    for table in ("links", "run_links"):
        column = "kind" if table == "links" else "stage"
        damaged(store, table, column, NO_TEXT, f"digest='{made[0].text}'")
    damaged(store, "runs", "preset", NO_TEXT, f"id='{made[0].id}'")
    before = on_disk(store)
    clean(store.lineage, Policy())
    assert on_disk(store) == before
    assert verify(store.lineage).rows


def test_a_change_that_meets_a_damaged_text_says_so(store, made):
    damaged(store, "runs", "status", NO_TEXT, f"id='{made[0].id}'")
    with pytest.raises(StoreDamaged, match="verify --repair"):
        store.pin(made[0].id)
    store.pin(made[1].id)


def test_an_index_that_does_not_fit_its_table_is_made_anew(store, root, made):
    store.close()
    path = root / "lineage.db"
    data = path.read_bytes()
    run_id = made[0].id
    other = (("b" if run_id[0] == "a" else "a") + run_id[1:]).encode()
    table_only = next(
        place
        for place in places(data, made[0].id.encode())
        if data[place + 10 : place + 14] == b"done"
    )
    path.write_bytes(data[:table_only] + other + data[table_only + 10 :])
    with open_store(root) as store:
        assert read_all(store) == 2
        verdict = verify(store.lineage)
        assert verdict.indexes
        assert not verdict.is_sound
        assert verify(store.lineage, repairs=True).is_repaired
        assert verify(store.lineage).indexes == ()
        assert store.run(other.decode()).status == "done"


def places(data, text):
    at = data.find(text)
    while at >= 0:
        yield at
        at = data.find(text, at + 1)


@pytest.fixture(scope="module")
def three_runs(tmp_path_factory):
    """The folder of a store that is closed."""
    root = tmp_path_factory.mktemp("three") / "store"
    with open_store(root) as store:
        made = [make_run(store, name) for name in ("a", "b", "c")]
        for one in made:
            store.tag(one.id, ["keep"])
            store.note(one.id, "Ein Kreis")
        store.register_engine("engineaaaa", pid=os.getpid()).release()
    return root


@pytest.mark.parametrize("seed", range(40))
def test_whatever_bit_is_flipped_nothing_ends_but_in_words(root, three_runs, seed):
    shutil.copytree(three_runs, root)
    path = root / "lineage.db"
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    page = data.rindex(b"CREATE TABLE") // 4096 + 1  # without the schema nothing can be opened
    filled = [at for at in range(page * 4096, len(data)) if data[at]]
    data[chance.choice(filled)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    said = ""
    try:
        with open_store(root) as store:
            for run in store.runs(limit=9):
                run.status.upper()
            read_all(store)
            verify(store.lineage, repairs=True)
            again = verify(store.lineage)
            assert (again.rows, again.indexes) == ((), ())
            store.check()
    except StoreError as error:
        said = str(error)
    assert "\n" not in said


def test_a_digest_is_what_a_blob_is_named_by(store):
    assert damage.faults(store.lineage, "links", "key, digest", ("k", digest_of(b"x"))) == []
    assert damage.faults(store.lineage, "links", "key, digest", ("k", "")) == []
    assert damage.faults(store.lineage, "links", "key, digest", ("k", "x"))
