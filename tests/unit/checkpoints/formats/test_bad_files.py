"""Files that are no weights, half of them, or made to do harm: each is refused in one line, for little memory.

The line holds the path and what to do; no code in a file ever runs. How long a refusal takes is measured by
tests/benchmark/weights/bench_checkpoints.py.
"""

from __future__ import annotations

import errno
import gc
import os
import pickle
import re
import struct
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.formats.reading import MAX_REASON, opened
from engine.checkpoints.formats.weight_file import read_weight_file
from engine.errors import CheckpointError
from tests.weights.bad_files import (
    CASES,
    Payload,
    archive_of,
    legacy_payload,
    safetensors_of,
    torch_members,
    written,
)

# CPU seconds, thirty times the slowest: only what grows with the square of a file gets there.
MAX_SECONDS = 2.0
MAX_BYTES = 64 << 20


@pytest.fixture(autouse=True, scope="module")
def own_heap() -> Iterator[None]:
    """The collector does not walk through what torch and the tests keep while a reader is measured."""
    gc.freeze()
    yield
    gc.unfreeze()


def assert_refused(path: Path, message: str) -> None:
    begun = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read_weight_file(path)
    assert time.process_time() - begun < MAX_SECONDS
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable()
    assert len(text) <= len(f"{path}: ") + MAX_REASON
    assert re.search(message, text), text
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_weight_file(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", CASES)
def test_bad_files(tmp_path: Path, case: str) -> None:
    make, message = CASES[case]
    assert_refused(make(tmp_path), message)
    assert not (tmp_path / "canary").exists()


def test_the_payload_is_alive(tmp_path: Path) -> None:
    """Else the canary of the tests above proves nothing."""
    subprocess.run(
        pickle.loads(pickle.dumps(Payload(tmp_path / "x").__reduce__()[1]))[0],
        shell=True,
        check=True,
    )
    assert (tmp_path / "x").exists()
    torch.load(legacy_payload(tmp_path), weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    content = bytes(torch.randint(0, 256, (5000,), generator=generator, dtype=torch.uint8).tolist())
    assert_refused(
        written(tmp_path, "model.safetensors", content),
        r"not a weight file|archive, expected weights",
    )


def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, path)
    path.chmod(0)
    if os.geteuid() != 0:
        assert_refused(path, "no permission to read it")
        return
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:  # root may read everything
        try:
            os.setuid(65534)
            read_weight_file(path)
        except CheckpointError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        assert (
            answer.read()
            == f"{path}: no permission to read it; change its permissions (chmod) or run as its owner"
        )
    os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV])
@pytest.mark.parametrize("call", ["stat", "open", "fstat"])
def test_a_vanished_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, path)

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(CheckpointError) as caught:
            read_weight_file(path)
    reason = f"cannot be read ({os.strerror(number)}); check that its disk is connected and whole"
    assert str(caught.value) == f"{path}: {reason}"


def test_a_disk_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "model.safetensors", b"x")
    with (
        pytest.raises(
            CheckpointError, match=r"model\.safetensors: cannot be read \(Input/output error\)"
        ),
        opened(path),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("name", ["safetensors", "pth", "gguf"])
def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It was longer when it was opened than it is when its header is read."""
    contents = {
        "safetensors": safetensors_of(b"{}" + b" " * 998)[:-500],
        "gguf": b"GGUF" + struct.pack("<IQQ", 3, 10, 0),
        "pth": archive_of(torch_members()),
    }
    path = written(tmp_path, f"model.{name}", contents[name])
    status = os.stat(path)
    longer = os.stat_result([*status[:6], status.st_size + 500, *status[7:]])
    monkeypatch.setattr(os, "fstat", lambda descriptor: longer)
    assert_refused(path, "download it again")
