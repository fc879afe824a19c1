"""When the app can be shown, and what is said where it cannot."""

from __future__ import annotations

import pytest

from tui.app.launch import refusal


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
