"""The command line and the app say the same about one run: its row, its summary, what it changes."""

from __future__ import annotations

import json

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.lineage.records import Segment
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run
from tui.app.queue.text import table as queue_table
from tui.app.runs.list import table
from tui.cli.main import main
from tui.describe.runs.changes import values_told
from tui.describe.runs.detail import APP, COMMAND_LINE, detail, lines
from tui.describe.runs.families import changes_told, families
from tui.describe.runs.queued import expected
from tui.describe.runs.run import run_rows


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def told(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def rows_in_app(store) -> dict[str, dict[str, str]]:
    """By run the cells of the table of Runs, by title."""
    rows = run_rows(store, store.runs(limit=9))
    columns, cells = table(rows, (), rows[0].record.created_ns, 200)
    titles = [column.title for column in columns]
    return {row.key: dict(zip(titles, row.cells, strict=True)) for row in cells}


def test_a_row_says_the_same(capsys, store):
    done = record_run(store, micro("seed=7")).id
    early = record_run(store, micro("seed=8", "guidance.scale=4")).id
    store.lineage.db.execute("UPDATE runs SET stop_at=3 WHERE id=?", [early])
    store.lineage.db.conn.commit()
    store.rate(early, 4)
    names = "id,status,rating,differs,preset,time,prompt"
    _, *lines_told = told(capsys, "runs", "--columns", names).splitlines()
    in_app = rows_in_app(store)
    for line in lines_told:
        run_id, status, *others = line.split("\t")
        cells = in_app[run_id]
        same = [cells[title] for title in ("STARS", "DIFFERS", "PRESET", "TIME", "PROMPT")]
        assert others == same
        assert cells["STATUS"].split()[1] == status.split()[-1]
    assert in_app[early]["STATUS"] == "◐ 3/5"
    assert in_app[done]["DIFFERS"] == "seed 7, guidance 2.5"
    by_id = {run["run"]: run for run in json.loads(told(capsys, "runs", "--json"))["runs"]}
    assert values_told(by_id[early]["differs"]) == in_app[early]["DIFFERS"]


def test_a_summary_says_the_same(capsys, store):
    run_id = record_run(store, micro("seed=7", 'prompt="a star"')).id
    store.note(run_id, "good")
    known = detail(store, run_id)
    shown = told(capsys, "show", run_id).splitlines()
    assert [f"{name:<10}{value}" for name, value in lines(known, COMMAND_LINE)] == shown[
        : len(lines(known))
    ]
    ours, theirs = dict(lines(known, COMMAND_LINE)), dict(lines(known, APP))
    assert {name for name in ours if ours[name] != theirs[name]} == {"status"}
    assert theirs["status"] == f"✓ {ours['status']}"


def test_a_branch_says_the_same(capsys, store):
    parent = store.run(store.enqueue(encode_spec(micro("seed=7")), preset="micro", output=""))
    branch = store.enqueue(
        encode_spec(micro("seed=7", "guidance.scale=4")),
        preset="micro",
        output="",
        parent=parent.id,
        parent_step=2,
        segments=[Segment(2, parent.spec_json)],
    )
    [_, relative] = families(run_rows(store, store.runs(limit=9)))
    assert changes_told(relative) == "guidance 2.5→4"
    assert "guidance 2.5" in told(capsys, "tree", branch)


def test_what_a_run_changes_of_its_preset_says_the_same(capsys, store):
    spec = load_preset("micro", ["seed=7"])
    run_id = store.enqueue(encode_spec(spec), preset="micro", output="")
    rows = run_rows(store, store.queued())
    known = expected(store, [row.record for row in rows])
    assert queue_table(rows, known)[0].cells[3] == "seed 7"
    assert dict(lines(detail(store, run_id)))["preset"] == "micro, with seed 7"
    assert "micro, with seed 7" in told(capsys, "show", run_id)


def keys_in(data: object) -> set[str]:
    if isinstance(data, dict):
        return {*data, *(key for value in data.values() for key in keys_in(value))}
    return {key for each in data for key in keys_in(each)} if isinstance(data, list) else set()


def test_a_number_of_steps_has_one_name_in_json(capsys, store):
    run_ids = [record_run(store, micro(f"seed={seed}")).id for seed in (7, 8)]
    commands = (["plan", "micro"], ["runs"], ["show", run_ids[0]], ["compare", *run_ids])
    keys = set[str]().union(
        *(keys_in(json.loads(told(capsys, *each, "--json"))) for each in commands)
    )
    assert {key for key in keys if key.endswith("_steps") or key.startswith("steps_")} == {
        "total_steps",
        "stored_steps",
        "steps_done",
        "computed_steps",
        "reused_steps",
        "shared_steps",
        "steps_a",
        "steps_b",
    }
