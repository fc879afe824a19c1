"""What tells a file from another one, the same whether it is open or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.checkpoints.formats.reading import facts_at, opened
from engine.errors import CheckpointError


def test_a_path_and_its_open_file_have_the_same_facts(tmp_path: Path) -> None:
    file, link = tmp_path / "w.bin", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    with opened(link) as (_, facts):
        assert facts == facts_at(file) == facts_at(link)
    status = file.stat()
    assert (facts.inode, facts.size) == (status.st_ino, 5)
    assert (facts.mtime_ns, facts.ctime_ns) == (status.st_mtime_ns, status.st_ctime_ns)


def test_what_is_no_file_has_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "a folder, expected a file"),
        (tmp_path / "pipe", "a pipe"),
        (tmp_path / "gone", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=words):
            facts_at(path)
