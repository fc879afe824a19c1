"""What a killed command leaves in people's folders is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid

import pytest
import torch

from engine.checkpoints import places
from engine.checkpoints.convert.writers import whole_or_nothing
from engine.output import media
from presets.library.loading import load_preset
from presets.library.paths import user_preset_dir
from presets.library.saving import save_preset
from store.blobs import leavings
from store.blobs.files import written_whole
from store.blobs.leavings import sweep_leavings, sweep_temporary
from store.bundle.exporting import export_bundle
from tests.stores import bundles
from tui.app.preferences import Preferences, preferences_path, save_preferences


def left(folder, name, *, hours=2.0, inside=""):
    """A draft that was last written to so long ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if inside:
        path.mkdir()
        (path / inside).write_bytes(b"half of it")
    else:
        path.write_bytes(b"half of it")
    ns = time.time_ns() - int(hours * 3600e9)
    for each in (*path.rglob("*"), path):
        os.utime(each, ns=(ns, ns))
    return path


def name(end=""):
    return f".modiff-{uuid.uuid4().hex}{end}"


def test_only_old_drafts_of_this_user_with_our_names_go(tmp_path, monkeypatch):
    gone = [
        left(tmp_path, name()),
        left(tmp_path, name(".mp4")),
        left(tmp_path, name(".safetensors"), inside="model-00001-of-00002.safetensors"),
    ]
    kept = [
        left(tmp_path, name(".mp4"), hours=0.5),
        left(tmp_path, ".modiff-notes"),
        left(tmp_path, f"{name()[1:]}.mp4"),
        left(tmp_path, "video.mp4"),
    ]
    fresh = left(tmp_path, name(), inside="a")
    (fresh / "a").touch()
    os.utime(fresh, (0, 0))
    assert sweep_leavings(tmp_path) == len(gone)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in [*kept, fresh])
    theirs = left(tmp_path, name())
    monkeypatch.setattr(leavings.os, "geteuid", lambda: os.getuid() + 1)
    assert sweep_leavings(tmp_path) == 0
    assert theirs.exists()


CONVERTING = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from engine.checkpoints.convert.writers import whole_or_nothing

def begin(drafts, folder):
    file = drafts.enter_context(whole_or_nothing(folder / "model.safetensors"))
    file.touch()
    shards = drafts.enter_context(whole_or_nothing(folder / "model"))
    shards.mkdir()
    (shards / "model.safetensors").touch()
    for each in [*folder.rglob(".modiff-*/**/*"), *folder.glob(".modiff-*")]:
        os.utime(each, (0, 0))

with ExitStack() as killed:
    begin(killed, Path(sys.argv[1]))
    with ExitStack() as done:
        begin(done, Path(sys.argv[2]))
        print("written", flush=True)
        sys.stdin.readline()
    print("done", flush=True)
    sys.stdin.readline()
"""


def test_a_draft_is_kept_while_its_process_lives_however_old_it_is(tmp_path):
    """A file's and a folder's, each with what says that it is in use."""
    killed, done = tmp_path / "killed", tmp_path / "done"
    for folder in (killed, done):
        folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", CONVERTING, str(killed), str(done)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "written\n"
        there = {path.name for path in killed.iterdir()}
        for folder in (killed, done):
            assert sweep_leavings(folder) == 0
            assert len(list(folder.iterdir())) == 4
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "done\n"
        other.kill()
        other.wait()
    assert {path.name for path in done.iterdir()} == {"model", "model.safetensors"}
    assert {path.name for path in killed.iterdir()} == there
    assert sweep_leavings(killed) == 4
    assert list(killed.iterdir()) == []


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_a_killed_engine_left_of_a_video_goes_a_day_later(temporary, monkeypatch):
    def encoding(end, *, hours=25.0, inside="video.mp4", mode=0o700):
        path = left(temporary, f"modiff-{end}", hours=hours, inside=inside)
        path.chmod(mode)
        return path

    gone = [encoding("abcd_123"), encoding("abcd_124", inside="errors.txt")]
    kept = [
        encoding("abcd_125", hours=23.0),  # of an engine that is suspended
        encoding("abcd_126", inside="notes"),
        encoding("abcd_127", mode=0o755),
        encoding("prompt-abcd_12"),
        left(temporary, "modiff-abcd_128", hours=25.0),  # a file
    ]
    nested = encoding("abcd_129")
    (nested / "folder.txt").mkdir()
    os.utime(nested / "folder.txt", (0, 0))
    os.utime(nested, (0, 0))
    link = temporary / "modiff-abcd_130"
    link.symlink_to(temporary, target_is_directory=True)
    os.utime(link, (0, 0), follow_symlinks=False)
    monkeypatch.setattr(leavings.os, "geteuid", lambda: os.getuid() + 1)
    assert sweep_temporary() == 0
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    assert sweep_temporary() == len(gone)
    assert not any(path.exists() for path in gone)
    assert all(os.path.lexists(path) for path in [*kept, nested, link])


def test_where_a_video_is_encoded_is_known_for_it_and_left_alone(temporary, monkeypatch):
    """Also by an engine whose clock is years ahead."""
    monkeypatch.setattr(leavings.time, "time", lambda: time.time_ns() / 1e9 + 1e8)

    def frames():
        yield torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
        [folder] = temporary.iterdir()
        assert leavings._is_of_encoding(folder)
        assert sweep_temporary() == 0
        raise KeyError

    with pytest.raises(KeyError):
        media.encode_video(frames(), fps=1, size=(16, 16), comment="")


def test_a_folder_that_cannot_be_read_is_left_alone(tmp_path):
    assert sweep_leavings(tmp_path / "nowhere") == 0
    (tmp_path / "file").touch()
    assert sweep_leavings(tmp_path / "file") == 0


def write_output(folder, _store):
    with written_whole(folder / "video.mp4") as draft:
        draft.write_bytes(b"all of it")


def write_bundle(folder, store):
    export_bundle(store.lineage, [bundles.make_run(store)], folder / "run.modiff")


def write_weights(folder, _store):
    with whole_or_nothing(folder / "model.safetensors") as draft:
        draft.write_bytes(b"all of it")


@pytest.mark.parametrize(
    ("write", "drafts"),
    [
        (write_output, [name(".mp4")]),
        (write_bundle, [name()]),
        (write_weights, [name(".safetensors")]),
    ],
)
def test_who_writes_there_next_removes_them(tmp_path, store, write, drafts):
    folder = tmp_path / "folder"
    old = [left(folder, draft) for draft in drafts]
    kept = [left(folder, name(), hours=0), left(folder, ".4242.model.safetensors")]
    write(folder, store)
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert len(list(folder.iterdir())) == 3


def test_the_drafts_of_settings_go_with_the_next_change(tmp_path, monkeypatch):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "config"))
    config = tmp_path / "config"
    old = [
        left(config, ".app-abcd_123.tmp"),
        left(config, ".models-abcd_123.tmp"),
        left(user_preset_dir(), ".mine-abcd_123.tmp"),
    ]
    kept = [
        left(user_preset_dir(), ".mine-abcd_124.tmp", hours=0),
        left(user_preset_dir(), ".notes-20240101.tmp"),
    ]
    (tmp_path / "models").mkdir()
    save_preferences(Preferences())
    places.add(tmp_path / "models")
    save_preset("mine", load_preset("micro"))
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in kept)
    assert preferences_path().exists()
