"""Files of the config folder that commands write for people: TOML, one writer at a time, a reader sees the old file or
the new one. Torch-free."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

from engine.errors import EngineError
from store import locks
from store.blobs.leavings import sweep_leavings
from store.errors import StoreBusy, StoreError

MAX_BYTES = 256 * 1024
LOCK_SECONDS = 10.0


def read_table(file: Path, failed: type[EngineError], correct_it: str) -> dict[str, Any]:
    """What a file says, {} where there is none. failed: raised for one that cannot be read; correct_it: what to do."""
    if not os.path.lexists(file):
        return {}
    try:
        if not file.is_file():
            raise failed(f"{file}: not a regular file; {correct_it}")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise failed(f"{file}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise failed(f"{file}: more than {MAX_BYTES:,} bytes; {correct_it}")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise failed(f"{file}: not valid TOML ({error}); {correct_it}") from None


@contextlib.contextmanager
def only_writer(file: Path, failed: type[EngineError]) -> Iterator[None]:
    """From the reading of a file to its writing, so that no other process changes it in between.

    Where no lock can be made, the writing will say why. failed: raised where another holds it for too long.
    """
    with contextlib.ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.acquire(file.with_name(f".{file.name}.lock"), timeout_seconds=LOCK_SECONDS)
            held.enter_context(lock)
        except StoreBusy as error:
            raise failed(f"{file}: is being written by another process ({error})") from None
        except (OSError, StoreError):
            pass
        yield


def write_table(file: Path, table: dict[str, Any], note: str, failed: type[EngineError]) -> None:
    """The whole file in one step. note: a comment that it begins with. failed: raised where it cannot be written."""
    try:
        data = f"# {note}\n{tomli_w.dumps(table)}".encode()
    except UnicodeEncodeError:
        raise failed(
            f"{file}: cannot hold a name that is not valid Unicode (UTF-8); rename that file or folder"
        ) from None
    temporary = ""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep_leavings(file.parent, re.compile(rf"\.{re.escape(file.stem)}-\w{{8}}\.tmp"))
        handle, temporary = tempfile.mkstemp(
            dir=file.parent, prefix=f".{file.stem}-", suffix=".tmp"
        )
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        if temporary:
            os.unlink(temporary)
        raise failed(f"{file}: cannot be written ({error.strerror or error})") from None
