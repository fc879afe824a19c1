"""The plot: what is on its lines, at any size and for any numbers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
from textual.app import App, ComposeResult

from tui.app.widgets.axes import exact_axis, number, round_axis
from tui.app.widgets.braille import Canvas, sample
from tui.app.widgets.plot import Plot, Series
from tui.units import size

XS = tuple(float(x) for x in range(1, 31))
FALLING = Series("sigma", XS, tuple(1 - x / 30 for x in XS))


def drawn(show: Callable[[Plot], None], size: tuple[int, int] = (60, 12), **options) -> list[str]:
    class PlotApp(App[None]):
        def compose(self) -> ComposeResult:
            yield Plot(**options)

    async def run() -> list[str]:
        app = PlotApp()
        async with app.run_test(size=size) as pilot:
            plot = app.query_one(Plot)
            show(plot)
            await pilot.pause()
            return [plot.render_line(y).text for y in range(plot.size.height)]

    return asyncio.run(run())


def dots(lines: list[str]) -> str:
    return "".join(c for c in "".join(lines) if 0x2800 < ord(c) <= 0x28FF)


def test_a_line_with_axes_legend_and_marker():
    lines = drawn(lambda plot: plot.show([FALLING], marker=15, y_range=(0, 1)))
    assert len(lines) == 12
    assert all(len(line) == 60 for line in lines)
    assert "sigma 0" in lines[0]
    assert lines[1].startswith("  1┤")
    assert lines[10].startswith("  0┤")
    assert [line[:4] for line in lines if line.startswith("0.5")] == ["0.5┤"]
    assert lines[11].split() == ["1", "30"]
    column = next(line.index("●") for line in lines if "●" in line)
    assert "".join(lines).count("●") == 1
    assert all(line[column] in "│●" or dots([line[column]]) for line in lines[1:11])
    assert abs(column - 4 - 56 * 14 / 29) <= 1


def test_the_line_falls_from_the_top_left_to_the_bottom_right():
    lines = drawn(lambda plot: plot.show([FALLING]))[1:-1]
    firsts = [next(i for i, c in enumerate(line[4:]) if dots([c])) for line in lines]
    assert firsts == sorted(firsts)
    assert firsts[0] == 0
    assert dots([lines[-1][-1]])


def test_series_are_told_apart_without_colour():
    assert len({sample(0), sample(1), sample(2)}) == 3
    three = [Series(name, XS, tuple(value for _ in XS)) for value, name in enumerate("abc")]
    lines = drawn(lambda plot: plot.show(three, y_range=(0, 2)))
    assert [f"{sample(i)} {name} {i}" in lines[0] for i, name in enumerate("abc")] == [True] * 3
    rows = [line for line in lines if dots([line]) and "abc"[0] not in line]
    assert len({"".join(sorted(set(line[4:].rstrip()))) for line in rows}) == 3


@pytest.mark.parametrize(
    ("width", "legend"),
    [
        (60, "⠒⠒⠒⠒ std 0.4  ⠒⠒⠂  mean 0.188  ⠂ ⠂  |Δ| 0.424"),
        (44, "⠒⠒⠒ std 0.4  ⠒⠒⠂ mean 0.188  ⠂ ⠂ |Δ| 0.424"),
        (30, "⠒⠒⠒ std  ⠒⠒⠂ mean  ⠂ ⠂ |Δ|"),
        (20, "std  mean  |Δ|"),
        (11, "s…  m…  |…"),
    ],
)
def test_the_legend_says_what_fits(width, legend):
    values = {"std": 0.4, "mean": 0.188, "|Δ|": 0.424}
    three = [Series(name, (1, 2), (0, value)) for name, value in values.items()]
    assert drawn(lambda plot: plot.show(three), (width, 8))[0].rstrip() == legend


def test_a_fourth_series_is_left_out():
    lines = drawn(lambda plot: plot.show([Series(n, (1, 2), (1, 2)) for n in "abcd"]))
    assert "c 2" in lines[0]
    assert "d 2" not in lines[0]


@pytest.mark.parametrize(
    "series",
    [[], [Series("a", (), ())], [Series("a", (1.0, 2.0), (math.nan, math.inf))]],
    ids=["none", "empty", "not finite"],
)
def test_no_points(series):
    lines = drawn(lambda plot: plot.show(series), empty="nothing here")
    assert "".join(lines).strip() == "nothing here"
    assert lines[5].index("nothing") == 24


@pytest.mark.parametrize(
    "series",
    [
        Series("a", (3.0,), (7.0,)),
        Series("a", (1.0, 2.0, 3.0), (5.0, 5.0, 5.0)),
        Series("a", (1.0, 1.0), (0.0, 0.0)),
        Series("a", (0.0, 1.0, 2.0), (-1.7e308, 0.0, 1.7e308)),
        Series("a", (0.0, 1.0), (5e-324, 1e-323)),
        Series("a", (0.0, math.nan, 2.0), (1.0, 2.0, 3.0)),
        Series("a", (2.0, 1.0, 3.0), (1.0, 2.0, 3.0)),
        Series("a", (1.0, 2.0, 3.0), (1.0,)),
    ],
)
def test_odd_numbers_are_drawn(series):
    lines = drawn(lambda plot: plot.show([series], marker=2))
    assert dots(lines[1:]) or "●" in "".join(lines)


def test_gaps_are_gaps():
    ys = tuple(math.nan if 10 <= x <= 20 else 0.5 for x in XS)
    lines = drawn(lambda plot: plot.show([Series("a", XS, ys)], y_range=(0, 1)))
    row = next(line for line in lines[1:] if dots([line]))[4:]
    assert len(row.split()) == 2
    assert "a 0.5" in lines[0]


def test_the_legend_says_when_the_last_value_is_not_finite():
    lines = drawn(lambda plot: plot.show([Series("a", (1, 2, 3), (1, 2, math.nan))]))
    assert "a nan" in lines[0]


def test_values_in_other_units():
    lines = drawn(
        lambda plot: plot.show([Series("vram", (0, 1), (3 << 30, 9 << 30))]),
        y_format=lambda value: f"{value / (1 << 30):.0f} GiB",
        binary_ticks=True,
    )
    assert "vram 9 GiB" in lines[0]
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == [
        "10 GiB",
        "6 GiB",
        "2 GiB",
    ]


def test_any_size():
    three = [Series(f"series {i} ⭐星", XS, tuple(x * i for x in XS)) for i in range(3)]
    sizes = [(width, height) for width in (1, 2, 5, 11, 12, 30) for height in range(1, 6)]

    def check(plot: Plot) -> None:
        for series in (three, three[:1], []):
            plot.show(series, marker=3)
            for width, height in sizes:
                lines = plot.draw(width, height)
                assert [line.cell_length for line in lines] == [width] * height

    drawn(check)


def test_more_points_than_columns_keep_their_peaks():
    ys = tuple(1.0 if x == 777 else 0.0 for x in range(1000))
    series = Series("peak", tuple(map(float, range(1000))), ys)
    lines = drawn(lambda plot: plot.show([series]))
    assert dots([lines[1]])


def test_equal_content_is_not_drawn_again():
    class Counting(Plot):
        drawings = 0

        def draw(self, width, height):
            self.drawings += 1
            return super().draw(width, height)

    class PlotApp(App[None]):
        def compose(self) -> ComposeResult:
            yield Counting()

    async def run() -> list[int]:
        async with PlotApp().run_test() as pilot:
            plot = pilot.app.query_one(Counting)
            counts = []
            for series in ([FALLING], [Series("sigma", XS, FALLING.ys)], []):
                plot.show(series)
                await pilot.pause()
                counts.append(plot.drawings)
            return counts

    first, second, third = asyncio.run(run())
    assert (second, third) == (first, first + 1)


def test_axes_end_at_round_numbers():
    assert round_axis(0.03, 0.98).ticks == (0, 0.5, 1)
    assert round_axis(-3, 40).ticks == (-20, 40)
    assert round_axis(3, 9, binary=True).ticks == (2, 6, 10)
    assert exact_axis(1, 31).ticks == (1, 16, 31)
    for low, high in [(0, 0), (5, 5), (-1e308, 1e308), (1e-320, 2e-320), (1e300, 1e300)]:
        axis = round_axis(low, high)
        assert axis.low < axis.high
        assert 2 <= len(axis.ticks) <= 3


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (462 << 20, (462 << 20) + 5000),
        (462 << 20, 463 << 20),
        (1 << 30, (1 << 30) + 1),
        (9e9, 9.01e9),
    ],
)
def test_the_ticks_of_sizes_are_told_apart(low, high):
    ticks = round_axis(low, high, binary=True).ticks
    assert len({size(int(tick)) for tick in ticks}) == len(ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (12, "12"),
        (-0.0031, "-0.0031"),
        (1234.5, "1234"),
        (0.742, "0.742"),
        (3e-5, "3e-05"),
        (1.25e6, "1.2e+06"),
        (100, "100"),
        (-2e10, "-2e+10"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_a_canvas_joins_points_without_holes():
    canvas = Canvas(10, 4)
    canvas.line([(0, 0), (1, 1)], 0)
    assert all(text.strip() for row in range(4) for text, owner in canvas.runs(row) if owner == 0)
    assert sum(bits.bit_count() for row in canvas._dots for bits in row) >= 20


def test_sizes_that_hardly_differ_look_so():
    mib = 1 << 20
    axis = round_axis(459 * mib, 460 * mib, binary=True)
    assert axis.high - axis.low >= 460 * mib / 8
    assert axis.low <= 459 * mib < 460 * mib <= axis.high
    # what does differ has the axis to itself
    assert round_axis(2 << 30, 40 << 30, binary=True).low == 0
