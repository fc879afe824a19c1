"""Runs that go on from what is done: replay, branch, pause, resume, sweep, finish, plan.

The engine is a thread of this process that records links as the real one does; what a step costs
and which of them are stored is then known exactly.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine import client
from engine.errors import EngineError
from engine.process.version import installed_version
from engine.tasks import wan
from engine.tasks.route import route_of_run
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from presets.settings.overrides import parse_overrides
from store.blobs import blobs
from store.errors import StoreFull
from store.keys import derive_key
from store.lineage.events import RunFinished, RunResumed, StageFinished, StageStarted, StepFinished
from store.lineage.records import LinkRecord
from store.store import open_store
from tests.imported import imported_by
from tui.cli.following import follow as following
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[5]
VIDEO = b"of no format that could be given a comment"

# Held while a run is leased: a run of the past must not be taken by the engine of the present.
LEASING = threading.Lock()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


class Engine(threading.Thread):
    """Leases runs and does what `script` says, by default everything at once and well."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.script = self.complete
        self.ended = threading.Event()
        self.executed: list[str] = []

    def run(self) -> None:
        with (
            open_store() as store,
            store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()),
        ):
            while not self.ended.is_set():
                with LEASING:
                    record = store.lease("engineaaaa")
                if record is None:
                    time.sleep(0.005)
                    continue
                self.executed.append(record.id)
                self.script(store, record)
            store.unregister_engine("engineaaaa")

    def complete(self, store, record):
        """Every step is a link whose key is made of the specs that hold up to it."""
        route = route_of_run(record)
        total = route.num_steps if record.stop_at is None else record.stop_at
        key = ""
        store.append(record.id, [StageStarted("denoise")])
        for index in range(total):
            spec = next(part.spec for part in route.parts if index < part.stop)
            key = derive_key("step", [key, spec.seed, spec.guidance.scale, spec.prompt])
            source = "reused" if store.find_links([key]) else "computed"
            link = LinkRecord(key, "step", digest=blobs.put(store.root, key.encode()))
            where = {"stage": "step", "index": index, "sigma": 1.0, "timestep": 1000}
            store.record_link(record.id, link, source=source, seconds=0.25, **where)
        store.append(record.id, [StageFinished("denoise", 0.5, False)])
        keep_video(store, record.id)
        Path(record.output).write_bytes(VIDEO)
        store.finish(record.id, "done", output=record.output)

    def fail(self, store, record):
        store.finish(record.id, "failed", error="out of \x1b[31m memory")

    def wait_until_stopped(self, store, record):
        step = 0
        while not (store.cancel_requested(record.id) or store.pause_requested(record.id)):
            step += 1
            store.append(record.id, [StepFinished(step, 1000, 1.0, 1000.0, 0.0)])
            time.sleep(0.005)
        status = "cancelled" if store.cancel_requested(record.id) else "paused"
        store.finish(record.id, status)


@pytest.fixture
def engine(store):
    thread = Engine()
    thread.start()
    while not store.engines():
        time.sleep(0.005)
    yield thread
    thread.ended.set()
    thread.join()


@pytest.fixture
def no_engine(monkeypatch):
    """Nothing is started; the stores whose engine was asked for are listed."""
    started: list[Path] = []
    for place in ("engine.process.launch.ensure_engine", "engine.runs.following.ensure_engine"):
        monkeypatch.setattr(place, lambda store: started.append(store.root))
    return started


def keep_video(store, run_id, data=VIDEO) -> str:
    digest = blobs.put(store.root, data)
    facts = json.dumps({"version": wan.VIDEO.version, "params": {"format": "h264"}})
    link = LinkRecord(derive_key("video", run_id), "video", digest=digest, facts=facts)
    store.record_link(run_id, link, stage="video", index=0, source="computed", seconds=0.1)
    return digest


def done(store, *, output="{run}.mp4", status="done", kinds=("video",), **values) -> str:
    """A run of the past, with its video in the store and not at its path."""
    spec = load_preset("micro", values={"output.kinds": kinds, **values})
    path = str(Path.cwd() / output)
    with LEASING, store.register_engine("enginepast", pid=os.getpid(), version=installed_version()):
        run_id = store.enqueue(encode_spec(spec), preset="micro", output=path)
        while store.lease("enginepast").id != run_id:
            pass
        if status == "done":
            keep_video(store, run_id)
        store.finish(run_id, status)
        store.unregister_engine("enginepast")
    return run_id


def told(capsys, *arguments, code=0):
    """What a command wrote to stdout and stderr."""
    assert main(list(arguments)) == code, capsys.readouterr()
    return capsys.readouterr()


def refused(capsys, *arguments, code=2) -> str:
    """The one line with which a command refused, having written nothing."""
    out, err = told(capsys, *arguments, code=code)
    assert out == ""
    lines = err.splitlines()
    if not lines[0].startswith("Usage: "):
        assert len(lines) == 1, err
    return lines[-1]


# replay


def test_replay_copies_the_stored_video_to_its_own_path(capsys, store):
    run_id = done(store)
    out, err = told(capsys, "replay", run_id[:9])
    path = Path.cwd() / f"{run_id}.mp4"
    assert out == f"{path}\n"
    assert path.read_bytes() == VIDEO
    assert err.startswith(f"run {run_id} replayed from the store in ")
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert [child.name for child in Path.cwd().iterdir()] == [path.name]  # no draft is left


def current_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_replay_never_replaces_what_is_at_its_own_path(capsys, store):
    run_id = done(store, output="clip.mp4")
    Path("clip.mp4").write_text("edited")
    beside = Path.cwd() / "clip-replay.mp4"
    assert told(capsys, "replay", run_id).out == f"{beside}\n"
    assert "clip-replay.mp4 is already there" in refused(capsys, "replay", run_id)
    beside.write_text("older")
    told(capsys, "replay", run_id, "--overwrite")
    assert (Path("clip.mp4").read_text(), beside.read_bytes()) == ("edited", VIDEO)
    told(capsys, "replay", run_id, "--output", "clip.mp4", "--overwrite")
    assert Path("clip.mp4").read_bytes() == VIDEO


def test_replay_where_it_is_told_to(capsys, store, tmp_path):
    run_id = done(store, output="gone/clip.mp4")
    assert "there is no folder" in refused(capsys, "replay", run_id)
    told_json = json.loads(told(capsys, "replay", run_id, "--output", "a.mp4", "--json", "-q").out)
    assert (told_json["run"], told_json["status"]) == (run_id, "done")
    assert told_json["output"] == str(tmp_path / "a.mp4")
    assert Path("a.mp4").read_bytes() == VIDEO
    for output, words in (
        ("a.avi", ".mp4"),
        (".", "is a folder"),
        ("no/a.mp4", "no folder"),
        ("/proc/a.mp4", "folder /proc"),
    ):
        assert words in refused(capsys, "replay", run_id, "--output", output)


def test_a_run_of_an_engine_that_is_gone_holds_no_path(capsys, store, tmp_path):
    run_id = done(store)
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        spec = encode_spec(load_preset("micro"))
        lost = store.enqueue(spec, preset="micro", output=str(tmp_path / "a.mp4"))
        assert store.lease("engineaaaa").id == lost
        assert f"run {lost} (running) will write" in refused(
            capsys, "replay", run_id, "--output", "a.mp4"
        )
    told(capsys, "replay", run_id, "--output", "a.mp4")
    assert Path("a.mp4").read_bytes() == VIDEO


def test_replay_writes_latents_as_the_run_did(capsys, store):
    run_id = done(store, kinds=("video", "latents"))
    store.set_latents(run_id, blobs.put(store.root, b"latents"))
    told(capsys, "replay", run_id, "--output", "a.mp4")
    assert Path("a.mp4").read_bytes() == VIDEO
    assert Path("a.safetensors").read_bytes() == b"latents"
    Path("a.mp4").unlink()
    assert "a.safetensors is already there" in refused(
        capsys, "replay", run_id, "--output", "a.mp4"
    )


@pytest.mark.parametrize("status", ["queued", "paused", "failed", "cancelled"])
def test_replay_of_what_was_not_made(capsys, store, status):
    if status == "queued":
        run_id = store.enqueue(b"{}", preset="micro", output="/v.mp4")
    else:
        run_id = done(store, status=status)
    line = refused(capsys, "replay", run_id, code=1)
    assert f"run {run_id} is {status} and has no output yet" in line
    assert (f"`modiff resume {run_id}`" in line) == (status != "queued")


@pytest.mark.parametrize("damage", ["damaged", "gone", "frames"])
def test_replay_of_what_is_not_stored_any_more_makes_it_again(
    capsys, store, engine, damage, tmp_path
):
    run_id = done(store, kinds=("video", "frames") if damage == "frames" else ("video",))
    digest = next(link.digest for link in store.links_of(run_id) if link.stage == "video")
    path = blobs.blob_path(store.root, digest)
    if damage == "damaged":
        path.chmod(0o600)
        path.write_bytes(b"rotten")
    elif damage == "gone":
        path.unlink()
    out, err = told(capsys, "replay", run_id, "--output", "again.mp4")
    assert out == f"{tmp_path / 'again.mp4'}\n"
    assert "not all that" in err
    (again, _) = store.runs(limit=2)
    assert (again.parent, again.parent_step, again.stop_at) == (run_id, 20, None)
    assert again.output == str(tmp_path / "again.mp4")
    assert decode_spec(again.spec_json).seed == decode_spec(store.run(run_id).spec_json).seed
    if damage != "frames":
        assert all(link.digest != digest for link in store.find_links([]).values())
        assert digest in err


def test_a_replay_in_another_format_decodes_again(capsys, store, engine, tmp_path):
    run_id = done(store)
    out, err = told(capsys, "replay", run_id, "--output", "again.mkv")
    assert out == f"{tmp_path / 'again.mkv'}\n"
    assert "is h264, not ffv1; it is decoded again" in err
    (again, _) = store.runs(limit=2)
    output = decode_spec(again.spec_json).output
    assert (again.parent, output.path, output.format) == (run_id, again.output, "auto")


def test_a_replay_that_cannot_be_written_is_one_line_and_leaves_nothing(capsys, store, monkeypatch):
    run_id = done(store)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("store.blobs.files.os.fsync", full)
    line = refused(capsys, "replay", run_id, "--output", "a.mp4", code=1)
    assert line.endswith("a.mp4: No space left on device")
    assert list(Path.cwd().iterdir()) == []


def test_a_file_that_appears_while_replaying_is_kept(capsys, store, monkeypatch):
    run_id = done(store)
    link = os.link

    def late(source, target):
        Path(target).write_text("mine")
        link(source, target)

    monkeypatch.setattr("store.blobs.files.os.link", late)
    assert "is kept" in refused(capsys, "replay", run_id, "--output", "a.mp4", code=1)
    assert Path("a.mp4").read_text() == "mine"


def test_a_file_system_without_links_is_good_enough(capsys, store, monkeypatch):
    run_id = done(store)

    def unsupported(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("store.blobs.files.os.link", unsupported)
    told(capsys, "replay", run_id, "--output", "a.mp4")
    assert [child.name for child in Path.cwd().iterdir()] == ["a.mp4"]


# branch


@pytest.fixture
def branched(monkeypatch, no_engine):
    """The arguments with which `engine.client.branch` was called; it queues a copy of the run."""
    calls = []

    def branch(store, run_id, **options):
        calls.append((run_id, options))
        record = store.run(run_id)
        return store.enqueue(record.spec_json, preset=record.preset, output="/b.mp4")

    monkeypatch.setattr("engine.client.branch", branch)
    return calls


@pytest.mark.parametrize(
    "text", ["a red circle", '"quoted"', "7", "true", "[1, 2]", "a\nseed=3", "ü\\ \x7f\x1b", ""]
)
def test_a_branch_gets_its_texts_exactly(capsys, store, branched, text):
    run_id = done(store)
    arguments = ("--at", "3", "--prompt", text, "--negative-prompt", text, "--detach")
    out, _ = told(capsys, "branch", run_id, *arguments)
    ((called, options),) = branched
    assert (called, options["at"], options["output"]) == (run_id, 3, "")
    assert parse_overrides(options["overrides"]) == {"prompt": text, "negative_prompt": text}
    assert out == f"{store.runs(limit=1)[0].id}\n"


def test_a_branch_gets_its_settings_and_its_output(capsys, store, branched):
    run_id = done(store)
    settings = ("--set", "guidance.scale=4", "--set", "scheduler.name=euler", "--overwrite")
    told(capsys, "branch", run_id, "--at", "0", *settings, "--output", "b.mp4", "--detach")
    ((_, options),) = branched
    assert (options["at"], options["output"]) == (0, "b.mp4")
    assert parse_overrides(options["overrides"]) == {
        "guidance": {"scale": 4},
        "scheduler": {"name": "euler"},
        "output": {"overwrite": True},
    }


def test_a_branch_of_the_decoding_alone(capsys, store, branched):
    run_id = done(store)
    settings = ("--set", "fps=4", "--output", "b.mp4", "--detach")
    told(capsys, "branch", run_id, "--at", "decode", *settings)
    ((_, options),) = branched
    assert (options["at"], options["output"]) == ("decode", "b.mp4")
    assert parse_overrides(options["overrides"]) == {"fps": 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing option '--at'"),
        (("--at", "x"), "expected a number from 0 on, or decode"),
        (("--at", "-1"), "expected a number from 0 on, or decode"),
        (("--at", "²"), "expected a number from 0 on, or decode"),
        (("--at", "20"), "expected 0 to 19"),
        (("--at", "5", "--seed", "3"), "seed: the shared steps were made with 0"),
        (("--at", "5", "--set", "width=80"), "width: the shared steps"),
        (("--at", "decode", "--prompt", "a star"), "at decode only"),
        (("--at", "5", "--set", "guidance=4"), "guidance.scale"),
        (("--at", "5", "--output", "taken.mp4"), "already there"),
        (("--at", "5", "--output", "a.avi"), "ends in .mp4"),
        (("--at", "5", "--output", "no/a.mp4"), "no folder"),
    ],
)
def test_a_branch_that_cannot_be_is_refused_before_anything_is_queued(
    capsys, store, arguments, words
):
    Path("taken.mp4").write_text("mine")
    run_id = done(store)
    assert words in refused(capsys, "branch", run_id, *arguments)
    assert len(store.runs(limit=9)) == 1


@pytest.mark.parametrize(
    ("status", "way"),
    [("done", "replay"), ("failed", "resume"), ("queued", "show")],
)
@pytest.mark.parametrize("at", ["0", "12", "decode"])
def test_a_branch_that_changes_nothing_is_not_queued(capsys, store, no_engine, at, status, way):
    if status == "queued":
        run_id = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
    else:
        run_id = done(store, status=status)
    same = ("--set", "seed=0", "--set", "guidance.scale=2.5")
    err = refused(capsys, "branch", run_id, "--at", at, *same)
    assert f"nothing is changed, so this would be run {run_id} again" in err
    assert f"`modiff {way} {run_id}`" in err
    assert [run.id for run in store.runs(limit=9)] == [run_id]


def test_a_branch_is_followed_to_its_end(capsys, store, engine):
    run_id = done(store, output="mine.mp4", **{"output.path": "mine.mp4"})
    engine_run = store.enqueue(
        store.run(run_id).spec_json, preset="micro", output=str(Path.cwd() / "first.mp4")
    )
    while not store.run(engine_run).is_finished:
        time.sleep(0.005)
    out, err = told(capsys, "branch", engine_run, "--at", "12", "--set", "guidance.scale=4")
    (branch, *_) = store.runs(limit=1)
    assert out == f"{Path.cwd() / ('modiff-' + branch.id)}.mp4\n"  # never its parent's path
    assert err.splitlines()[-1].endswith("; 12 of its 20 steps were stored")
    assert (branch.parent, branch.parent_step) == (engine_run, 12)
    sources = [link.source for link in store.links_of(branch.id) if link.stage == "step"]
    assert sources == ["reused"] * 12 + ["computed"] * 8


def test_a_branch_that_fails_is_told_in_words_and_in_json(capsys, store, engine):
    run_id = done(store)
    engine.script = engine.fail
    out, err = told(capsys, "branch", run_id, "--at", "3", "--set", "fps=9", "--json", code=1)
    result = json.loads(out)
    assert (result["status"], result["output"]) == ("failed", None)
    assert result["error"] == "out of \x1b[31m memory"
    assert f"run {result['run']} failed: out of \\x1b[31m memory" in err
    assert f"`modiff resume {result['run']}` goes on" in err
    _, err = told(capsys, "branch", run_id, "--at", "3", "--set", "fps=9", "--quiet", code=1)
    assert err == "modiff: out of \\x1b[31m memory\n"


def test_an_engine_that_does_not_start_leaves_no_branch_queued(capsys, store, monkeypatch):
    run_id = done(store)

    def broken(store):
        raise StoreFull("no space left")

    for place in ("engine.process.launch.ensure_engine", "engine.runs.following.ensure_engine"):
        monkeypatch.setattr(place, broken)
    for options in ([], ["--detach"]):
        _, err = told(capsys, "branch", run_id, "--at", "3", "--set", "fps=9", *options, code=1)
        assert err.splitlines()[-1] == "modiff: no space left"
        assert store.runs(limit=1)[0].status == "cancelled"


# pause and resume


def test_pause(capsys, store, engine):
    engine.script = engine.wait_until_stopped
    running, queued = (
        store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
        for _ in range(2)
    )
    while store.run(running).status != "running":
        time.sleep(0.005)
    assert told(capsys, "pause", queued).err.startswith(f"run {queued} is paused; ")
    assert json.loads(told(capsys, "pause", running, "--json").out)["status"] == "running"
    while not store.run(running).is_finished:
        time.sleep(0.005)
    assert store.run(running).status == "paused"
    assert "is already paused" not in told(capsys, "pause", queued).err
    finished = done(store)
    assert (
        "is already done; there is nothing to pause" in told(capsys, "pause", finished, code=1).err
    )


def test_a_viewer_is_told_of_a_pause_and_how_to_go_on(capsys, store, engine, monkeypatch):
    run_id = done(store)
    engine.script = engine.wait_until_stopped

    def pause_soon():
        with open_store() as own:
            while not (running := own.runs(limit=1, status="running")):
                time.sleep(0.005)
            own.request_pause(running[0].id)

    thread = threading.Thread(target=pause_soon)
    thread.start()
    out, err = told(capsys, "branch", run_id, "--at", "3", "--set", "fps=9", "--json", code=1)
    thread.join()
    result = json.loads(out)
    assert (result["status"], result["output"]) == ("paused", None)
    assert err.splitlines()[-1].endswith(f"; `modiff resume {result['run']}` goes on")


@pytest.mark.parametrize("status", ["paused", "interrupted", "cancelled", "failed"])
def test_resume_goes_on_and_follows_the_new_attempt_to_its_end(capsys, store, engine, status):
    def half(store, record):
        store.append(record.id, [StageStarted("denoise"), StageFinished("load", 99.0, False)])
        store.finish(record.id, status, error="" if status == "paused" else "why")

    engine.script = half
    run_id = store.enqueue(
        encode_spec(load_preset("micro")), preset="micro", output=str(Path.cwd() / "v.mp4")
    )
    while not store.run(run_id).is_finished:
        time.sleep(0.005)

    def slow(store, record):
        time.sleep(0.5)  # the end of the first attempt has been read long before this one's
        engine.complete(store, record)

    engine.script = slow
    out, err = told(capsys, "resume", run_id, "--json")
    result = json.loads(out)
    assert (result["run"], result["status"]) == (run_id, "done")
    assert [stage["name"] for stage in result["stages"]] == ["denoise"]  # of this attempt alone
    assert f"run {run_id} done in " in err
    assert "99" not in err
    kinds = [type(event) for _, event in store.events(run_id)]
    assert kinds.count(RunFinished) == 2
    assert kinds.count(RunResumed) == 1


def test_resume_of_what_is_not_at_rest_or_done(capsys, store, no_engine):
    whole = done(store)
    assert "is done" in refused(capsys, "resume", whole, code=1)
    assert json.loads(told(capsys, "resume", whole, "--json", code=1).out)["run"] == whole
    queued = store.enqueue(b"{}", preset="micro", output="/v.mp4")
    assert "is queued" in refused(capsys, "resume", queued, code=1)


def test_resume_and_leave(capsys, store, no_engine):
    run_id = done(store, status="paused")
    assert told(capsys, "resume", run_id, "--detach").out == f"{run_id}\n"
    assert store.run(run_id).status == "queued"
    assert no_engine == [store.root]


# sweep


def test_a_sweep_queues_what_shares_steps_together_and_reuses_them(capsys, store, engine):
    over = ("--over", "guidance.scale=2,4,6", "--over", "seed=1..4", "--from", "10")
    out, err = told(capsys, "sweep", "micro", *over, "--json")
    result = json.loads(out)
    assert result["tag"] == f"sweep/{result['sweep']}"
    assert f"12 runs; modiff runs --tag {result['tag']}" in err
    runs = result["runs"]
    assert engine.executed == [each["run"] for each in runs]
    assert [each["values"]["seed"] for each in runs] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    # the first of each seed computes the ten steps that all three share
    assert [each["reused_steps"] for each in runs] == [0, 10, 10] * 4
    computed = [
        link.key
        for each in runs
        for link in store.links_of(each["run"])
        if link.stage == "step" and link.source == "computed"
    ]
    assert len(computed) == len(set(computed)) == 4 * (10 + 3 * 10)
    assert {record.id for record in store.search(limit=99, tags=[result["tag"]])} == set(
        engine.executed
    )


def test_a_sweep_ends_with_a_table(capsys, store, engine):
    prompts = 'prompt="a red circle","a \\u001b[31m star"'
    out, err = told(
        capsys, "sweep", "micro", "--over", prompts, "--over", "seed=8,9", "--output", "{index}.mp4"
    )
    header, *lines = out.splitlines()
    assert header.split() == ["RUN", "PROMPT", "SEED", "STATUS", "TIME", "REUSED", "OUTPUT"]
    assert [line.split()[0] for line in lines] == engine.executed
    assert lines[0].endswith(str(Path.cwd() / "1.mp4"))
    assert "\x1b" not in out + err
    assert "a \\x1b[31m star" in out
    assert (Path.cwd() / "4.mp4").read_bytes() == VIDEO
    assert f"run {engine.executed[1]} (2 of 4): prompt=" in err


def test_a_sweep_names_the_sheet_that_would_show_it(capsys, store, engine):
    out, err = told(capsys, "sweep", "micro", "--over", "seed=8,9", "--json")
    tag = json.loads(out)["tag"]
    assert f"modiff sheet --tag {tag} shows them side by side" in err
    assert "sheet" not in json.loads(out)


def test_a_sweep_draws_its_sheet_at_the_end(capsys, store, engine):
    arguments = ("sweep", "micro", "--over", "seed=8,9", "--sheet", "grid.png", "--json")
    result = json.loads(told(capsys, *arguments).out)
    assert result["sheet"] == os.path.abspath("grid.png")
    assert Path("grid.png").read_bytes().startswith(b"\x89PNG")
    result = json.loads(
        told(capsys, "sweep", "micro", "--over", "seed=5,6", "--json", "--sheet").out
    )
    assert result["sheet"] == os.path.abspath(f"modiff-sheet-{result['sweep']}.png")


def test_the_page_on_chains_hunts_for_a_seed(capsys, store, engine):
    page = (ROOT / "docs" / "chain.md").read_text(encoding="utf-8")
    lines = page.partition("<!-- sweep -->\n```sh\n")[2].partition("```")[0].splitlines()
    assert [shlex.split(line)[1] for line in lines] == ["sweep", "sheet", "finish"]
    told(capsys, *shlex.split(lines[0])[1:])
    runs = store.runs(limit=9)
    (tag,) = store.tags_of([runs[0].id])[runs[0].id]
    told(capsys, *shlex.split(lines[1].replace("sweep/ID", tag))[1:])
    assert Path("grid.png").is_file()
    assert Path("grid.webp").is_file()
    assert {store.run(run.id).stop_at for run in runs} == {5}
    told(capsys, "finish", runs[0].id, runs[7].id)
    assert [run.stop_at for run in store.runs(limit=9)] == [None, *[5] * 6, None]


def test_a_sheet_that_cannot_be_is_said_and_the_runs_are_told_of(
    capsys, store, engine, monkeypatch
):
    def fail(*_given, **_named):
        raise EngineError("cannot write grid.png: No space left on device")

    monkeypatch.setattr("tui.cli.commands.runs.sheet.make_sheet", fail)
    arguments = ("sweep", "micro", "--over", "seed=8,9", "--sheet", "grid.png", "--json")
    out, err = told(capsys, *arguments)
    assert "no sheet was drawn: cannot write grid.png" in err
    assert json.loads(out)["sheet"] is None
    assert [run["status"] for run in json.loads(out)["runs"]] == ["done", "done"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sheet", "grid.gif"), "ends in .png"),
        (("--sheet", "gone/grid.png"), "there is no folder"),
        (("--sheet", "grid.png", "--detach"), "nobody is there to draw a sheet"),
    ],
)
def test_a_wrong_sheet_is_refused_before_anything_is_queued(
    capsys, store, no_engine, arguments, words
):
    assert words in refused(capsys, "sweep", "micro", "--over", "seed=1,2", *arguments)
    assert store.runs(limit=9) == []


def test_a_sweep_that_stops_early_is_finished_by_choice(capsys, store, engine):
    swept = json.loads(
        told(capsys, "sweep", "micro", "--over", "seed=1..3", "--stop-at", "5", "--json").out
    )
    assert [each["steps_done"] for each in swept["runs"]] == [5, 5, 5]
    chosen = [each["run"] for each in swept["runs"]][1:]
    out, _ = told(capsys, "finish", *chosen, chosen[0][:9], "--json")
    finished = json.loads(out)["runs"]
    assert [each["run"] for each in finished] == chosen
    assert [(each["steps_done"], each["reused_steps"]) for each in finished] == [(20, 5), (20, 5)]
    assert store.run(swept["runs"][0]["run"]).stop_at == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "micro"), r"run \w{10} is done in \d:\d\d"),
        (("sweep", "micro", "--over", "seed=1,2"), "2 of 2 runs are done"),
    ],
    ids=["one", "several"],
)
def test_who_looks_elsewhere_is_called_at_the_end(
    capsys, store, engine, monkeypatch, arguments, line
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("VTE_VERSION", raising=False)
    out, err = told(capsys, *arguments, "--quiet", "--notify")
    assert re.fullmatch(rf"\a\x1b]9;{line}\a", err)
    assert "\a" not in out
    assert "\a" not in told(capsys, *arguments, "--quiet").err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)  # a file is not called
    assert "\a" not in told(capsys, *arguments, "--quiet", "--notify").err


def test_finish_refuses_all_where_one_has_nothing_to_finish(capsys, store, no_engine):
    early = store.enqueue(b"{}", preset="micro", output="/v.mp4", stop_at=5)
    whole = done(store)  # ends what is queued before it, too
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        store.finish(early, "done")
    line = refused(capsys, "finish", early, whole, code=1)
    assert f"run {whole} is done to its last step" in line
    assert store.run(early).status == "done"


@pytest.mark.parametrize(
    ("stop_at", "words"),
    [
        (None, "was not to stop early and is cancelled; `modiff resume {run}` goes on with it"),
        (5, "is not done up to its step 5, but cancelled; `modiff resume {run}` goes on with it"),
    ],
)
def test_finish_tells_how_a_run_goes_on_that_did_not_end(capsys, store, no_engine, stop_at, words):
    run_id = store.enqueue(b"{}", preset="micro", output="/v.mp4", stop_at=stop_at)
    store.request_cancel(run_id)
    line = refused(capsys, "finish", run_id, code=1)
    assert line == f"modiff: run {run_id} {words.format(run=run_id)}"


def test_a_member_that_fails_does_not_stop_the_others(capsys, store, engine):
    complete = engine.complete

    def script(store, record):
        (engine.fail if decode_spec(record.spec_json).seed == 2 else complete)(store, record)

    engine.script = script
    out, err = told(capsys, "sweep", "micro", "--over", "seed=1..3", "--json", code=1)
    runs = json.loads(out)["runs"]
    assert [each["status"] for each in runs] == ["done", "failed", "done"]
    assert runs[1]["error"] == "out of \x1b[31m memory"
    assert f"modiff: run {runs[1]['run']} failed: out of \\x1b[31m memory" in err


def test_a_sweep_is_left_with_its_ids(capsys, store, no_engine):
    out, _ = told(capsys, "sweep", "micro", "--over", "seed=1..3", "--detach")
    assert out.split() == [record.id for record in store.queued()]
    assert no_engine == [store.root]
    detached = json.loads(
        told(capsys, "sweep", "micro", "--over", "seed=1..2", "--detach", "--json").out
    )
    assert [each["status"] for each in detached["runs"]] == ["queued", "queued"]


def test_ctrl_c_cancels_what_is_left_of_a_sweep(capsys, store, engine):
    engine.script = engine.wait_until_stopped

    def interrupt_soon():
        with open_store() as own:
            while len(own.runs(limit=9)) < 5:
                time.sleep(0.005)
            time.sleep(0.3)  # so that it is followed and no longer being queued
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_soon)
    thread.start()
    out, _ = told(capsys, "sweep", "micro", "--over", "seed=1..5", "--json", code=130)
    thread.join()
    told_runs = json.loads(out)["runs"]
    assert [each["status"] for each in told_runs] == ["cancelled"] * 5
    assert engine.executed == [told_runs[0]["run"]]


def test_ctrl_c_waits_for_a_run_that_an_engine_took_up_meanwhile(capsys, store, engine):
    """Ctrl-C that comes while the second runs and the end of the first is not yet seen."""
    number_of = {}

    def script(own, record):
        number_of[record.id] = len(number_of)
        if len(number_of) == 1:
            own.finish(record.id, "done")
            return
        while not own.cancel_requested(record.id):
            time.sleep(0.005)
        time.sleep(0.5)
        own.finish(record.id, "cancelled")

    engine.script = script
    watch = following.watch_run

    def interrupted(store, run_id, signals, **options):
        while len(number_of) < 2:
            time.sleep(0.005)
        signals.interrupts = max(1, signals.interrupts)
        return watch(store, run_id, signals, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tui.cli.following.follow.watch_run", interrupted)
        out, _ = told(capsys, "sweep", "micro", "--over", "seed=1..4", "--json", code=130)
    statuses = [each["status"] for each in json.loads(out)["runs"]]
    assert statuses == ["done", "cancelled", "cancelled", "cancelled"]
    assert len(engine.executed) == 2


def test_a_sweep_is_queued_whole_or_not_at_all(capsys, store, monkeypatch, no_engine):
    submit = client.submit

    def third_time_unlucky(store, spec, **options):
        if spec.seed == 3:
            raise StoreFull("no space left")
        return submit(store, spec, **options)

    monkeypatch.setattr("engine.client.submit", third_time_unlucky)
    _, err = told(capsys, "sweep", "micro", "--over", "seed=1..4", "-q", code=1)
    assert err == "modiff: no space left\n"
    assert [record.status for record in store.runs(limit=9)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing option '--over'"),
        (("--over", "seed=1..2000"), "add --yes"),
        (("--over", "seed=1..40", "--over", "guidance.scale=1..40"), "1600 runs"),
        (("--over", "seed=1,x"), "seed: expected an integer"),
        (("--over", "seed=1,2", "--seed", "3"), "seed: is both set and varied"),
        (("--over", "prompt=a,b", "--set", "prompt=c"), "prompt: is both set and varied"),
        (("--over", "seed=1,2", "--output", "a.mp4"), "several runs"),
        (("--over", "seed=1,2", "--output", "{seed}.avi"), "ends in .mp4"),
        (("--over", "seed=1,2", "--output", "no/{seed}.mp4"), "no folder"),
        (("--over", "seed=1,2", "--output", "taken{seed}.mp4"), "taken2.mp4 is already there"),
        (("--over", "seed=1,2", "--from", "5"), "can change between steps"),
        (("--over", "width=64,63"), "multiple of 16"),
        (("--over", "seed=1,2", "--stop-at", "21"), "20 steps, got 21"),
        (("--over", "seed=1,2", "--stop-at", "0"), "'--stop-at'"),
    ],
)
def test_a_sweep_with_a_fault_queues_nothing(capsys, store, no_engine, arguments, words):
    Path("taken2.mp4").write_text("mine")
    assert words in refused(capsys, "sweep", "micro", *arguments)
    assert store.runs(limit=1) == []


def test_more_than_a_thousand_runs_are_queued_when_told_so(capsys, store, monkeypatch, no_engine):
    monkeypatch.setattr("tui.cli.commands.runs.sweep.MAX_UNASKED", 3)
    words = "4 runs (seed: 4 values, 1, 3, 5, 7); add --yes"
    assert words in refused(capsys, "sweep", "micro", "--over", "seed=1..8..2")
    out, _ = told(capsys, "sweep", "micro", "--over", "seed=1..4", "--yes", "--detach", "-q")
    assert len(out.split()) == 4


# plan


def plan(capsys, *arguments):
    return json.loads(told(capsys, "plan", "micro", *arguments, "--json").out)


def test_a_plan_of_what_was_never_done(capsys, store):
    made = plan(capsys)
    assert (made["total_steps"], made["stored_steps"], made["seconds"]) == (20, 0, None)
    assert made["needs"] == ["text_encoder", "denoiser", "vae"]
    assert [(row["name"], row["state"]) for row in made["stages"]] == [
        (name, "compute") for name in ("load", "text_encode", "denoise", "decode")
    ]
    latent_bytes = made["bytes"] // 21  # of 20 steps and the final latents
    assert made["bytes"] == latent_bytes * 21
    assert plan(capsys, "--stop-at", "5")["total_steps"] == 5
    assert plan(capsys, "--set", "keep.every=0")["bytes"] == latent_bytes
    assert plan(capsys, "--set", "keep.every=10")["bytes"] == latent_bytes * (2 * 3 + 1)
    out, err = told(capsys, "plan", "micro")
    assert [line.split()[0] for line in out.splitlines()][1:] == [
        "load",
        "text_encode",
        "denoise",
        "decode",
    ]
    assert "1-20" in out
    assert "not all times are known" in err
    assert store.runs(limit=1) == []


def test_the_times_of_a_plan_are_those_of_like_runs_here(capsys, store):
    def past(**values):
        run_id = done(store, **values)
        names = {"load": 3.0, "text_encode": 1.0, "decode": 2.0}
        store.append(run_id, [StageFinished(name, s, False) for name, s in names.items()])
        for index in range(4):
            link = LinkRecord(derive_key("step", [run_id, index]), "step")
            where = {"stage": "step", "index": index, "sigma": 1.0, "timestep": 1}
            seconds = 0.5 if not values else 50.0
            store.record_link(run_id, link, source="computed", seconds=seconds, **where)

    past()
    past(width=128)  # says nothing of a smaller picture
    made = plan(capsys, "--seed", "5")
    seconds = {row["name"]: row["seconds"] for row in made["stages"]}
    assert seconds == {"load": 3.0, "text_encode": 1.0, "denoise": 10.0, "decode": 2.0}
    assert made["seconds"] == 16.0
    assert plan(capsys, "--set", "guidance.scale=1")["seconds"] is None
    out, err = told(capsys, "plan", "micro")
    assert err == ""
    assert "10.0 s" in out


def test_a_plan_splits_the_steps_where_the_stored_ones_end(capsys, store, monkeypatch):
    real = client.plan

    def half(store, spec, **options):
        made = real(store, spec, **options)
        return replace(made, states={**made.states, **dict.fromkeys(made.chain[:8], "derive")})

    monkeypatch.setattr("engine.client.plan", half)
    made = plan(capsys)
    steps = [(row["first"], row["last"], row["state"]) for row in made["stages"]][2:4]
    assert steps == [(1, 8, "stored"), (9, 20, "compute")]
    assert made["stored_steps"] == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nope",), "no preset is named"),
        (("micro", "--seed", "-2"), "seed: "),
        (("micro", "--stop-at", "0"), "'--stop-at'"),
        (("micro", "--set", "components.vae.checkpoint=no.safetensors"), "no.safetensors"),
    ],
)
def test_a_plan_of_what_cannot_be(capsys, store, arguments, words):
    out, err = told(capsys, "plan", *arguments, code=2)
    assert out == ""
    assert words in err


# Imports


def test_no_command_here_imports_torch(store, no_engine):
    run_id = done(store)
    waiting = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
    first = (
        "import engine.process.launch, engine.runs.following\n"
        "engine.process.launch.ensure_engine = engine.runs.following.ensure_engine = lambda store: None"
    )
    found = imported_by(
        ("replay", run_id),
        ("branch", run_id, "--at", "3", "--set", "fps=9", "--detach"),
        ("branch", run_id, "--at", "decode", "--set", "fps=9", "--detach"),
        ("pause", waiting),
        ("resume", waiting, "--detach"),
        ("sweep", "micro", "--over", "seed=1,2", "--detach"),
        ("plan", "micro"),
        first=first,
    )
    for command, modules in found.items():
        assert not modules & {"torch", "numpy", "transformers", "textual", "PIL"}, command


# prompts that are too long

LONG = "a small red circle moves up over a black background " * 60
CUT = "the prompt has 601 tokens, the text encoder reads 512; its last 89 words are cut off: small red"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "micro", "--prompt", LONG),
        ("plan", "micro", "--prompt", LONG),
        ("plan", "micro", "--set", f"prompt={LONG}"),
        ("sweep", "micro", "--over", "seed=1..3", "--prompt", LONG),
        ("sweep", "micro", "--over", f"prompt=a,{LONG}"),
        ("branch", "RUN", "--at", "2", "--prompt", LONG),
    ],
)
def test_a_prompt_is_never_cut_without_a_word(capsys, store, engine, arguments):
    run_id = done(store)
    told_words = [run_id if word == "RUN" else word for word in arguments]
    _, err = told(capsys, *told_words)
    assert err.count(f"warning: {CUT}") == 1


def test_a_plan_in_json_holds_the_warnings(capsys, store):
    (warning,) = plan(capsys, "--prompt", LONG)["warnings"]
    assert warning.startswith(CUT)
    assert plan(capsys)["warnings"] == []


def test_a_negative_prompt_is_spoken_of_only_where_it_is_read(capsys, store):
    guided = ("--negative-prompt", LONG, "--set", "guidance.scale=3")
    (warning,) = plan(capsys, *guided)["warnings"]
    assert warning.startswith("the negative prompt has 601 tokens")
    assert plan(capsys, *guided, "--set", "guidance.scale=1")["warnings"] == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_path_is_printed_as_it_is_but_harmless_on_a_terminal(
    capsys, store, engine, tmp_path, monkeypatch, is_terminal
):
    folder = tmp_path / "a\x1b]0;title\x07b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run_id = done(store)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    for arguments in (("replay", run_id, "--output", "a.mp4"), ("run", "micro", "--seed", "9")):
        out, err = told(capsys, *arguments)
        assert ("\x1b" in out) != is_terminal
        assert (r"a\x1b]0;title\x07b" in out) == is_terminal
        assert "\x1b]0" not in err
        if not is_terminal:
            assert Path(out.removesuffix("\n")).is_file()
