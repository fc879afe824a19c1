"""The user's own editor, over the app: $VISUAL or $EDITOR."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

if TYPE_CHECKING:
    from textual.app import App

_USUAL = ("nano", "vim", "vi")


class EditorFailed(Exception):
    """Why nothing was edited."""


def edit_file(app: App[int], path: Path) -> None:
    """Give the terminal to the editor until it is closed. Raises EditorFailed."""
    command = _command()
    try:
        with app.suspend():
            done = subprocess.run([*command, str(path)], check=False)
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


def _command() -> list[str]:
    chosen = os.environ.get("VISUAL", "").strip() or os.environ.get("EDITOR", "").strip()
    found = chosen or next((name for name in _USUAL if shutil.which(name)), "")
    if not found:
        raise EditorFailed("no editor is known; set EDITOR")
    try:
        return shlex.split(found)
    except ValueError:
        raise EditorFailed(f"EDITOR is not a command: {found}") from None
