"""From a video back to its run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from engine.output import media
from engine.output.mark import mark_of
from engine.process.version import installed_version
from engine.tasks.wan import VIDEO
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from store.blobs import blobs
from store.keys import derive_key
from store.lineage.records import LinkRecord
from store.store import open_store
from tests.delivered import streams
from tui.cli.main import main

LATENTS = f"sha256:{'a1' * 32}"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


def mp4(path: Path, comment: str, *, value: int = 0) -> bytes:
    media.write_video(
        path, torch.full((2, 16, 16, 3), value, dtype=torch.uint8), fps=8, comment=comment
    )
    return path.read_bytes()


def run_of(store, path: Path, video: bytes, *, latents: str = LATENTS, seed: int = 0) -> str:
    """A run that is done, with its video in the store and at its path."""
    spec = encode_spec(load_preset("micro", values={"seed": seed}))
    with store.register_engine("enginepast", pid=os.getpid(), version=installed_version()):
        run_id = store.enqueue(spec, preset="micro", output=str(path))
        store.lease("enginepast")
        facts = json.dumps({"version": VIDEO.version, "params": {"format": "h264"}})
        digest = blobs.put(store.root, video)
        link = LinkRecord(derive_key("video", run_id), "video", digest=digest, facts=facts)
        where = {"stage": "video", "index": 0, "source": "computed", "seconds": 0.1}
        store.record_link(run_id, link, **where)
        store.set_latents(run_id, latents)
        store.finish(run_id, "done")
        store.unregister_engine("enginepast")
    return run_id


def shown(capsys, given: str) -> tuple[str, str]:
    """The run that `show` tells of, and what it says beside."""
    assert main(["show", given, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out)["run"], err


def refusal(capsys, given: str) -> str:
    assert main(["show", given]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "\x1b" not in err
    return err


def test_a_video_is_known_by_its_bytes(capsys, store, tmp_path):
    video = mp4(tmp_path / "a.mp4", "no mark")
    run_id = run_of(store, tmp_path / "a.mp4", video)
    assert shown(capsys, "a.mp4") == (run_id, "")
    (tmp_path / "moved").mkdir()
    os.rename("a.mp4", "moved/b.mov")
    for given in ("./moved/b.mov", str(tmp_path / "moved" / "b.mov"), "moved/b.mov"):
        assert shown(capsys, given) == (run_id, "")


def test_a_video_that_was_moved_is_told_where_it_is(capsys, store, tmp_path):
    where = tmp_path / "a.mp4"
    run_of(store, where, mp4(where, "no mark"))
    assert main(["show", "a.mp4"]) == 0
    assert not capsys.readouterr().out.startswith("file")
    (tmp_path / "moved").mkdir()
    os.rename("a.mp4", "moved/b.mp4")
    assert main(["show", "moved/b.mp4"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0].split() == ["file", str(tmp_path / "moved" / "b.mp4")]
    assert f"{where} (no longer there)" in told


def test_a_video_that_was_changed_is_known_by_its_mark(capsys, store, tmp_path):
    mp4(tmp_path / "a.mp4", f"modiff {LATENTS}")
    run_id = run_of(store, tmp_path / "elsewhere.mp4", b"other bytes")
    assert shown(capsys, "a.mp4") == (run_id, "")


def test_of_several_runs_that_made_it_the_one_that_wrote_it_there_is_meant(capsys, store, tmp_path):
    video = mp4(tmp_path / "b.mp4", f"modiff {LATENTS}")
    shutil.copy("b.mp4", "c.mp4")
    first = run_of(store, tmp_path / "a.mp4", video)
    second = run_of(store, tmp_path / "b.mp4", video)
    run_id, told = shown(capsys, "b.mp4")
    assert (run_id, first in told) == (second, True)
    run_id, told = shown(capsys, "c.mp4")
    assert (run_id, second in told) == (first, True)


def test_a_video_whose_run_is_elsewhere_says_what_it_holds(capsys, store, tmp_path):
    mp4(tmp_path / "a.mp4", f"modiff {LATENTS}")
    told = refusal(capsys, "a.mp4")
    assert LATENTS in told
    assert "`modiff store import`" in told


@pytest.mark.parametrize(
    ("comment", "words"),
    [
        ("", "it has no mark of modiff\n"),
        ("a cat; by = another\\program", "its comment is 'a cat; by = another\\\\program'"),
        ("\x1b]0;title\x07 " + "x" * 4000, "…"),
        (f"modiff {LATENTS} and more", "it has no mark of modiff"),
    ],
)
def test_a_video_of_another_program_is_told_with_its_comment(
    capsys, store, tmp_path, comment, words
):
    run_of(store, tmp_path / "mine.mp4", b"mine")
    mp4(tmp_path / "a.mp4", comment)
    told = refusal(capsys, "a.mp4")
    assert words in told
    assert len(told) < 1000


@pytest.mark.parametrize("data", [b"", b"no video", b"\0\0\0\x20ftypmp42" + b"\xff" * 100])
def test_what_is_no_video_is_refused_in_words(capsys, store, tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    assert "it has no mark of modiff" in refusal(capsys, "a.mp4")


@pytest.mark.parametrize("given", ["gone.mp4", ".", "/dev/zero", "/", "~nobody-here/a.mp4"])
def test_what_is_no_file_is_refused_in_words(capsys, store, given):
    assert f"{given}: no such file" in refusal(capsys, given)


def test_wherever_a_run_is_named_its_video_can_be(capsys, store, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.runs.following.ensure_engine", lambda store: None)
    monkeypatch.setattr("engine.process.launch.ensure_engine", lambda store: None)
    video = mp4(tmp_path / "a.mp4", "")
    run_id = run_of(store, tmp_path / "a.mp4", video)
    for command in (
        ("replay", "a.mp4", "--output", "again.mp4"),
        ("note", "a.mp4", "mine"),
        ("tag", "a.mp4", "keep"),
        ("tree", "a.mp4"),
        ("branch", "a.mp4", "--at", "3", "--set", "fps=9", "--detach"),
        ("pin", "a.mp4"),
        ("store", "export", "a.mp4", "--steps", "none", "--output", "a.modiff"),
    ):
        assert main([*command]) == 0, capsys.readouterr().err
    assert streams(tmp_path / "again.mp4") == streams(tmp_path / "a.mp4")
    assert (store.run(run_id).note, store.run(run_id).pinned) == ("mine", True)
    assert [child.id for child in store.children(run_id)] != []


@pytest.mark.parametrize("command", ["cancel", "pause", "resume", "finish"])
def test_what_stops_or_goes_on_may_be_named_by_its_video(capsys, store, tmp_path, command):
    run_id = run_of(store, tmp_path / "a.mp4", mp4(tmp_path / "a.mp4", ""))
    assert main([command, "a.mp4"]) == 1  # it is at its end
    assert f"run {run_id} " in capsys.readouterr().err


def test_latents_are_known_too(capsys, store, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"latents")
    run_id = run_of(store, tmp_path / "a.mp4", b"video", latents=blobs.digest_of(b"latents"))
    assert shown(capsys, "a.safetensors") == (run_id, "")


# A run of another store


@pytest.fixture
def elsewhere(store, tmp_path):
    """The mark of a run that this store does not know, in a video."""
    with open_store(tmp_path / "other") as other:
        run_id = run_of(other, tmp_path / "b.mp4", b"video", seed=7)
        record = other.run(run_id)
        text = mark_of(record, decode_spec(record.spec_json), record.latents)
    mp4(tmp_path / "a.mp4", text)
    return run_id


def test_a_run_is_known_by_its_id(capsys, store, tmp_path):
    mp4(tmp_path / "x.mp4", "")
    run_id = run_of(store, tmp_path / "x.mp4", b"video")
    other = run_of(store, tmp_path / "y.mp4", b"video")
    record = store.run(other)
    mp4(tmp_path / "a.mp4", mark_of(record, decode_spec(record.spec_json), LATENTS), value=3)
    assert shown(capsys, "a.mp4") == (other, "")
    assert run_id != other


def test_a_run_that_is_not_here_is_told_by_what_travels(capsys, elsewhere):
    assert main(["show", "a.mp4"]) == 0
    out = capsys.readouterr().out
    assert f"run       {elsewhere}, which is not in this store" in out
    assert "seed = 7" in out
    assert main(["show", "a.mp4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["is_here"], told["latents"]) == (elsewhere, False, LATENTS)
    assert told["spec"]["seed"] == 7


@pytest.mark.parametrize("command", [("branch", "--at", "3"), ("replay",), ("pin",), ("tree",)])
def test_steps_that_are_not_here_are_told_with_what_can_be_done(capsys, elsewhere, command):
    name, *more = command
    assert main([name, "a.mp4", *more]) == 2
    told = capsys.readouterr().err
    assert f"run {elsewhere} made it, which is not in this store, so its steps are not here" in told
    assert "`modiff run " in told
    assert "--from-file" in told


def test_its_settings_become_a_preset(capsys, elsewhere):
    assert main(["presets", "save", "again", "--from-file", "a.mp4", "--set", "fps=9"]) == 0
    spec = load_preset("again")
    assert (spec.seed, spec.fps, spec.output.path) == (7, 9, "")
    assert main(["presets", "save", "more", "--from-file", "a.mp4", "--from", "micro"]) == 2
    assert "name one of --from PRESET and --from-file FILE" in capsys.readouterr().err


def test_its_settings_are_run(capsys, store, elsewhere, monkeypatch):
    monkeypatch.setattr("engine.runs.following.ensure_engine", lambda store: None)
    monkeypatch.setattr("engine.process.launch.ensure_engine", lambda store: None)
    assert main(["run", "a.mp4", "--detach", "--set", "scheduler.steps=4"]) == 0
    (run,) = store.queued()
    spec = decode_spec(run.spec_json)
    assert (spec.seed, spec.scheduler.steps, run.preset) == (7, 4, "micro")
    assert main(["plan", "a.mp4", "--json"]) == 0


def test_settings_that_are_not_understood_are_refused_by_name(capsys, store, tmp_path):
    settings = {"modiff": 1, "run": "abc", "latents": "", "preset": "", "settings": {"prmpt": "x"}}
    mp4(tmp_path / "a.mp4", json.dumps(settings, separators=(",", ":")))
    for command in (
        ("show", "a.mp4"),
        ("run", "a.mp4"),
        ("presets", "save", "x", "--from-file", "a.mp4"),
    ):
        assert main([*command]) == 2
        err = capsys.readouterr().err
        assert "prmpt" in err
        assert f"{tmp_path / 'a.mp4'}" in err


def test_a_damaged_mark_is_one_line(capsys, store, tmp_path):
    mp4(tmp_path / "a.mp4", '{"modiff":1,' + "[" * 5000)
    told = refusal(capsys, "a.mp4")
    assert "its mark of modiff is damaged" in told
    assert len(told.splitlines()) == 1
