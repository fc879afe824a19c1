"""Opening files that nobody vouches for, and refusing them in one line. Torch-free."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from engine.checkpoints.formats.table import MAX_NAME_BYTES, MAX_TENSORS, Facts, TensorInfo
from engine.errors import CheckpointError

MAX_REASON = 300
# Names that Windows and Unix do not share: binary there, never waiting for a pipe here.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def opened(path: Path, what: str = "a weight file") -> Iterator[tuple[BufferedReader, Facts]]:
    """A regular file for reading, and what tells it from another one; `what`: was expected there.

    Raises CheckpointError where there is none, where it is not ours to read, and where its disk fails, also
    while the block runs. Pipes and devices are refused before they are opened, which may wait for ever.
    """
    with _refusing(path):
        _check_kind(path, os.stat(path).st_mode, what)
        # what was a file a moment ago may be something else by now: hence O_NONBLOCK and the second check
        with open(os.open(path, _OPEN_FLAGS), "rb") as file:
            status = os.fstat(file.fileno())
            _check_kind(path, status.st_mode, what)
            yield file, facts_of(status)


def bytes_of(info: TensorInfo) -> bytes:
    """What a tensor that is no numbers holds, such as a text. Raises CheckpointError where it cannot be read, or its
    file has changed since its directory was read."""
    with opened(info.file) as (file, facts):
        if info.facts not in (None, facts):
            raise refusal(info.file, "changed while it was being read; try again")
        file.seek(info.start)
        return file.read(info.stop - info.start)


def facts_of(status: os.stat_result) -> Facts:
    return Facts(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def facts_at(path: Path) -> Facts:
    """What tells the regular file at `path`, links followed, from another one, without opening it. Raises
    CheckpointError as `opened` does."""
    with _refusing(path):
        status = os.stat(path)
        _check_kind(path, status.st_mode, "a file")
        return facts_of(status)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turns what the system says about a path into CheckpointError."""
    try:
        yield
    except OSError as error:
        raise refusal(path, _in_words(path, error)) from None
    except UnicodeEncodeError:
        raise refusal(path, "not a path of this system; check its spelling") from None


def refusal(path: Path, reason: str) -> CheckpointError:
    """The error about a file, in one printable line whatever the path and the reason hold."""
    line = _printable(reason[: 2 * MAX_REASON])
    if len(line) > MAX_REASON:
        line = f"{line[: MAX_REASON - 3]}..."
    return CheckpointError(f"{_printable(str(path))}: {line}")


def shortened(name: str) -> str:
    """A name from a file, as long as fits into an error."""
    return name if len(name) <= 80 else f"{name[:77]}..."


def truncated(path: Path, size: int, expected: int) -> CheckpointError:
    return refusal(path, f"truncated, it has {size:,} of {expected:,} bytes; download it again")


def check_name(name: str) -> None:
    """Raises ValueError where a tensor's name is empty, longer than 1024 bytes, or cannot be printed."""
    if not name or not name.isprintable():
        raise ValueError(f"a tensor has the name {shortened(name)!r}")
    if len(name) > MAX_NAME_BYTES or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"a tensor has a name of more than {MAX_NAME_BYTES:,} bytes")


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of JSON in which no key may be there twice; raises ValueError."""
    table = dict(pairs)
    if len(table) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"{shortened(repeated)} is there twice")
    return table


def check_count(count: int) -> None:
    """Raises ValueError where a file says that it has more tensors than anybody publishes."""
    if count > MAX_TENSORS:
        raise ValueError(f"it names {count:,} tensors, expected at most {MAX_TENSORS:,}")


def in_order(tensors: dict[str, TensorInfo]) -> Iterable[tuple[str, TensorInfo]]:
    """By their place in the file; those without numbers before what starts at the same place."""
    return sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop))


def _check_kind(path: Path, mode: int, what: str) -> None:
    if stat.S_ISDIR(mode):
        raise refusal(path, f"a folder, expected {what}; name a file inside it")
    if not stat.S_ISREG(mode):
        raise refusal(path, f"a {_kind(mode)}, expected {what}; name a regular file")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))
    return next((word for is_kind, word in kinds if is_kind(mode)), "device")


def _in_words(path: Path, error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        try:
            target = os.readlink(path)
        except OSError:
            return "no such file; check the path, or download it"
        return f"a link to {shortened(target)}, where nothing is; correct the link or download the file again"
    if isinstance(error, PermissionError):
        return "no permission to read it; change its permissions (chmod) or run as its owner"
    return f"cannot be read ({error.strerror or error}); check that its disk is connected and whole"


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
