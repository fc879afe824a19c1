"""A file in the player that the desktop has for it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# A starter that ends sooner with an error found no player; one that is still at work is the player.
_FIRST_SECONDS = 2.0


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
