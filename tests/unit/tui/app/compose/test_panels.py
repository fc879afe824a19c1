"""What the plan says in words."""

from __future__ import annotations

from rich.console import Console

from tui.app.compose.plan_panel import plan_told, wrapped
from tui.describe.plan import Planned, Row


def test_a_note_has_as_many_lines_as_it_takes() -> None:
    note = "image: cat.png, 640x400; cut to 64x64 in the middle"
    assert wrapped(Console(), note, 60) == [note]
    assert wrapped(Console(), note, 30) == [
        "image: cat.png, 640x400; cut",
        "  to 64x64 in the middle",
    ]


def test_memory_is_told_once() -> None:
    rows = (Row("decode", None, None, "compute", None, 0),)
    planned = Planned(rows, 20, 0, (), None, 0, 318 << 20, None, ())
    assert "memory  318 MiB" in plan_told(planned, is_memory_told=False).splitlines()
    assert "memory" not in plan_told(planned, is_memory_told=True)
