"""Runs found, shown, drawn as trees and labelled: all without an engine."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.blobs import blobs
from store.database.database import immediate
from store.keys import derive_key
from store.lineage.records import LinkRecord, Segment
from store.store import open_store
from tests.imported import imported_by
from tui.cli.commands.runs.list import table
from tui.cli.commands.runs.tree import _leads
from tui.cli.completion import complete_run
from tui.cli.main import main
from tui.describe.runs.run import run_rows

ROOT = Path(__file__).resolve().parents[5]
NOT_IMPORTED = {"torch", "numpy", "transformers", "textual", "PIL"}


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


@pytest.fixture(autouse=True)
def utf8(monkeypatch):
    monkeypatch.setattr("tui.cli.commands.runs.tree.has_boxes", lambda: True)


def enqueue(store, *, output="/videos/{run}.mp4", preset="micro", **options) -> str:
    fields = ("parent", "parent_step", "segments", "stop_at")
    queued = {name: options.pop(name) for name in fields if name in options}
    spec = load_preset("micro", options.pop("overrides", ()), values=options)
    return store.enqueue(encode_spec(spec), preset=preset, output=output, **queued)


def ended(store, run_id, status="done", error="") -> str:
    with store.register_engine(f"engine{run_id}", pid=os.getpid(), version=installed_version()):
        while store.lease(f"engine{run_id}").id != run_id:
            pass
        store.finish(run_id, status, error=error)
        store.unregister_engine(f"engine{run_id}")
    return run_id


def add_steps(store, run_id, count, *, reused=0, keyframes=()) -> list[LinkRecord]:
    """Step links with stored journal entries; those at `keyframes` have a state in their place."""
    links = []
    for index in range(count):
        blob = blobs.put(store.root, f"{run_id} {index}".encode())
        is_keyframe = index in keyframes
        link = LinkRecord(
            key=derive_key("step", {"run": run_id, "index": index}),
            kind="step",
            digest="" if is_keyframe else blob,
            state=blob if is_keyframe else "",
            latents=blobs.digest_of(f"latents {index}".encode()),
        )
        source = "reused" if index < reused else "computed"
        sigma = 1 - index / count
        where = {"stage": "step", "index": index, "sigma": sigma, "timestep": 1000 - index}
        store.record_link(run_id, link, source=source, seconds=0.25, **where)
        links.append(link)
    return links


def data(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def told(capsys, *arguments, code=0):
    """What a command wrote to stdout and stderr."""
    assert main(list(arguments)) == code
    return capsys.readouterr()


# runs


def listed(capsys, *arguments):
    return [each["run"] for each in data(capsys, "runs", *arguments)["runs"]]


def test_runs_are_found_by_all_that_is_given(capsys, store):
    circle = enqueue(store, prompt="a Red circle")
    star = ended(store, enqueue(store, prompt="a blue star", preset="mine"))
    other = enqueue(store, prompt="a blue circle", output="/videos/KEEP.mp4")
    store.tag(circle, ["keep", "red"])
    store.tag(star, ["keep"])
    store.note(star, "the hand is right")
    assert listed(capsys, "--text", "CIRCLE") == [other, circle]
    assert listed(capsys, "--text", "hand") == [star]
    assert listed(capsys, "--text", "keep.mp4") == [other]
    assert listed(capsys, "--tag", "keep") == [star, circle]
    assert listed(capsys, "--tag", "keep", "--tag", "red") == [circle]
    assert listed(capsys, "--preset", "mine") == [star]
    assert listed(capsys, "--status", "done", "--tag", "keep") == [star]
    assert listed(capsys, "--status", "done", "--text", "circle") == []
    assert listed(capsys, "--text", "a", "--limit", "1") == [other]


def test_where_there_are_more_runs_than_it_lists_it_says_so(capsys, store):
    for _ in range(3):
        enqueue(store)
    assert "newest" not in told(capsys, "runs", "--limit", "3").err
    out, err = told(capsys, "runs", "--limit", "2")
    assert len(out.splitlines()) == 3
    assert err.splitlines()[-1] == "the newest 2; --limit N shows more"


def test_nothing_that_fits_is_told_apart_from_nothing_at_all(capsys, store):
    enqueue(store)
    assert told(capsys, "runs", "--tag", "nope").out == ""
    out, err = told(capsys, "runs", "--status", "failed", "--preset", "nope")
    assert out == ""
    assert err.splitlines()[-1] == "no failed runs fit; `modiff runs` lists all"


def test_a_run_in_json_carries_its_lineage_and_its_labels(capsys, store):
    parent = enqueue(store)
    child = enqueue(store, parent=parent, parent_step=7)
    store.tag(child, ["b", "a"])
    store.note(child, "good")
    store.pin(child)
    newest, oldest = data(capsys, "runs")["runs"]
    assert (newest["parent"], newest["parent_step"]) == (parent, 7)
    assert (newest["tags"], newest["note"], newest["pinned"]) == (["a", "b"], "good", True)
    assert (oldest["parent"], oldest["parent_step"], oldest["pinned"]) == (None, None, False)


def test_a_paused_run_is_listed_as_paused(capsys, store):
    run_id = ended(store, enqueue(store), "paused")
    interrupted = ended(store, enqueue(store), "interrupted")
    assert listed(capsys, "--status", "paused") == [run_id]
    assert listed(capsys, "--status", "interrupted") == [interrupted]


def test_moments_are_ages_dates_and_times(capsys, store, monkeypatch):
    run_id = enqueue(store)
    today = datetime.now()
    yesterday, tomorrow = ((today + timedelta(days=d)).date().isoformat() for d in (-1, 1))
    for since in ("1h", "2 d", "1w", "30min", yesterday, today.date().isoformat()):
        assert listed(capsys, "--since", since) == [run_id], since
    for until in (tomorrow, today.date().isoformat()):
        assert listed(capsys, "--until", until) == [run_id], until
    for arguments in (("--since", tomorrow), ("--until", yesterday), ("--until", "1h")):
        assert listed(capsys, *arguments) == [], arguments
    in_an_hour = (datetime.now().astimezone() + timedelta(hours=1)).isoformat()
    assert listed(capsys, "--since", in_an_hour) == []
    assert listed(capsys, "--until", in_an_hour) == [run_id]


@pytest.mark.parametrize("word", ["soon", "2", "2026-13-01", "2026-02-30", "9999999d", "1e3d", ""])
def test_what_is_no_moment_is_refused(capsys, word):
    assert main(["runs", "--since", word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "'--since'" in err
    assert "2026-11-01T14:30" in err


# show


def test_show_carries_the_links_of_a_run(capsys, store):
    parent = enqueue(store)
    run_id = enqueue(store, parent=parent, parent_step=2)
    child = enqueue(store, parent=run_id, parent_step=3)
    ended(store, parent)
    links = add_steps(store, run_id, 4, reused=2)
    text = LinkRecord(derive_key("text", "a"), "text", digest=blobs.put(store.root, b"text"))
    store.record_link(run_id, text, stage="text", index=0, source="reused", seconds=0.0)
    latents = blobs.put(store.root, b"latents")
    store.set_latents(run_id, latents)
    ended(store, run_id)
    shown = data(capsys, "show", run_id)
    assert (shown["status"], shown["latents"]) == ("done", latents)
    assert (shown["parent"], shown["parent_step"], shown["children"]) == (parent, 2, [child])
    assert shown["steps"][3] == {
        "index": 3,
        "sigma": 0.25,
        "timestep": 997,
        "key": links[3].key,
        "digest": links[3].digest,
        "latents": links[3].latents,
        "source": "computed",
        "seconds": 0.25,
    }
    assert [step["source"] for step in shown["steps"]] == ["reused"] * 2 + ["computed"] * 2
    assert [(link["stage"], link["digest"]) for link in shown["links"]] == [("text", text.digest)]
    assert shown["branch_at"] == [0, 1, 2, 3, 4, "decode"]


def test_show_tells_people_of_lineage_labels_and_steps(capsys, store):
    parent = ended(store, enqueue(store))
    run_id = enqueue(store, parent=parent, parent_step=2, stop_at=4)
    add_steps(store, run_id, 4, reused=3)
    ended(store, run_id)
    store.tag(run_id, ["keep"])
    store.note(run_id, "good \x1b[31m\nhand")
    store.pin(run_id)
    head, _, _ = told(capsys, "show", run_id).out.partition("\n\n")
    fields = {line[:10].strip(): line[10:] for line in head.splitlines()}
    assert fields["run"] == f"{run_id}  ◆ pinned"
    assert fields["parent"] == f"{parent} after its step 2"
    assert fields["tags"] == "keep"
    assert fields["note"] == "good \\x1b[31m hand"
    assert fields["status"] == (
        f"done 4/20, as it was to; `modiff finish {run_id}` takes it to its end"
    )
    assert fields["steps"] == "3 reused and 1 computed of 20"
    assert fields["branch at"] == "0-4"
    assert run_id in told(capsys, "show", parent).out


def points(capsys, run_id):
    """`branch_at` as data and as words."""
    head, _, _ = told(capsys, "show", run_id).out.partition("\n\n")
    lines = [line[10:] for line in head.splitlines() if line.startswith("branch at")]
    return data(capsys, "show", run_id)["branch_at"], *lines


def test_a_run_can_be_branched_where_its_steps_are_stored(capsys, store):
    run_id = enqueue(store)
    links = add_steps(store, run_id, 20)
    assert points(capsys, run_id) == (list(range(20)), "0-19")  # after 20 there is only decoding
    blobs.blob_path(store.root, links[4].digest).unlink()
    assert points(capsys, run_id) == ([0, 1, 2, 3, 4], "0-4")


def test_a_stored_state_makes_the_steps_after_it_reachable(capsys, store):
    run_id = enqueue(store)
    links = add_steps(store, run_id, 20, keyframes=(9, 14))
    blobs.blob_path(store.root, links[4].digest).unlink()
    expected = [0, 1, 2, 3, 4, *range(10, 20)]
    assert points(capsys, run_id) == (expected, "0-4, 10-19")
    store.forget_blob(links[12].digest)
    assert points(capsys, run_id)[1] == "0-4, 10-12, 15-19"
    store.forget_blob(links[9].state)
    assert points(capsys, run_id)[1] == "0-4, 15-19"


def test_a_run_of_a_newer_version_can_be_shown(capsys, store):
    run_id = store.enqueue(b'{"format":99,"prompt":"x","new":1}', preset="p", output="/v.mp4")
    assert data(capsys, "show", run_id)["spec"]["new"] == 1


# tree


def family(store):
    """A run, two branches of it, and a branch of the first of those."""
    root = enqueue(store, prompt="a red circle")
    first = enqueue(
        store,
        prompt="a red circle",
        overrides=["guidance.scale=4", "output.path=x.mp4", "scheduler.shift=2"],
        parent=root,
        parent_step=10,
        segments=[Segment(10, encode_spec(load_preset("micro")))],
    )
    below = enqueue(
        store,
        prompt="a blue \x1b[31m star",
        overrides=["guidance.scale=4", "scheduler.shift=2"],
        parent=first,
        parent_step=15,
    )
    second = enqueue(store, prompt="a red circle", parent=root, parent_step=20)
    return root, first, below, second


def test_a_family_is_drawn_with_what_each_branch_changed(capsys, store):
    root, first, below, second = family(store)
    enqueue(store)
    expected = [
        f"{root}        queued             a red circle",
        f"├─ {first}     queued  at 10      shift 3→2, guidance 2.5→4",
        f'│  └─ {below}  queued  at 15      prompt "a blue \\u001b[31m star"',
        f"└─ {second}     queued  at decode  the same",
    ]
    for arguments in ((root,), (below[:9],), ()):
        assert told(capsys, "tree", *arguments).out.splitlines() == expected


def test_a_family_is_drawn_in_ascii_where_the_locale_is(capsys, store, monkeypatch):
    _, first, below, second = family(store)
    monkeypatch.setattr("tui.cli.commands.runs.tree.has_boxes", lambda: False)
    out = told(capsys, "tree", first).out
    assert out.isascii()
    starts = [line.split()[0:3] for line in out.splitlines()]
    assert starts[1][:2] == ["|-", first]
    assert starts[2] == ["|", "`-", below]
    assert starts[3][:2] == ["`-", second]


def test_boxes_need_a_utf8_locale(store):
    root, *_ = family(store)
    shown = {}
    for name in ("C.UTF-8", "C"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tui.cli", "tree", root],
            env={**os.environ, "LC_ALL": name, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        shown[name] = done.stdout
    assert "└─".encode() in shown["C.UTF-8"]
    assert shown["C"].isascii()


@pytest.mark.parametrize(
    ("depths", "expected"),
    [
        ([0], [""]),
        ([0, 1, 1], ["", "├─ ", "└─ "]),
        ([0, 1, 2, 2, 1], ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ "]),
        ([0, 1, 2, 3, 1], ["", "├─ ", "│  └─ ", "│     └─ ", "└─ "]),
        ([0, 1, 1, 2, 3], ["", "├─ ", "└─ ", "   └─ ", "      └─ "]),
        ([0, 1, 2, 1, 2], ["", "├─ ", "│  └─ ", "└─ ", "   └─ "]),
    ],
)
def test_what_is_drawn_before_each_run(depths, expected):
    assert _leads(depths, boxes=True) == expected


def test_the_family_of_a_run_that_was_removed(capsys, store):
    root, first, below, second = family(store)
    store.request_cancel(root)
    store.remove([root])
    top, under = told(capsys, "tree", below).out.splitlines()
    assert top.split()[:2] == [first, "queued"]
    assert f"at 10 of {root}, which was removed" in top
    assert under.split()[:2] == ["└─", below]
    assert second not in top + under


def test_the_newest_families_come_first_and_only_runs_that_were_branched(capsys, store):
    enqueue(store)
    families = [family(store) for _ in range(3)]
    enqueue(store)
    shown = data(capsys, "tree")["families"]
    assert [each[0]["run"] for each in shown] == [each[0] for each in families[::-1]]
    assert [(m["run"], m["depth"]) for m in shown[0]] == list(
        zip(families[-1], (0, 1, 2, 1), strict=True)
    )
    assert shown[0][1]["changed"] == {"guidance.scale": 4.0, "scheduler.shift": 2.0}
    assert len(data(capsys, "tree", "--limit", "2")["families"]) == 2


def test_a_branch_is_found_however_many_runs_came_after_it(capsys, store):
    root = enqueue(store)
    child = enqueue(store, parent=root, parent_step=1)
    with immediate(store.lineage, durable=False) as connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1100) "
            "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
            "SELECT printf('later%d', i), 'done', 'micro', '{}', '', 1 FROM n"
        )
    assert [[member["run"] for member in each] for each in data(capsys, "tree")["families"]] == [
        [root, child]
    ]


def test_only_what_shares_all_steps_was_branched_at_decode(capsys, store):
    root = enqueue(store, stop_at=8)
    stopped = enqueue(store, parent=root, parent_step=8, stop_at=8)
    onward = enqueue(store, parent=root, parent_step=8)
    strange = store.enqueue(
        b'{"format":99}', preset="p", output="/v.mp4", parent=root, parent_step=8
    )
    lines = told(capsys, "tree", root).out.splitlines()[1:]
    points = {line.split()[1]: line.split("  at ")[1].split()[0] for line in lines}
    assert points == {stopped: "decode", onward: "8", strange: "8"}


def test_no_family_at_all(capsys, store):
    assert "no run was branched yet" in told(capsys, "tree").err
    assert data(capsys, "tree")["families"] == []
    run_id = enqueue(store)
    assert told(capsys, "tree", run_id).out.split()[:2] == [run_id, "queued"]


# tag, note, pin


def test_tags_are_given_and_taken(capsys, store):
    run_id = enqueue(store)
    err = told(capsys, "tag", run_id[:9], "keep", "client/acme").err
    assert err == f"run {run_id} has the tags client/acme, keep\n"
    assert told(capsys, "tag", run_id, "keep", "--remove").err.endswith("client/acme\n")
    assert told(capsys, "tag", run_id, "client/acme", "--remove").err.endswith("has no tags\n")
    assert store.tags_of([run_id]) == {run_id: ()}


@pytest.mark.parametrize("word", ["two words", "", "-x", "x" * 65, "\x1b[31m", "ü"])
def test_what_is_no_tag_is_refused_in_one_line(capsys, store, word):
    run_id = enqueue(store)
    err = told(capsys, "tag", run_id, "fine", "--", word, code=2).err
    assert err.count("\n") == 1
    assert "is not a tag" in err
    assert "\x1b" not in err
    assert store.tags_of([run_id]) == {run_id: ()}


def test_a_note_is_written_and_removed(capsys, store):
    run_id = enqueue(store)
    told(capsys, "note", run_id, "the hand\nis right")
    assert store.run(run_id).note == "the hand\nis right"
    assert told(capsys, "note", run_id, "").err == f"run {run_id} has no note\n"
    assert store.run(run_id).note == ""
    assert "shorten it" in told(capsys, "note", run_id, "x" * 10_001, code=2).err


def test_what_was_given_to_a_run_is_told_to_programs(capsys, store):
    run_id = enqueue(store)
    tagged = data(capsys, "tag", run_id[:9], "keep", "client/acme")
    assert tagged == {"run": run_id, "tags": ["client/acme", "keep"]}
    assert data(capsys, "note", run_id, "a hand") == {"run": run_id, "note": "a hand"}
    assert data(capsys, "rate", run_id, "4") == {"run": run_id, "rating": 4}
    assert data(capsys, "pin", run_id) == {"run": run_id, "pinned": True}
    assert data(capsys, "pin", run_id, "--remove") == {"run": run_id, "pinned": False}


def test_a_pin_is_set_and_removed(capsys, store):
    run_id = enqueue(store)
    told(capsys, "pin", run_id)
    assert store.run(run_id).pinned
    told(capsys, "pin", "--remove", run_id)
    assert not store.run(run_id).pinned


@pytest.mark.parametrize(
    "command", ["show", "tree", "tag", "note", "pin", "rm", "pause", "resume", "finish", "replay"]
)
def test_a_run_that_is_not_there_is_bad_input(capsys, command):
    extra = {"tag": ["x"], "note": ["x"]}.get(command, [])
    err = told(capsys, command, "aaaa", *extra, code=2).err
    assert err == "modiff: no run starts with 'aaaa'; `modiff runs` lists them\n"


# rm


def test_rm_removes_runs_and_nothing_else(capsys, store, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    run_id = enqueue(store, output=str(clip))
    (link,) = add_steps(store, run_id, 1)
    ended(store, run_id)
    child = enqueue(store, parent=run_id, parent_step=3)
    other = ended(store, enqueue(store))
    out, err = told(capsys, "rm", run_id, other[:9], run_id, "--yes")
    assert out == ""
    assert err.splitlines() == [
        f"removed runs {run_id}, {other}",
        f"{clip} stays",
        "1 branch stays whole",
        "what the store keeps of it is the first to go when `modiff store gc` needs room",
    ]
    assert clip.read_bytes() == b"video"
    assert blobs.get(store.root, link.digest)
    assert link.key in store.find_links([link.key])
    assert [record.id for record in store.runs(limit=9)] == [child]


def test_what_was_removed_is_told_to_programs(capsys, store, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    run_id = enqueue(store, output=str(clip))
    add_steps(store, run_id, 1)
    ended(store, run_id)
    enqueue(store, parent=run_id, parent_step=3)
    assert main(["rm", run_id, "--json"]) == 2
    asked = json.loads(capsys.readouterr().out)
    assert asked["status"] == "failed"
    assert "add --yes" in asked["error"]
    removed = data(capsys, "rm", run_id, "--yes")
    assert removed == {"removed": [run_id], "outputs": [str(clip)], "branches": 1}


@pytest.mark.parametrize("reason", ["pinned", "queued"])
def test_rm_takes_all_or_none(capsys, store, reason):
    done = ended(store, enqueue(store))
    other = enqueue(store)
    if reason == "pinned":
        ended(store, other)
        store.pin(other)
    out, err = told(capsys, "rm", done, other, "--yes", code=1)
    assert (out, err.count("\n")) == ("", 1)
    assert f"run {other} is {reason}" in err
    assert len(store.runs(limit=9)) == 2


def test_rm_asks_nobody_where_nobody_is(capsys, store):
    run_id = ended(store, enqueue(store))
    assert "add --yes" in told(capsys, "rm", run_id, code=2).err
    assert store.run(run_id)


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("\x03", 130, 1)]
)
def test_rm_asks_on_a_terminal(store, answer, code, left):
    ended(store, enqueue(store))
    (record,) = store.runs(limit=9)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tui.cli", "rm", record.id],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # where Ctrl-C is a signal
    )
    os.close(slave)
    asked = ""
    while not asked.endswith("remove this run? [y/N]: "):
        letter = process.stderr.read(1)
        assert letter, asked
        asked += letter
    out = None
    for _ in range(240):
        # again, as a person would: a Ctrl-C in the moment between the question and the reading of it is not seen
        os.write(master, answer.encode())
        with suppress(subprocess.TimeoutExpired):
            out, _ = process.communicate(timeout=0.5)
            break
    os.close(master)
    assert (process.returncode, out) == (code, "")
    assert len(store.runs(limit=9)) == left


# Imports


def test_looking_and_labelling_import_nothing_heavy(store):
    root, *_ = family(store)
    add_steps(store, root, 3)
    commands = (("show", root), ("tree",), ("runs", "--text", "a"), ("tag", root, "x"))
    found = imported_by(*commands, first="import engine.client, store.store")
    for command, modules in found.items():
        assert not modules & NOT_IMPORTED, command


# What is told of several runs, and stars


def test_columns_are_chosen_and_settings_are_columns(capsys, store):
    run_id = enqueue(
        store, overrides=["seed=7", "guidance.scale=[6, 1]", "scheduler.sigmas=[0.9, 0.5]"]
    )
    store.rate(run_id, 4)
    out = told(capsys, "runs", "--columns", "id, rating,seed,guidance.scale,scheduler.sigmas").out
    assert out.splitlines() == [
        "RUN\tRATING\tSEED\tGUIDANCE\tSIGMAS",
        f"{run_id}\t★★★★\t7\t6×1 1×1\t[0.9, 0.5]",
    ]
    [found] = data(capsys, "runs", "--columns", "seed,guidance.scale,prompt")["runs"]
    assert found["settings"] == {"seed": 7, "guidance.scale": [6.0, 1.0]}
    err = told(capsys, "runs", "--columns", "sed", code=2).err
    assert err.count("\n") == 1
    assert "sed is no column, did you mean seed?" in err
    assert "id, status, age, time, preset" in err


def test_what_is_inside_a_list_is_a_column(capsys, store):
    given = 'extensions=[{name="teacache", options={threshold=0.3}}, {name="nag"}]'
    for overrides in ([given], []):
        enqueue(store, overrides=overrides)
    names = "extensions,extensions.name,extensions[0].options.threshold,threshold"
    titles, plain, extended = told(capsys, "runs", "--columns", names).out.splitlines()
    assert titles == "EXTENSIONS\tEXTENSIONS\tTHRESHOLD\tTHRESHOLD"
    assert plain == "none\t\t\t"
    assert extended.split("\t")[1:] == ['["teacache", "nag"]', "0.3", "0.3"]
    assert extended.startswith("teacache(threshold 0.3) nag")
    [settings, _] = [
        each["settings"] for each in data(capsys, "runs", "--columns", "extensions")["runs"]
    ][::-1]
    assert [each["name"] for each in settings["extensions"]] == ["teacache", "nag"]


def test_runs_that_differ_say_in_what(capsys, store):
    for seed in (1, 2):
        enqueue(store, overrides=[f"seed={seed}"])
    assert [line.split()[4:6] for line in told(capsys, "runs").out.splitlines()[1:]] == [
        ["seed", "2"],
        ["seed", "1"],
    ]
    assert [run["differs"] for run in data(capsys, "runs")["runs"]] == [{"seed": 2}, {"seed": 1}]
    assert "DIFFERS" not in told(capsys, "runs", "seed:1").out


def test_a_run_that_stopped_early_is_told_from_one_that_is_done(capsys, store):
    ended(store, enqueue(store, stop_at=5))
    [found] = data(capsys, "runs")["runs"]
    assert (found["status"], found["steps_done"], found["total_steps"]) == ("done", 5, 20)
    assert "\tdone 5/20\t" in told(capsys, "runs").out


def test_filters_of_the_app_find_runs_here(capsys, store):
    one, two = (enqueue(store, prompt="a red star", overrides=[f"seed={seed}"]) for seed in (1, 2))
    store.tag(one, ["sweep/abc"])
    assert listed(capsys, "red star", "seed:>1") == [two]
    assert listed(capsys, "tag:sweep/*") == listed(capsys, "--tag", "sweep/*") == [one]
    assert listed(capsys, "red", "--text", "blue") == []
    err = told(capsys, "runs", "sed:1", code=2).err
    assert err.startswith("modiff: sed is no setting of a run, did you mean seed?")
    assert err.count("\n") == 1
    assert (
        told(capsys, "runs", "seed:9").err.splitlines()[-1]
        == "no runs fit; `modiff runs` lists all"
    )


def test_stars_are_given_to_a_run_and_taken(capsys, store):
    run_id = enqueue(store)
    assert told(capsys, "rate", run_id, "4").err == f"run {run_id} has 4 stars\n"
    assert [run["rating"] for run in data(capsys, "runs", "rating:>=4")["runs"]] == [4]
    assert told(capsys, "rate", run_id, "0").err == f"run {run_id} has no stars\n"
    assert "0<=x<=5" in told(capsys, "rate", run_id, "6", code=2).err


def test_a_shell_finds_any_run_by_its_beginning(store):
    first = enqueue(store)
    for _ in range(3):
        enqueue(store)
    [found] = complete_run(None, None, first[:6])
    assert found.value == first


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, ["RUN", "STATUS", "AGE", "TIME", "PRESET", "DIFFERS", "PROMPT"]),
        (60, ["RUN", "STATUS", "AGE", "DIFFERS", "PROMPT"]),
        (40, ["RUN", "STATUS", "PROMPT"]),
    ],
)
def test_a_narrow_terminal_keeps_the_prompt(store, monkeypatch, width, titles):
    monkeypatch.setenv("NO_COLOR", "1")
    for seed in (1, 2):
        enqueue(store, prompt="a large red circle moves left", overrides=[f"seed={seed}"])
    rows = run_rows(store, store.runs(limit=9))
    lines = table(rows, (), width, rows[0].record.created_ns)
    assert lines[0].split() == titles
    assert all(len(line) <= width and "a large red" in line for line in lines[1:])


def test_what_failed_has_a_colour_on_a_terminal(store, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    ended(store, enqueue(store), "failed")
    rows = run_rows(store, store.runs(limit=9))
    assert "\x1b[31m" in table(rows, (), 80, 0)[1]
    assert "\x1b" not in table(rows, (), 0, 0)[1]
