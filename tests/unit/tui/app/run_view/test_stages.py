"""The line of stages, from all that is known down to symbols."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from textual.app import App, ComposeResult

from tui.app.run_view.stages import StageCell, Stages

RUN = [
    StageCell("load", "done", 2.31),
    StageCell("text", "cached", None),
    StageCell("denoise", "running", None, "12/30"),
    StageCell("decode", "todo", None),
    StageCell("mux", "todo", None),
]


def drawn(cells: Sequence[StageCell], width: int) -> str:
    class StagesApp(App[None]):
        def compose(self) -> ComposeResult:
            yield Stages()

    async def run() -> str:
        async with StagesApp().run_test(size=(80, 4)) as pilot:
            stages = pilot.app.query_one(Stages)
            stages.show(cells)
            await pilot.pause()
            assert stages.size.height == 1
            assert stages.render_line(0).text == stages.draw(80, 1)[0].text if cells else True
            (line,) = stages.draw(width, 1)
            assert line.cell_length == width
            return line.text.rstrip()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "✓ load 2.31 s │ ✓ text cached │ ▶ denoise 12/30 │ · decode │ · mux"),
        (60, "✓ load 2.31 s │ ✓ text │ ▶ denoise 12/30 │ · decode │ · mux"),
        (59, "✓ load 2.31 s │ ✓ text │ ▶ denoise 12/30 │ · decode │ · mux"),
        (55, "✓ load │ ✓ text │ ▶ denoise 12/30 │ · decode │ · mux"),
        (40, "✓ ✓ │ ▶ denoise 12/30 · ·"),
        (20, "✓ ✓ ▶ · ·"),
        (10, "✓ ✓ ▶ · ·"),
        (1, ""),
    ],
)
def test_what_is_said_at_each_width(width, line):
    assert drawn(RUN, width) == line


def test_the_longest_times_stay_where_not_all_have_room():
    cells = [
        StageCell("load", "cached", None),
        StageCell("text", "done", 0.04),
        StageCell("denoise", "done", 12.1),
        StageCell("decode", "done", 0.48),
        StageCell("mux", "done", 0.03),
    ]
    line = "✓ load │ ✓ text 40 ms │ ✓ denoise 12.1 s │ ✓ decode 480 ms │ ✓ mux 30 ms"
    assert drawn(cells, 76) == line
    line = "✓ load │ ✓ text │ ✓ denoise 12.1 s │ ✓ decode 480 ms │ ✓ mux"
    assert drawn(cells, 62) == line
    assert drawn(cells, 55) == "✓ load │ ✓ text │ ✓ denoise 12.1 s │ ✓ decode │ ✓ mux"
    assert drawn(cells, 48) == "✓ load │ ✓ text │ ✓ denoise │ ✓ decode │ ✓ mux"


def test_states_differ_without_colour():
    states = ("todo", "running", "done", "cached", "skipped", "failed")
    line = drawn([StageCell("s", state, None) for state in states], 80)
    assert line == "· s │ ▶ s │ ✓ s │ ✓ s cached │ – s skipped │ ✖ s failed"


def test_the_reason_of_a_failure_is_kept_longest():
    cells = [StageCell("load", "done", 1.0), StageCell("decode", "failed", 3.0, "no memory")]
    assert drawn(cells, 30) == "✓ load │ ✖ decode no memory"
    assert drawn(cells, 24) == "✓ │ ✖ decode no memory"
    assert drawn(cells, 15) == "✓ ✖"


def test_odd_names_do_no_harm():
    line = drawn([StageCell("a\x1b[31m\n星", "done", 0.0)], 40)
    assert line == "✓ a\\x1b[31m 星 0.0 ms"
    assert drawn([], 10) == ""
