"""When the app can be shown, and what is said where it cannot."""

from __future__ import annotations

import os

import pytest

from store.store import open_store
from tui.app.launch import left_line, refusal
from tui.describe.health import status


@pytest.mark.parametrize("term", ["xterm-256color", "xterm-kitty", "screen", "linux"])
def test_a_terminal_will_do(term):
    assert refusal({"TERM": term}, has_terminal=True) == ""


@pytest.mark.parametrize("environ", [{}, {"TERM": ""}, {"TERM": "dumb"}, {"TERM": "unknown"}])
def test_one_that_cannot_move_its_cursor_will_not(environ):
    reason = refusal(environ, has_terminal=True)
    assert "cannot move its cursor" in reason
    assert "modiff run micro" in reason


def test_a_pipe_will_not():
    assert "needs a terminal" in refusal({"TERM": "xterm"}, has_terminal=False)


def test_a_browser_brings_its_own():
    assert (
        refusal({"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver"}, has_terminal=False)
        == ""
    )


def test_what_is_left_to_do_is_said_as_it_is():
    with open_store() as store:
        assert left_line(status(store), ()) == ""
        first, second = (store.enqueue(b"{}", preset="micro", output="o") for _ in range(2))
        assert left_line(status(store), ()) == ""  # without an engine nothing goes on
        with store.register_engine("engine1", pid=os.getpid()):
            store.lease("engine1")
            assert f"run {first} goes on" in left_line(status(store), ())
            assert f"`modiff resume {first}`" in left_line(status(store), (first,))
            assert "2 runs are cancelled" in left_line(status(store), (first, second))
