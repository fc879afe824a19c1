"""What becomes of an error: an exit code, and one line for every error that can reach a person.

Expected errors carry their own line. Anything else is a defect of ours: its trace goes to a log
file, and the line names that file.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import click

from tui.text import printable, shorten

FAILED = 1
BAD_INPUT = 2
CANCELLED = 130

# What is wrong with a path that somebody named, whatever was asked of it.
_OF_PATHS = {errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR}
_MAX_PATH = 200


@dataclass(slots=True)
class Invocation:
    """One call of `modiff`: its arguments, and the run that it is about once there is one."""

    arguments: tuple[str, ...] = ()
    run: str | None = None

    @property
    def wants_run_json(self) -> bool:
        """Whether stdout must end with the JSON object of `modiff run --json`, also on failure.

        Read from the raw arguments, because a command line that click refused was never parsed.
        """
        return self.arguments[:1] == ("run",) and "--json" in self.arguments


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for `error`; writes a log file when nobody expected it."""
    from engine.errors import CheckpointError, ComponentError, EngineError
    from presets.errors import PresetError
    from store.errors import BadRequest, StoreError

    if isinstance(error, PresetError | ComponentError | CheckpointError | BadRequest):
        # several lines where several files are absent, each with what to do
        return BAD_INPUT, "\n".join(printable(line) for line in str(error).splitlines())
    if isinstance(error, StoreError | EngineError):
        return FAILED, printable(str(error))
    if isinstance(error, OSError) and _is_of_output(error):
        return FAILED, f"the output could not be written ({error.strerror or error})"
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return BAD_INPUT, "the current folder was removed; go to another with cd"
    if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename is not None:
        named = printable(os.fsdecode(error.filename))
        return BAD_INPUT, f"{shorten(named, _MAX_PATH)}: {error.strerror}; name another path"
    return FAILED, (
        f"unexpected {type(error).__name__}: {printable(str(error))} "
        f"(a defect of modiff; the details are in {_write_log(error)})"
    )


def json_failure(invocation: Invocation, code: int, line: str) -> str:
    """The object with which `modiff run --json` ends when there is no run to tell about."""
    return json.dumps(
        {
            "run": invocation.run,
            "status": "cancelled" if code == CANCELLED else "failed",
            "output": None,
            "seconds": 0.0,
            "stages": [],
            "error": line,
        }
    )


def close_output() -> None:
    """Point stdout and stderr away from the reader that has gone, so that the last flush is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def flush_output() -> None:
    """Hand what is buffered for stdout to the system; OSError where that takes it no more."""
    if sys.stdout is not None:  # None when it was closed before we came, as by `>&-`
        sys.stdout.flush()


def _has_folder() -> bool:
    """Whether the folder that the shell is in is there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _is_of_output(error: Exception) -> bool:
    """Whether an error came up while stdout or stderr was written, as on a full disk.

    Told by where it was raised: the error names no file, and it may be gone when the stream is tried again.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_code in (click.echo.__code__, flush_output.__code__)


def _write_log(error: Exception) -> str:
    """Write the trace beside the engine's logs, or to the temporary folder when that fails too."""
    from store.errors import StoreError
    from store.paths import store_root

    trace = "".join(traceback.format_exception(error))
    for choose in (lambda: store_root() / "logs", lambda: Path(tempfile.gettempdir())):
        try:
            folder = choose()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(
                prefix=time.strftime("modiff-%Y%m%d-%H%M%S-"), suffix=".log", dir=folder
            )
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(trace)
        except (OSError, StoreError):
            continue
        return path
    return "no file, because neither the store nor the temporary folder can be written"
