"""`modiff store` on stores of made runs: what is printed, the exit codes, and what is not imported."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from store.blobs import blobs
from store.database.database import immediate
from store.store import open_store
from store.upkeep.gc import writing
from tests.imported import imported_by
from tests.stores.made_stores import STEP_BYTES, make_run, on_disk, put
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[5]
MIB = 1 << 20


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def modiff(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["store", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def data(capsys, *arguments: object):
    code, out, err = modiff(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def cells(out: str, first: str) -> list[str]:
    """The cells of the line that begins so."""
    [line] = [line for line in out.splitlines() if line.startswith(first)]
    return re.split(r"  +", line)


# info


def test_info_says_what_takes_space(capsys, store):
    make_run(store, "a", num_bytes=MIB, pinned=True)
    gone = make_run(store, "gone", num_bytes=MIB)
    store.remove([gone.id])
    code, out, err = modiff(capsys, "info")
    assert (code, err) == (0, "")
    assert f"store  {store.root}" in out
    assert "runs   1, 1 of them pinned" in out
    assert cells(out, "step journal") == ["step journal", "8", "8 MiB"]
    assert cells(out, "videos") == ["videos", "2", "1 KiB"]
    assert "of no run any more, of those that were removed or taken further: 4 MiB" in out
    assert "never removed: 4 MiB" in out
    found = data(capsys, "info")
    assert {kind["kind"]: kind["bytes"] for kind in found["kinds"]} == {
        "step": 8 * MIB,
        "text": 600,
        "latents": 1000,
        "video": 1400,
    }
    assert (found["runs"], found["pinned"], found["blobs"]) == (1, 1, 14)
    assert found["files"]["database"] > 0
    assert found["bytes"] == sum(kind["bytes"] for kind in found["kinds"]) + sum(
        found["files"].values()
    )
    assert 0 < found["budget_bytes"] <= found["free_bytes"]


def test_info_of_a_store_that_was_never_used(capsys):
    code, out, _ = modiff(capsys, "info")
    assert code == 0
    assert "runs   0" in out


def test_what_a_database_holds_cannot_talk_to_the_terminal(capsys, store):
    made = make_run(store, "a\x1b[31m")
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET kind='te\x1b]0;title\x07xt' WHERE kind='text'")
    for command in (("info",), ("ls",), ("ls", "--by", "kind"), ("ls", "--json"), ("verify",)):
        code, out, _ = modiff(capsys, *command)
        assert code == 0
        assert not set(out) & {"\x1b", "\x07"}, command
    assert made.id in modiff(capsys, "ls")[1]


# ls


def test_ls_tells_what_each_run_takes_and_costs(capsys, store):
    trunk = make_run(store, "trunk", num_bytes=MIB, seconds=30.0)
    branch = make_run(
        store, "branch", parent=trunk, at=3, num_steps=5, num_bytes=MIB, seconds=30.0, pinned=True
    )
    code, out, err = modiff(capsys, "ls")
    assert (code, err) == (0, "")
    assert cells(out, trunk.id) == [trunk.id, "1 MiB", "3 MiB", "3:00", "trunk"]
    assert cells(out, branch.id) == [branch.id, "2 MiB", "3 MiB", "3:30", "yes", "branch"]
    code, out, err = modiff(capsys, "ls", "--limit", 1)
    assert out.splitlines()[1].startswith(branch.id)
    assert len(out.splitlines()) == 2
    assert err == "and 1 more; see --limit\n"
    by_id = {each["run"]: each for each in data(capsys, "ls")["runs"]}
    assert by_id[trunk.id]["alone_bytes"] == MIB + 1500
    assert by_id[branch.id]["shared_bytes"] == 3 * MIB
    assert by_id[branch.id]["seconds"] == 210.0
    assert by_id[branch.id]["pinned"] is True


def test_ls_by_kind_and_by_age(capsys, store):
    make_run(store, "a", num_bytes=MIB, age_days=3, seconds=10.0)
    code, out, _ = modiff(capsys, "ls", "--by", "kind")
    assert code == 0
    assert cells(out, "step journal") == ["step journal", "4", "4 MiB", "40.0 s"]
    _, out, _ = modiff(capsys, "ls", "--by", "age")
    assert cells(out, "in the last week")[:3] == ["in the last week", "7", "4 MiB"]
    assert data(capsys, "ls", "--by", "age")["shares"] == [
        {"used": "week", "blobs": 7, "bytes": 4 * MIB + 1500, "seconds": 60.0}
    ]


@pytest.mark.parametrize("by", ["run", "kind", "age"])
def test_ls_of_nothing(capsys, by):
    code, out, err = modiff(capsys, "ls", "--by", by)
    assert (code, out) == (0, "")
    assert "no " in err
    told = json.loads(modiff(capsys, "ls", "--by", by, "--json")[1])
    assert [*told.values()] == [[]]


# verify


def test_verify_a_sound_store(capsys, store):
    make_run(store, "a")
    put(store, "orphan")
    code, out, _ = modiff(capsys, "verify")
    assert code == 0
    assert "8 blobs, 6 KiB; 8 were read" in out
    assert "1 of them" in out
    assert out.endswith("the database and all blobs are sound\n")
    assert "0 were read" in modiff(capsys, "verify", "--quick")[1]


def test_verify_tells_what_is_wrong_once_and_exits_with_1(capsys, store):
    made = make_run(store, "a")
    blobs.blob_path(store.root, made.steps[0]).unlink()
    path = blobs.blob_path(store.root, made.steps[1])
    path.chmod(0o600)
    path.write_bytes(b"other")
    code, out, _ = modiff(capsys, "verify", "--json")
    assert code == 1
    found = json.loads(out)
    assert not found["ok"]
    assert {each["blob"]: each["problem"] for each in found["problems"]} == {
        made.steps[0]: "missing",
        made.steps[1]: "damaged",
    }
    assert modiff(capsys, "verify")[0] == 0


def test_verify_tells_of_damaged_rows_and_repairs_them_when_asked(capsys, store):
    made = make_run(store, "a")
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE runs SET note=CAST(x'ff' AS TEXT)")
        connection.execute("UPDATE links SET digest='none' WHERE key=?", (made.keys[0],))
    code, out, _ = modiff(capsys, "verify")
    assert code == 1
    assert f"damaged     row {made.id} of runs: note holds bytes that are no text\n" in out
    assert f"row {made.keys[0]} of links: digest is no digest\n" in out
    assert "`modiff store verify --repair` mends or sets aside" in out
    code, out, _ = modiff(capsys, "verify", "--repair", "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["ok"], told["repaired"], told["problems"]) == (False, True, [])
    assert [(row["table"], row["row"]) for row in told["rows"]] == [
        ("runs", made.id),
        ("links", made.keys[0]),
    ]
    assert told["rows"][0]["note"] == "mended"
    assert told["rows"][1]["note"].startswith("set aside in rows-")
    assert modiff(capsys, "verify")[0] == 0
    assert store.run(made.id).note == ""


def test_verify_in_words(capsys, store):
    made = make_run(store, "a")
    blobs.blob_path(store.root, made.steps[0]).unlink()
    code, out, err = modiff(capsys, "verify", "--quick")
    assert (code, err) == (1, "")
    assert out.startswith(f"missing     {made.steps[0]}: 1 link forgot it\n")
    assert "not as they should be: 1" in out


def test_a_damaged_database_is_one_line(capsys, store):
    path = store.lineage.path
    store.lineage.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    raw = bytearray(path.read_bytes())
    raw[4096:] = b"\xff" * (len(raw) - 4096)
    path.write_bytes(raw)
    code, _, err = modiff(capsys, "verify")
    assert code == 1
    assert err.startswith("modiff: ")
    assert "damaged" in err
    assert err.count("\n") == 1


# gc


def test_gc_says_what_it_would_do_then_does_it(capsys, store):
    made = make_run(store, "a", num_bytes=MIB, seconds=10.0)
    before = on_disk(store)
    code, out, err = modiff(capsys, "gc", "--budget", "2MiB", "--dry-run")
    assert (code, err) == (0, "")
    assert cells(out, "step journal") == ["step journal", "2", "2 MiB"]
    assert "would free 2 MiB; 20.0 s to compute it again" in out
    assert on_disk(store) == before
    code, out, _ = modiff(capsys, "gc", "--budget", "2MiB")
    assert code == 0
    assert "freed 2 MiB" in out
    assert before - on_disk(store) == set(made.steps[2:])
    again = modiff(capsys, "gc", "--budget", "2MiB")[1]
    assert again.startswith(
        "nothing to remove: steps, keyframes and what no run has any more take 2 MiB,"
    )


def test_gc_as_json(capsys, store):
    make_run(store, "a", age_days=40)
    found = data(capsys, "gc", "--older-than", "30d", "--outputs")
    assert found == {
        "dry_run": False,
        "freed_bytes": 4 * STEP_BYTES + 1200,
        "seconds": 5.0,
        "removed": [
            {"kind": "step", "blobs": 4, "bytes": 4 * STEP_BYTES, "seconds": 4.0},
            {"kind": "video", "blobs": 1, "bytes": 700, "seconds": 1.0},
            {"kind": "latents", "blobs": 1, "bytes": 500, "seconds": 0.0},
        ],
        "quarantine": [],
        "quantised": [],
        "left_bytes": 0,
        "budget_bytes": None,
    }


def test_gc_shows_what_was_set_aside_as_damaged(capsys, store):
    old = store.root / "quarantine" / "rows-1700000000000000000.jsonl"
    old.write_text("x" * 2048)
    code, out, _ = modiff(capsys, "gc", "--dry-run")
    assert code == 0
    assert cells(out, "quarantine") == ["quarantine", "1", "2 KiB"]
    assert "would free 2 KiB" in out
    assert data(capsys, "gc")["quarantine"] == [
        {"file": old.name, "bytes": 2048, "ns": 1_700_000_000_000_000_000}
    ]
    assert not old.exists()


def test_gc_gives_back_quantised_weights_that_nobody_used_for_a_month(capsys, store):
    folder = store.root / "quantised"
    folder.mkdir()
    old, new, other = (folder / f"{letter * 64}.safetensors" for letter in "abz")
    for path in (old, new, other):
        path.write_text("x" * 2048)
    os.utime(old, (1_700_000_000, 1_700_000_000))
    os.utime(other, (1_700_000_000, 1_700_000_000))
    code, out, _ = modiff(capsys, "gc", "--dry-run")
    assert code == 0
    assert cells(out, "quantised") == ["quantised", "1", "2 KiB"]
    [gone] = data(capsys, "gc")["quantised"]
    assert (gone["file"], gone["bytes"]) == (old.name, 2048)
    assert not old.exists()
    assert new.exists()
    assert other.exists()  # no name of ours


def test_gc_by_default_leaves_a_small_store_as_it_is(capsys, store):
    make_run(store, "a", age_days=400)
    orphan = put(store, "orphan", age_days=1)
    before = on_disk(store)
    assert data(capsys, "gc")["budget_bytes"] > 0
    assert before - on_disk(store) == {orphan}


def test_gc_says_when_the_budget_cannot_be_met(capsys, store):
    make_run(store, "a", num_bytes=MIB, pinned=True)
    code, out, err = modiff(capsys, "gc", "--budget", "1MiB")
    assert (code, out) == (0, "nothing to remove\n")
    assert err == (
        "4 MiB stay, more than the budget of 1 MiB: pinned and unfinished runs need them\n"
    )


def test_gc_takes_up_the_runs_of_dead_engines_first(capsys, store):
    make_run(store, "a", status="running")
    assert data(capsys, "gc", "--budget", "0")["freed_bytes"] == 4 * STEP_BYTES


def test_gc_beside_a_writer_is_one_line_and_exit_code_1(capsys, store, monkeypatch):
    monkeypatch.setattr("store.upkeep.gc.COLLECTOR_SECONDS", 0.01)
    make_run(store, "a")
    before = on_disk(store)
    with writing(store.root):
        code, out, err = modiff(capsys, "gc", "--budget", "0")
    assert (code, out) == (1, "")
    assert err.startswith("modiff: a run is writing into the store")
    assert err.count("\n") == 1
    assert on_disk(store) == before


@pytest.mark.parametrize(
    "option",
    [
        ("--budget", "lots"),
        ("--budget", "-1"),
        ("--budget", "3i"),
        ("--budget", "٣GB"),
        ("--older-than", "30"),
        ("--older-than", "1 year"),
    ],
    ids=" ".join,
)
def test_a_size_or_age_that_is_none_is_bad_input(capsys, option):
    code, out, err = modiff(capsys, "gc", *option)
    assert (code, out) == (2, "")
    assert "expected one such as" in err


def test_nothing_heavy_is_imported(store):
    make_run(store, "a")
    heavy = {"torch", "textual", "transformers", "numpy", "diffusers", "PIL"}
    commands = (("store", name) for name in ("info", "ls", "verify", "gc"))
    found = imported_by(*commands, first="import store.store")
    for command, modules in found.items():
        assert not modules & heavy, command
