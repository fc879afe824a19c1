"""A row of a plan in words."""

from __future__ import annotations

from dataclasses import replace

from tui.describe.plan import Row, shown


def test_the_steps_of_a_row():
    row = Row("denoise", 1, 12, "compute", None, 0)
    assert shown(row)[:3] == ("denoise", "1-12", "to compute")
    assert shown(replace(row, last=1))[1] == "1"
    assert shown(replace(row, first=None, last=None))[1] == ""
