"""What becomes of an error: an exit code, and one line for every error that can reach a person.

Expected errors carry their own line. Anything else is a defect of ours: its trace goes to a log
file, and the line names that file.
"""

from __future__ import annotations

import errno
import os
import time
import traceback
from pathlib import Path

from tui.text import printable, shorten

FAILED = 1
BAD_INPUT = 2
CANCELLED = 130

# What is wrong with a path that somebody named, whatever was asked of it.
_OF_PATHS = {errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR}
_MAX_PATH = 200


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the line for `error`; writes a log file when nobody expected it."""
    from engine.errors import CheckpointError, ComponentError, EngineError, InputError
    from presets.errors import PresetError
    from store.errors import BadRequest, StoreError

    of_input = PresetError | ComponentError | CheckpointError | InputError | BadRequest
    if isinstance(error, of_input):
        # several lines where several files are absent, each with what to do
        return BAD_INPUT, "\n".join(printable(line) for line in str(error).splitlines())
    if isinstance(error, StoreError | EngineError):
        return FAILED, printable(str(error))
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return BAD_INPUT, "the current folder was removed; go to another with cd"
    if isinstance(error, OSError) and error.errno in _OF_PATHS and error.filename is not None:
        named = printable(os.fsdecode(error.filename))
        return BAD_INPUT, f"{shorten(named, _MAX_PATH)}: {error.strerror}; name another path"
    return FAILED, (
        f"unexpected {type(error).__name__}: {printable(str(error))} "
        f"(a defect of modiff; the details are in {_write_log(error)})"
    )


def _has_folder() -> bool:
    """Whether the folder that the shell is in is there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _write_log(error: Exception) -> str:
    """Write the trace beside the engine's logs, or to the temporary folder when that fails too."""
    import tempfile

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
