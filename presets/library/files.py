"""Preset files as text: read whole, and replaced in one step or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from presets.errors import PresetError
from presets.library.paths import SHIPPED

# Two prompts of the largest size and 64 extensions fit many times; more is not a preset.
MAX_FILE_BYTES = 256 * 1024
LOCK_SECONDS = 5.0
POLL_SECONDS = 0.01
STALE_SECONDS = 3600.0

_DRAFT = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._+-]{0,63}-\w{8}\.tmp")


def read_preset_text(path: Path) -> str:
    """What a preset's file holds, whether it is a valid preset or not; raises `PresetError`."""
    if os.path.exists(path) and not os.path.isfile(path):
        # Opening a pipe would wait for a writer, and a device has no end.
        raise PresetError(f"cannot read {path}: it is not a regular file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
            num_bytes = os.fstat(file.fileno()).st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise PresetError(f"cannot read {path}: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(path, data, num_bytes)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PresetError(
            f"{path}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); "
            "save the file as UTF-8"
        ) from None


def write_preset_text(path: Path, text: str, *, expected: str | None = None) -> None:
    """Replace one of the user's preset files as a whole, by a valid preset or not, so that one can be mended in
    steps.

    expected: what the file held when it was read. Raises `PresetError`: a shipped preset, a text that is too long, a
    file that holds something else by now, or one that cannot be written.
    """
    if path.resolve().parent == SHIPPED.resolve():
        raise PresetError(f'"{path.stem}" is a shipped preset; save a copy under another name')
    encoded = encoded_text(text)
    try:
        with _only_writer(path.parent):
            if expected is not None and path.exists() and read_preset_text(path) != expected:
                raise PresetError(
                    f"{path} was changed by another program since it was read; leave, and open it again"
                )
            write_whole(path, encoded, overwrite=True)
    except OSError as error:
        raise PresetError(f"cannot write {path}: {error.strerror or error}") from None


def encoded_text(text: str) -> bytes:
    """A preset's text in UTF-8. Raises `PresetError` where it is too long for one."""
    encoded = text.encode()
    if len(encoded) > MAX_FILE_BYTES:
        raise PresetError(
            f"a preset file has at most {MAX_FILE_BYTES} bytes, this one would have {len(encoded)}"
        )
    return encoded


def _too_large(path: Path, data: bytes, num_bytes: int) -> PresetError:
    """Not parsed, but the key in which the limit falls is the last one that begins before it."""
    keys = re.findall(rb"^[ \t]*([A-Za-z0-9_.-]{1,64})[ \t]*=", data, re.MULTILINE)
    return PresetError(
        f"a preset file has at most {MAX_FILE_BYTES} bytes, got {num_bytes}",
        key=keys[-1].decode() if keys else "",
        source=str(path),
    )


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """From the look at a file in `folder` to its replacement, so that no other process replaces it in between.

    Raises BlockingIOError where another takes too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _sweep_leavings(path: Path) -> None:
    """Remove the drafts of a file of processes that were killed: of this user, and not written to for an hour."""
    for draft in path.parent.glob(f".{glob.escape(path.stem)}-????????.tmp"):
        with contextlib.suppress(OSError):
            status = draft.lstat()
            if (
                status.st_uid == os.geteuid()
                and time.time() - status.st_mtime > STALE_SECONDS
                and _DRAFT.fullmatch(draft.name)
            ):
                draft.unlink()


def write_whole(path: Path, data: bytes, *, overwrite: bool) -> None:
    """`data` at `path`, complete and durable, or an OSError and nothing changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leavings(path)
    # The leading dot keeps a leftover of a killed process out of the list of presets.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            # A link, unlike a rename, refuses a name that another process has just taken.
            os.link(temporary, path)
            os.unlink(temporary)
    except BaseException:  # an interrupt too leaves nothing half-written
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
