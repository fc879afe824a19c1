"""The user's editor: which one it is, and what comes back from it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

import pytest

from tui.app.desktop import EditorFailed, edit_text, place


class Terminal:
    """An app that gives its terminal away."""

    def suspend(self):
        return contextlib.nullcontext()


def script(folder: Path, body: str) -> Path:
    path = folder / "an editor"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_command_may_have_arguments(monkeypatch, tmp_path):
    editor = script(tmp_path, 'printf "%s more\\n\\n" "$1" > "$2"')
    monkeypatch.setenv("VISUAL", " ")
    monkeypatch.setenv("EDITOR", f'"{editor}" typed')
    assert edit_text(Terminal(), "before") == "typed more"


@pytest.mark.parametrize(
    ("editor", "told"),
    [
        ("sh -c 'exit 3'", "sh ended with 3"),
        ("/no/such/editor", "cannot start /no/such/editor"),
        ("'", "EDITOR is not a command"),
        ("  ", "no editor is known"),
    ],
)
def test_what_goes_wrong_is_told_and_leaves_no_file(monkeypatch, tmp_path, editor, told):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor)
    if not editor.strip():
        monkeypatch.setenv("PATH", str(tmp_path))  # none of the usual ones either
    with pytest.raises(EditorFailed, match=told):
        edit_text(Terminal(), "a prompt")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("editor", "arguments"),
    [
        ("/usr/bin/vim", ["+3", "a b.toml"]),
        ("nano", ["+3", "a b.toml"]),
        ("code", ["--goto", "a b.toml:3"]),
        ("hx", ["a b.toml:3"]),
        ("an editor", ["a b.toml"]),
    ],
)
def test_a_file_is_opened_at_its_line(editor, arguments):
    assert place(editor, Path("a b.toml"), 2) == arguments
    assert place(editor, Path("a b.toml"), 0) == ["a b.toml"]
