"""Case after case until the time is over, and whether what read each kept to what it may do.

It may take a case or refuse it with an error of the project in one line. It may not raise anything else, take
seconds, grow, keep files open, write outside of the case's folder, start or reach anything, or leave files behind.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil

# CPU seconds of one case, which takes a few hundredths.
MAX_SECONDS = 5.0
# Seconds after which a case counts as one that never ends, however busy the machine is.
HANG_SECONDS = 120.0
# Beyond what the process had when the first cases were over: in one case, and of all together.
MAX_PEAK_BYTES = 512 << 20
MAX_GROWTH_BYTES = 96 << 20
WARM_CASES = 200
MAX_MORE_FILES = 4
MAX_REASON = 1200

Attempt = Callable[[Random, Path], str]
"""Makes a case in an empty folder, by chance, and reads it: why it was refused, or "" where it was taken."""

Make = Callable[[Path], Attempt]
"""Prepares what cases are made of in a folder."""


class Fault(AssertionError):
    """Something that a case may not lead to."""


@dataclass
class Outcome:
    """faults: by what is wrong, the first case of each with its traceback."""

    num_cases: int = 0
    num_taken: int = 0
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


def fuzz(make: Make, folder: Path, *, seed: int, seconds: float = 0, cases: range) -> Outcome:
    """Attempts cases until the seconds are over, but at least those of `cases`; its stop is ignored if seconds are
    given. The case of a seed and a number is always the same."""
    attempt = make(_emptied(folder / "prepared"))
    outcome = Outcome()
    until = time.monotonic() + seconds
    number = cases.start
    began = (0, 0)
    while number in cases or time.monotonic() < until:
        place = _emptied(folder / "case")
        (folder / "number").write_text(f"{seed} {number}")  # for whoever finds it after a crash
        try:
            reason = _attempted(attempt, Random(f"{seed}:{number}"), place, folder)
        except KeyboardInterrupt:
            raise
        except BaseException as fault:  # noqa: BLE001  # a library's panic too: that is what is looked for
            what = _summary(fault)
            outcome.faults.setdefault(what, (number, traceback.format_exc()))
        else:
            outcome.num_taken += not reason
            outcome.reasons[reason.replace(str(place), "")[:60]] += bool(reason)
        number += 1
        outcome.num_cases += 1
        if outcome.num_cases == WARM_CASES:
            began = _held()
    if outcome.num_cases <= WARM_CASES:
        return outcome
    num_bytes, num_files = (now - before for now, before in zip(_held(), began, strict=True))
    if num_bytes > MAX_GROWTH_BYTES or num_files > MAX_MORE_FILES:
        told = f"{num_bytes:,} bytes and {num_files} open files after {outcome.num_cases:,} cases"
        outcome.faults["growth"] = (number, told)
    return outcome


def _attempted(attempt: Attempt, random: Random, place: Path, folder: Path) -> str:
    peak, began = _peak_bytes(), time.process_time()
    before = _outside(folder)
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
    try:
        with _watched(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reason = attempt(random, place)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if (seconds := time.process_time() - began) > MAX_SECONDS:
        raise Fault(f"took {seconds:.1f} s")
    if _peak_bytes() - peak > MAX_PEAK_BYTES:
        raise Fault(f"took {_peak_bytes() - peak:,} bytes at once")
    if (after := _outside(folder)) != before:
        raise Fault(f"wrote outside its folder: {sorted(after ^ before)[:3]}")
    if not reason.isprintable() or len(reason) > MAX_REASON:
        raise Fault(f"a reason of {len(reason)} characters that is not one line: {reason[:300]!r}")
    return reason


def _summary(fault: BaseException) -> str:
    """Which fault it is: of one cause there are many cases."""
    if isinstance(fault, Fault):
        return str(fault).partition(":")[0]
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if "/tests/" not in frame.filename] or frames
    at = [frame for frame in ours if "site-packages" not in frame.filename][-1:] or ours[-1:]
    return f"{type(fault).__name__} in {at[0].filename}:{at[0].lineno}"


def _outside(folder: Path) -> set[str]:
    """The files of the work folder that no case may touch: names and when they changed."""
    found = set()
    for parent, folders, files in os.walk(folder):
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in ("case", "scratch")]
            files = [name for name in files if name != "number"]
        for name in files:
            status = os.lstat(os.path.join(parent, name))
            found.add(f"{parent}/{name} {status.st_size} {status.st_mtime_ns}")
    return found


def _held() -> tuple[int, int]:
    """Bytes in memory and open files of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss, len(os.listdir("/proc/self/fd"))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# Python tells its audit hooks of what a process does; a hook cannot be taken away, only be made to look away.
_allowed: Path | None = None
_is_hooked = False
_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.")
# what changes a file system: where its arguments have paths, and where the folder that each of these begins in
_CHANGING = {
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.truncate": ((0, None),),
    "os.rename": ((0, 2), (1, 3)), "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),), "os.utime": ((0, 3),),
}  # fmt: skip


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Fault for what is written or removed outside of a folder, and for what is started, reached or unpickled."""
    global _allowed, _is_hooked
    if not _is_hooked:
        sys.addaudithook(_look_at)
        _is_hooked = True
    _allowed = folder.resolve()
    try:
        yield
    finally:
        _allowed = None


def _look_at(event: str, arguments: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event.startswith(_FORBIDDEN):
        raise Fault(f"{event}: {arguments!r:.200}")
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        is_written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        places = ((0, None),) if is_written else ()
    else:
        places = _CHANGING.get(event, ())
    for at, folder_at in places:
        path, folder = arguments[at], -1 if folder_at is None else arguments[folder_at]
        if isinstance(path, str | bytes | os.PathLike) and not _is_allowed(
            os.fsdecode(path), folder
        ):
            raise Fault(f"{event} outside its folder: {path!r:.200}")


def _is_allowed(path: str, folder: int) -> bool:
    assert _allowed is not None
    base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    whole = os.path.normpath(os.path.join(base, path))
    if whole.startswith("/dev/shm/"):  # folders of tests may be there
        return whole.startswith(f"{_allowed}/")
    return whole.startswith((f"{_allowed}/", "/dev/", "/proc/self/"))
