"""`modiff` in a terminal, as a person has it: keys go in, the screen is read. Two terminals: pyte in this process,
and tmux where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pyte
import pytest

from tests.terminals.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
_MORE_SECONDS = 0.5
MODIFF = (sys.executable, "-P", "-m", "tui.cli")
# key: (what a terminal sends, its name in tmux)
KEYS = {
    "ctrl+r": ("\x12", "C-r"),
    "ctrl+q": ("\x11", "C-q"),
    "ctrl+d": ("\x04", "C-d"),
    "enter": ("\r", "Enter"),
    "escape": ("\x1b", "Escape"),
    "left": ("\x1b[D", "Left"),
    "right": ("\x1b[C", "Right"),
    "up": ("\x1b[A", "Up"),
    "down": ("\x1b[B", "Down"),
    "home": ("\x1b[H", "Home"),
    "end": ("\x1b[F", "End"),
    "tab": ("\t", "Tab"),
    "delete": ("\x1b[3~", "DC"),
    "backspace": ("\x7f", "BSpace"),
}


class Session(Protocol):
    """One `modiff` in one terminal."""

    def press(self, *keys: str) -> None:
        """Keys by the names of KEYS, or text as it is."""
        ...

    def screen(self) -> str:
        """What is on the screen now, a line for each row."""
        ...

    def is_over(self) -> bool:
        """Whether the program has ended."""
        ...

    def kill_terminal(self) -> None:
        """As a closed window: the terminal goes away under the program."""
        ...


def wait_until(session: Session, shows: Callable[[str], bool], *, seconds: float = 120.0) -> str:
    """The first screen that `shows` takes; fails with the last one where none comes."""
    deadline = time.monotonic() + seconds
    while not shows(screen := session.screen()):
        assert time.monotonic() < deadline, f"the screen stayed\n{screen}"
        time.sleep(0.05)
    return screen


def wait_for(session: Session, text: str, *, seconds: float = 120.0) -> str:
    """The first screen with this text on it."""
    return wait_until(session, lambda screen: text in screen, seconds=seconds)


def press_until(session: Session, key: str, text: str) -> str:
    """Press a key, again every 30 s where a slow machine was not ready for it, until the text is on the screen."""
    deadline = time.monotonic() + 180
    while True:
        session.press(key)
        again = time.monotonic() + 30
        while time.monotonic() < again:
            if text in (screen := session.screen()):
                return screen
            time.sleep(0.05)
        assert time.monotonic() < deadline, f"{key} did nothing\n{screen}"


class PtySession:
    """In a pseudo-terminal, drawn by pyte."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.terminal = Terminal(MODIFF, environment=environment, folder=folder)
        self._drawn = pyte.Screen(120, 36)
        self._shown: str | None = None
        self._stream = pyte.ByteStream(self._drawn)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.terminal.press(KEYS.get(key, (key,))[0])
            self._draw(0.15)

    def screen(self) -> str:
        self._draw(0.0)
        if self._shown is None:
            self._shown = "\n".join(self._drawn.display)
        return self._shown

    def is_over(self) -> bool:
        self._draw(0.05)
        return self.terminal.process.poll() is not None

    def kill_terminal(self) -> None:
        self.terminal.hang_up()  # of which no signal tells: it is not its session's own

    def close(self) -> None:
        self.terminal.__exit__()

    def _draw(self, seconds: float) -> None:
        """What is written within so many seconds, and what is there already. On a busy machine an app at work may write
        faster than this draws: that there is always more is no reason to go on."""
        deadline = time.monotonic() + seconds
        while True:
            data = self.terminal.read(max(0.0, deadline - time.monotonic()))
            if data:
                self._stream.feed(data)
                self._shown = None
            if time.monotonic() >= deadline + (_MORE_SECONDS if data else 0.0):
                return


class TmuxSession:
    """In tmux, on a server of its own."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._socket = f"modiff-{uuid.uuid4().hex[:12]}"
        settings = [f"{name}={value}" for name, value in environment.items()]
        self._tmux(
            *("new-session", "-d", "-s", "t", "-x", "120", "-y", "36", "-c", str(folder)),
            *("env", *settings, *MODIFF),
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            known = KEYS.get(key)
            self._tmux("send-keys", "-t", "t", *((known[1],) if known else ("-l", key)))
            time.sleep(0.15)

    def screen(self) -> str:
        done = self._tmux("capture-pane", "-p", "-t", "t", check=False)
        return done.stdout

    def is_over(self) -> bool:
        return self._tmux("has-session", "-t", "t", check=False).returncode != 0

    def kill_terminal(self) -> None:
        self.close()

    def close(self) -> None:
        self._tmux("kill-server", check=False)

    def _tmux(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments],
            check=check,
            capture_output=True,
            text=True,
        )


@pytest.fixture(params=["pty", "tmux"])
def open_session(
    request: pytest.FixtureRequest, own_folders: Path
) -> Iterator[Callable[[Path], Session]]:
    """Starts `modiff` in a folder, on this test's own store; each session is ended with the test."""
    if request.param == "tmux" and shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened: list[PtySession | TmuxSession] = []

    def start(folder: Path) -> Session:
        environment = {
            "PYTHONPATH": str(ROOT),
            "HOME": str(own_folders),
            "MODIFF_STORE": str(own_folders / "store"),
            "MODIFF_CONFIG_DIR": str(own_folders / "config"),
            "MODIFF_MODELS": str(own_folders / "models"),
            "OMP_NUM_THREADS": "1",
        }
        made = (PtySession if request.param == "pty" else TmuxSession)(environment, folder)
        opened.append(made)
        return made

    yield start
    for each in opened:
        each.close()
