"""The desktop around the app: the user's editor, the player that opens a file, paths as people type them."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported
from textual.suggester import Suggester

from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from textual.app import App

_EDITORS = ("nano", "vim", "vi")
# Those that take `+LINE` before a file's name, and those that take `NAME:LINE`.
_PLUS_LINE = frozenset(
    {
        *("nano", "vim", "vi", "nvim", "view", "gvim", "emacs", "emacsclient", "kak", "joe", "jed"),
        *("mg", "ne", "micro", "gedit", "kate", "pico", "mcedit"),
    }
)
_COLON_LINE = frozenset({"hx", "helix", "subl", "zed"})
# A starter that ends sooner with an error found no player; one that is still at work is the player.
_FIRST_SECONDS = 2.0


class EditorFailed(Exception):
    """Why nothing was edited."""


def edit_file(app: App[int], path: Path, line: int = 0) -> None:
    """Give the terminal to the editor until it is closed. line: to begin at, from 0, where the editor can be told.
    Raises EditorFailed."""
    command = _editor()
    try:
        with app.suspend():
            done = subprocess.run([*command, *place(command[0], path, line)], check=False)
    except SuspendNotSupported:
        raise EditorFailed("this terminal cannot be given to an editor") from None
    except OSError as error:
        raise EditorFailed(f"cannot start {command[0]}: {error.strerror or error}") from None
    if done.returncode:
        raise EditorFailed(f"{command[0]} ended with {done.returncode}")


def edit_text(app: App[int], text: str) -> str:
    """The text as it was saved in the editor, without line breaks at its end. Raises EditorFailed."""
    handle, name = tempfile.mkstemp(prefix="modiff-prompt-", suffix=".txt")
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        edit_file(app, path)
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EditorFailed(f"what was edited cannot be read: {error}") from None
    finally:
        path.unlink(missing_ok=True)


def place(editor: str, path: Path, line: int) -> list[str]:
    """A file at a line, as an editor takes it."""
    name = os.path.basename(editor)
    if line > 0 and name in _PLUS_LINE:
        return [f"+{line + 1}", str(path)]
    if line > 0 and name in ("code", "codium"):
        return ["--goto", f"{path}:{line + 1}"]
    return [f"{path}:{line + 1}" if line > 0 and name in _COLON_LINE else str(path)]


def _editor() -> list[str]:
    chosen = os.environ.get("VISUAL", "").strip() or os.environ.get("EDITOR", "").strip()
    found = chosen or next((name for name in _EDITORS if shutil.which(name)), "")
    if not found:
        raise EditorFailed("no editor is known; set EDITOR")
    try:
        return shlex.split(found)
    except ValueError:
        raise EditorFailed(f"EDITOR is not a command: {found}") from None


class CannotOpen(Exception):
    """There is no player here for a file; says why."""


def opener(platform: str, environment: Mapping[str, str]) -> str:
    """The command that opens a file. Raises CannotOpen where there is no screen to open it on."""
    if any(name in environment for name in ("SSH_CONNECTION", "SSH_TTY")):
        raise CannotOpen("this is a remote terminal")
    if platform == "darwin":
        return "open"
    if not any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        raise CannotOpen("there is no display")
    return "xdg-open"


def open_file(path: str) -> None:
    """Start the player, which outlives us. Raises CannotOpen; takes two seconds at most."""
    command = opener(sys.platform, os.environ)
    if not os.path.exists(path):
        raise CannotOpen("the file is gone")
    try:
        process = subprocess.Popen(
            [command, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise CannotOpen(f"{command} cannot be started ({error.strerror})") from None
    with suppress(subprocess.TimeoutExpired):
        if code := process.wait(_FIRST_SECONDS):
            raise CannotOpen(f"{command} found no player (it ended with {code})")


def absolute(line: str) -> str:
    """The path that was typed, from the home directory where it begins with ~."""
    return os.path.abspath(os.path.expanduser(line.strip()))


def absent(line: str) -> str:
    """What is wrong with the path of a file that is to be read: it is not there, or no file; "" for nothing."""
    if not line.strip() or os.path.isfile(absolute(line)):
        return ""
    name = printable(absolute(line))
    return f"{name} is a folder" if os.path.isdir(absolute(line)) else f"there is no file {name}"


class PathSuggester(Suggester):
    """Completes a path as it is typed: the first name that goes on so, of a folder or with one of these endings."""

    def __init__(self, endings: Collection[str]) -> None:
        """endings: in small letters; none for any."""
        super().__init__(use_cache=False, case_sensitive=True)
        self._endings = tuple(endings) or ("",)

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(self._suggestion, value)

    def _suggestion(self, value: str) -> str | None:
        folder, _, begun = value.rpartition("/")
        place = os.path.expanduser(f"{folder}/" if "/" in value else ".")
        try:
            with os.scandir(place) as entries:
                found = sorted(
                    entry.name + "/" * entry.is_dir()
                    for entry in entries
                    if entry.name.startswith(begun)
                    and (begun or not entry.name.startswith("."))
                    and (entry.is_dir() or entry.name.lower().endswith(self._endings))
                )
        except OSError:
            return None
        return value.removesuffix(begun) + found[0] if begun and found else None


def start_of(line: str, before: str) -> Path:
    """Where one begins to look for a file: the one that a line names, its folder, the folder of `before`, else the
    present one."""
    for each in (line, os.path.dirname(line), before):
        if each.strip() and os.path.exists(absolute(each)):
            return Path(absolute(each))
    return Path.cwd()


def taken(line: str) -> str:
    """What is wrong with the path of a new file: it is there already, or its folder is not; "" for nothing."""
    if not line.strip():
        return ""
    path = absolute(line)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return f"there is no folder {printable(folder)}"
    return f"{printable(os.path.basename(path))} is there already" if os.path.lexists(path) else ""
