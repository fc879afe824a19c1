"""A header is read once, and again as soon as anything that it came from is another."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints import opened, source
from engine.checkpoints.library import look
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.checkpoints.opened import layout_at
from engine.errors import CheckpointError
from tests.weights import model_files

INDEX = "w.safetensors.index.json"


def settle() -> None:
    """Longer than a change may take to show in a file's times."""
    time.sleep(0.05)


def write(path: Path, value: float = 0.0, name: str = "t") -> Path:
    """Of one size whatever the value, and of one time."""
    save_file({name: torch.full((4,), value)}, path)
    os.utime(path, ns=(10**18, 10**18))
    return path


def shard(number: int, total: int = 2) -> str:
    return f"w-{number:05}-of-{total:05}.safetensors"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers were read, of a process that remembers nothing yet."""
    names: list[str] = []
    reader = source.read_weight_file

    def counted(path: Path):
        names.append(path.name)
        return reader(path)

    monkeypatch.setattr(source, "read_weight_file", counted)
    monkeypatch.setattr(opened, "_remembered", {})
    return names


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    for number in (1, 2):
        write(tmp_path / shard(number), name=f"t{number}")
    return tmp_path


def write_index(folder: Path) -> None:
    places = {f"t{number}": shard(number) for number in (1, 2)}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def test_twice_asked_once_read(read: list[str]) -> None:
    path = locate("denoiser", BUILTIN_MICRO)
    first, again = layout_at(path), layout_at(path)
    assert read == ["dit.safetensors"]
    assert first[0] is again[0]
    assert first[1] is again[1]
    assert first[1].component == "denoiser"
    assert first[0] == source.open_source(path)


def test_the_library_asks_it_too(read: list[str], tmp_path: Path) -> None:
    model_files.write_safetensors(tmp_path / "vae.safetensors", model_files.vae())
    settle()
    for _ in range(3):
        assert look(tmp_path / "vae.safetensors").recognition is not None
        assert locate("vae", str(tmp_path)) == tmp_path / "vae.safetensors"
    assert read == ["vae.safetensors"]


def rewrite(path: Path) -> None:
    other = write(path.with_name("other"), 1.0)
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(10**18, 10**18))
    other.unlink()


def replace(path: Path) -> None:
    write(path.with_name("other"), 1.0).rename(path)


def relink(path: Path) -> None:
    target = write(path.with_name("target"), 1.0)
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize(
    "change", [rewrite, replace, relink, lambda path: os.utime(path, (1, 1)), lambda p: p.chmod(0o600)]
)  # fmt: skip
def test_a_file_of_the_same_size_and_time_is_read_again_where_it_is_another(
    read: list[str], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "w.safetensors")
    settle()
    before = layout_at(path)
    change(path)
    settle()
    after = layout_at(path)
    assert len(read) == 2
    facts = [each[0].tensors["t"].facts for each in (before, after)]
    assert facts[0] != facts[1]
    assert layout_at(path)[0] is after[0]


def test_what_changed_a_moment_ago_is_not_remembered(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change within one tick of the clock would not show."""
    monkeypatch.setattr(opened, "TICK_NS", 60 * 10**9)
    path = write(tmp_path / "w.safetensors")
    layout_at(path)
    layout_at(path)
    assert len(read) == 2


def test_what_changed_while_it_was_read_is_not_remembered(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the clock of its disk is behind ours."""
    monkeypatch.setattr(opened, "TICK_NS", -60 * 10**9)
    path = write(tmp_path / "w.safetensors")
    settle()

    def open_while_it_changes(path: Path) -> source.Source:
        found = source.open_source(path)
        rewrite(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(opened, "open_source", open_while_it_changes)
        layout_at(path)
    layout_at(path)
    layout_at(path)
    assert len(read) == 2


@pytest.mark.parametrize("asked", ["", INDEX, shard(1), shard(2)])
def test_all_shards_count(read: list[str], sharded: Path, asked: str) -> None:
    write_index(sharded)
    settle()
    path = sharded / asked if asked else sharded
    for _ in range(2):
        assert sorted(layout_at(path)[0].tensors) == ["t1", "t2"]
    assert read == [shard(1), shard(2)]
    for number in (1, 2):
        (sharded / shard(number)).chmod(0o600)
        settle()
        layout_at(path)
        layout_at(path)
        assert read == [shard(1), shard(2)] * (number + 1)


def test_the_index_counts_where_it_is_and_where_it_is_not(read: list[str], sharded: Path) -> None:
    settle()
    path = sharded / shard(2)
    assert layout_at(path)[0].path.name == shard(1)
    write_index(sharded)
    settle()
    assert layout_at(path)[0].path.name == INDEX
    assert layout_at(path)[0].path.name == INDEX
    assert len(read) == 4
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"t3": shard(1)}}))
    with pytest.raises(CheckpointError, match="not where it says"):
        layout_at(path)
    (sharded / INDEX).unlink()
    assert layout_at(path)[0].path.name == shard(1)


def test_a_config_that_appears_beside_it_counts(read: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors")
    settle()
    assert layout_at(path)[0].config_file is None
    config = tmp_path / "config.json"
    config.write_text("{}")
    assert layout_at(path)[0].config_file == config
    config.unlink()
    assert layout_at(path)[0].config_file is None


def test_a_folder_that_gets_a_second_checkpoint_is_refused(read: list[str], tmp_path: Path) -> None:
    write(tmp_path / "w.safetensors")
    settle()
    assert layout_at(tmp_path)[0].path.name == "w.safetensors"
    write(tmp_path / "v.safetensors")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="holds 2 checkpoints"):
            layout_at(tmp_path)


def test_what_is_gone_is_gone(read: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors")
    settle()
    layout_at(path)
    path.unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no such file"):
            layout_at(path)
    write(path)
    layout_at(path)
    assert len(read) == 4


def test_a_relative_path_counts_from_where_one_is(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "w.safetensors", name=name)
    settle()
    for name in ("a", "b", "a"):
        monkeypatch.chdir(tmp_path / name)
        assert list(layout_at(Path("w.safetensors"))[0].tensors) == [name]


def test_no_more_is_remembered_than_fits(
    read: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for longest ago goes first; what is too large by itself is never kept."""
    monkeypatch.setattr(opened, "MAX_TENSORS", 2)
    a, b, c = (write(tmp_path / f"{name}.safetensors") for name in "abc")
    large = tmp_path / "large.safetensors"
    save_file({name: torch.zeros(1) for name in "abc"}, large)
    settle()
    for path in (a, b, a, c, a, b):
        layout_at(path)
    assert read == [path.name for path in (a, b, c, b)]
    layout_at(large)
    layout_at(large)
    assert read[-2:] == [large.name] * 2


def test_threads_may_ask_at_once(read: list[str], tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.safetensors") for number in range(8)]
    settle()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for path in paths * 20:
                assert layout_at(path)[0].path == path
        except BaseException as error:  # noqa: BLE001 - told by the test
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    count = len(read)
    for path in paths:
        layout_at(path)
    assert len(read) == count
