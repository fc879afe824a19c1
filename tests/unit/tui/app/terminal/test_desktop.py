"""Opening a file in the desktop's player: where there is one, and what is said where there is none."""

from __future__ import annotations

import sys

import pytest

from tui.app import desktop as opening
from tui.app.desktop import CannotOpen, open_file, opener


def test_the_command_of_each_desktop():
    assert opener("linux", {"DISPLAY": ":0"}) == "xdg-open"
    assert opener("linux", {"WAYLAND_DISPLAY": "wayland-0"}) == "xdg-open"
    assert opener("darwin", {}) == "open"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "no display"),
        ({"DISPLAY": ""}, "no display"),
        ({"DISPLAY": ":0", "SSH_TTY": "/dev/pts/1"}, "remote"),
    ],
)
def test_why_there_is_no_player(environment, reason):
    with pytest.raises(CannotOpen, match=reason):
        opener("linux", environment)


@pytest.fixture
def player(tmp_path, monkeypatch):
    """Makes the desktop's command a script."""

    def make(script: str) -> None:
        path = tmp_path / "player"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(opening, "opener", lambda *_: str(path))

    return make


def test_a_file_is_given_to_the_player(tmp_path, player):
    (tmp_path / "a b.mp4").touch()
    player(f'printf %s "$1" > {tmp_path}/given')
    open_file(str(tmp_path / "a b.mp4"))
    assert (tmp_path / "given").read_text() == str(tmp_path / "a b.mp4")


def test_a_player_that_stays_is_not_waited_for(tmp_path, player, monkeypatch):
    monkeypatch.setattr(opening, "_FIRST_SECONDS", 0.1)
    player(f"sleep 60; touch {tmp_path}/left")
    open_file(sys.executable)
    assert not (tmp_path / "left").exists()


def test_failures_are_said(tmp_path, player):
    player("exit 3")
    with pytest.raises(CannotOpen, match="ended with 3"):
        open_file(sys.executable)
    with pytest.raises(CannotOpen, match="gone"):
        open_file(str(tmp_path / "none.mp4"))


def test_a_command_that_is_absent_is_said(monkeypatch):
    monkeypatch.setattr(opening, "opener", lambda *_: "/nowhere/xdg-open")
    with pytest.raises(CannotOpen, match="cannot be started"):
        open_file(sys.executable)
