"""Files that people asked for: whole or not there, as public as any other, and nothing else is left."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from store.blobs import files
from store.blobs.files import written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("replaces", [True, False])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_permissions_follow_the_umask(tmp_path, umask, replaces):
    """In a process of its own: the umask is of the whole process."""
    code = (
        "import os, sys; from pathlib import Path; from store.blobs.files import written_whole\n"
        "os.umask(int(sys.argv[2])); changed = []\n"
        "os.umask = changed.append\n"
        "with written_whole(Path(sys.argv[1]), replaces=sys.argv[3] == 'True') as draft:\n"
        "    assert draft.parent == Path(sys.argv[1]).parent\n"
        "    draft.write_bytes(b'all of it')\n"
        "assert not changed\n"
    )
    path = tmp_path / "video.mp4"
    command = [sys.executable, "-c", code, str(path), str(umask), str(replaces)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert path.read_bytes() == b"all of it"
    assert names(tmp_path) == ["video.mp4"]


def test_a_file_takes_the_place_of_the_one_before_only_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    synced = []
    monkeypatch.setattr(files, "sync_file", lambda draft: synced.append(draft.read_bytes()))
    with written_whole(path) as draft:
        draft.write_bytes(b"after")
        assert draft.suffix == ".png"
        assert path.read_bytes() == b"before"
    assert synced == [b"after"]
    assert path.read_bytes() == b"after"


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_leaves_what_was_there(tmp_path, error, is_there):
    path = tmp_path / "a.png"
    if is_there:
        path.write_bytes(b"before")

    def write():
        with written_whole(path) as draft:
            draft.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == (["a.png"] if is_there else [])
    assert not is_there or path.read_bytes() == b"before"


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("appears", ["never", "before", "meanwhile"])
def test_a_name_that_is_taken_is_kept(tmp_path, monkeypatch, has_links, appears):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(files.os, "link", refuse)
    path = tmp_path / "a.png"

    def write():
        with written_whole(path, replaces=False) as draft:
            draft.write_bytes(b"mine")
            if appears == "meanwhile":
                path.write_bytes(b"theirs")

    if appears == "before":
        path.write_bytes(b"theirs")
    if appears == "never":
        write()
        assert path.read_bytes() == b"mine"
    else:
        with pytest.raises(FileExistsError):
            write()
        assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.png"]


def test_a_folder_that_is_not_there_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "no" / "a.png"):
        pass


@pytest.mark.parametrize("replaces", [True, False])
def test_the_name_of_a_file_is_made_durable_after_it_was_given(tmp_path, monkeypatch, replaces):
    path = tmp_path / "a.png"
    synced = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append((folder, names(folder))))
    with written_whole(path, replaces=replaces) as draft:
        draft.write_bytes(b"mine")
    assert [(folder, "a.png" in there) for folder, there in synced] == [(tmp_path, True)]


def test_a_folder_that_cannot_be_synced_has_the_file_all_the_same(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files, "sync_folder", refuse)
    with written_whole(tmp_path / "a.png") as draft:
        draft.write_bytes(b"mine")
    assert names(tmp_path) == ["a.png"]
