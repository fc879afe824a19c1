"""What the plan says in words."""

from __future__ import annotations

from rich.console import Console

from tui.app.compose.plan_panel import plan_line, plan_told, wrapped
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


def test_a_run_that_is_all_stored_is_promised_no_time():
    rows = (Row("load", None, None, "skip", 0.0, 0), Row("denoise", 1, 20, "stored", 0.0, 0))
    planned = Planned(rows, 20, 20, (), 0.0, 0, None, None, ())
    assert "time    none, all is stored" in plan_told(planned, is_memory_told=False).splitlines()
    assert plan_line(planned, 0, 1) == "all is stored  * 1 changed"
