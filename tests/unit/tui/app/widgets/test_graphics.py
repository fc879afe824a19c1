"""Real pixels: which terminals are asked for them, and what they get, by the bytes that they read."""

from __future__ import annotations

import importlib.util
import os
import re
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tui.app.widgets import graphics
from tui.app.widgets.graphics import load_graphics, wanted_graphics

ROOT = Path(__file__).resolve().parents[5]
KITTY = {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}

SCRIPT = """
from textual.app import App
from tui.app.widgets.graphics import load_graphics
from tui.app.widgets.picture import Picture

class Frames:
    num_frames, height, width, pixels = 2, 8, 8, bytes(range(192)) * 2

maker = load_graphics()

class Shown(App):
    def compose(self):
        yield Picture(graphics=maker)

    def on_mount(self):
        self.query_one(Picture).show(Frames(), f"made by {maker.kind if maker else 'hand'}")
        self.set_timer(1.0, self.exit)

Shown().run()
"""


@pytest.mark.parametrize(
    "environ",
    [
        KITTY,
        {"TERM": "xterm-256color", "KITTY_WINDOW_ID": "3"},
        {"TERM": "xterm-ghostty"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"},
        {"TERM": "foot"},
        {"TERM": "xterm-256color", "KONSOLE_VERSION": "220401"},
    ],
)
def test_terminals_that_are_asked(environ):
    assert wanted_graphics(environ, is_tty=True, choice="auto")
    assert not wanted_graphics(environ, is_tty=False, choice="auto")
    assert not wanted_graphics(environ, is_tty=True, choice="half")
    assert not wanted_graphics(environ, is_tty=True, choice="off")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TERM": "xterm-256color"},
        {"TERM": "dumb"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"},
        {"TERM": "xterm-256color", "TERM_PROGRAM": "vscode"},
        {**KITTY, "TMUX": "/tmp/tmux-0/default,1,0"},
        {**KITTY, "STY": "1.pts-0"},
        {**KITTY, "TERM": "screen-256color"},
        {**KITTY, "TERM": "tmux-256color"},
        {**KITTY, "ZELLIJ": "0"},
        {**KITTY, "NO_COLOR": "1"},
        {**KITTY, "SSH_TTY": "/dev/pts/1"},
        {**KITTY, "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"},
        {**KITTY, "TERM_PROGRAM": "textual"},
    ],
)
def test_terminals_that_are_left_alone(environ):
    assert not wanted_graphics(environ, is_tty=True, choice="auto")


def test_without_the_extra_there_is_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "textual_image", None)
    monkeypatch.setitem(sys.modules, "textual_image.renderable", None)
    assert load_graphics() is None


def test_other_threads_may_not_ask():
    raised: list[Exception] = []

    def ask() -> None:
        try:
            graphics.load_graphics()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def terminal_output(answers: list[tuple[bytes, bytes]]) -> bytes:
    """What the script writes to a terminal of 40 by 12 cells that answers questions as told.

    answers: pairs of a pattern of bytes and what to say; groups of the pattern may be used.
    """
    import fcntl
    import pty
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 40, 400, 240))
    environ = {**os.environ, "TERM": "xterm-kitty", "COLORTERM": "truecolor"}
    environ.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env=environ,
        start_new_session=True,
    )
    os.close(follower)
    output, answered = b"", 0
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            try:
                output += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            found = True
            while found:
                found = False
                for pattern, answer in answers:
                    if match := re.search(pattern, output[answered:]):
                        answered += match.end()
                        os.write(leader, match.expand(answer))
                        found = True
        assert process.wait(120) == 0, output
    finally:
        process.kill()
        os.close(leader)
    return output


ASKED_KITTY = re.compile(rb"\x1b_Gi=(\d+),[^;]*a=q[^;]*;AAAA\x1b\\")
ASKED_ATTRIBUTES = re.compile(rb"\x1b\[c")
needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("textual_image") is None or sys.platform == "win32",
    reason="needs textual-image and a pseudo-terminal",
)


@needs_extra
def test_a_terminal_with_kitty_graphics_gets_them():
    output = terminal_output(
        [
            (ASKED_ATTRIBUTES.pattern, b"\x1b[?62;c"),
            (ASKED_KITTY.pattern, b"\x1b_Gi=\\1;OK\x1b\\\\"),
        ]
    )
    assert b"made by kitty" in output
    images = re.findall(rb"\x1b_Gi=(\d+),m=[01],f=100", output)
    assert images
    assert "\U0010eeee".encode() in output
    assert "▀".encode() not in output


@needs_extra
def test_a_terminal_with_sixel_gets_it():
    output = terminal_output([(ASKED_ATTRIBUTES.pattern, b"\x1b[?62;4;c")])
    assert b"made by sixel" in output
    assert re.search(rb"\x1bP[0-9;]*q", output)
    assert "▀".encode() not in output


@needs_extra
def test_a_terminal_that_does_not_answer_gets_half_blocks():
    output = terminal_output([])
    assert b"made by hand" in output
    assert "▀".encode() in output
    assert b"f=100" not in output
    assert not re.search(rb"\x1bP[0-9;]*q", output)
