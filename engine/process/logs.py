"""The log of an engine process: where it is, what goes in, and what must never be in it.

Tokens and passwords are cut out of every line and of every error that is stored with a run;
`redact` knows the values of secret-looking environment variables and the usual shapes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

from store.blobs.files import disk_error
from store.paths import engine_log

if TYPE_CHECKING:
    from pathlib import Path

LOGS_KEPT = 20
# More than anybody reads; a library that complains at every step of a long run would fill the disk.
MAX_LOG_BYTES = 16 * 1024 * 1024
OLD_SUFFIX = ".log.old"
MAX_LINE_CHARACTERS = 1000
MIN_SECRET_CHARACTERS = 8

log = logging.getLogger(__name__)

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)
_SECRET_SHAPES = (
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?<=\bbearer )[^\s'\",]+", re.IGNORECASE),
    re.compile(
        r"(?<=[?&\s'\"])(?:api[_-]?key|(?:access[_-]?)?token|password|secret)['\"]?[=:]\s*[^\s&,]+",
        re.IGNORECASE,
    ),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
)


class RedactingFormatter(logging.Formatter):
    """Formats a record, traceback included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_path(root: Path, pid: int) -> Path:
    """The log of the engine process `pid` of the store at `root`."""
    return engine_log(root, pid)


def start_logging(root: Path) -> None:
    """Send this process's log, and whatever libraries print, to its file.

    On a terminal the log is shown there too, and what libraries print stays there.
    """
    path = log_path(root, os.getpid())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disk_error(error, path) from error
    stream = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    handlers: list[logging.Handler] = [logging.StreamHandler(stream)]
    if sys.stderr.isatty():
        handlers.append(logging.StreamHandler(sys.stderr))
    else:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
    for handler in handlers:
        handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    faulthandler.enable(stream)
    _remove_old_logs(path.parent)


def bound_log(root: Path) -> None:
    """Keep this process's log within a bound: what goes beyond it moves aside, in the place of what did before.

    Whoever writes to it goes on in the same file, libraries and child programs too.
    """
    path = log_path(root, os.getpid())
    aside = path.with_suffix(OLD_SUFFIX)
    with contextlib.suppress(OSError):  # a full disk, say: the next time is in a second
        if path.stat().st_size <= MAX_LOG_BYTES:
            return
        with path.open("rb") as log_file, open(aside, "wb", opener=_private) as old:
            shutil.copyfileobj(log_file, old)
        os.truncate(path, 0)  # all of them append
        log.info("what the log held before is in %s", aside)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def redact(text: str) -> str:
    """The text without secrets that can be told as such."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= MIN_SECRET_CHARACTERS:
            text = text.replace(value, "***")
    for shape in _SECRET_SHAPES:
        text = shape.sub("***", text)
    return text


def one_line(error: BaseException) -> str:
    """What to tell a person about an error: one line, without secrets."""
    if isinstance(error, MemoryError):
        text = "out of memory; try a smaller size, fewer frames or a smaller dtype"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return redact(text)[:MAX_LINE_CHARACTERS]


def last_line(path: Path) -> str:
    """The last line of a log that is not empty, or "" when there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _remove_old_logs(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another engine may be doing the same
        by_age = sorted(folder.glob("engine-*.log"), key=lambda path: path.stat().st_mtime)
        for path in by_age[:-LOGS_KEPT]:
            path.with_suffix(OLD_SUFFIX).unlink(missing_ok=True)
            path.unlink()
