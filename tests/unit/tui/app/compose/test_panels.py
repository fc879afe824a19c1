"""What the plan says in words."""

from __future__ import annotations

from rich.console import Console

from tui.app.compose.panels import wrapped


def test_a_note_has_as_many_lines_as_it_takes() -> None:
    note = "image: cat.png, 640x400; cut to 64x64 in the middle"
    assert wrapped(Console(), note, 60) == [note]
    assert wrapped(Console(), note, 30) == [
        "image: cat.png, 640x400; cut",
        "  to 64x64 in the middle",
    ]
