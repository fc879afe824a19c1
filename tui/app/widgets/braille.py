"""Lines of dots: a canvas of braille cells, each two dots wide and four high."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

# bits of the dots in one cell, by column and by row from the top (Unicode's braille patterns)
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
# a cell as its character; an empty one is a blank, which copies and searches better
_CHARACTERS = {bits: chr(0x2800 + bits) if bits else " " for bits in range(256)}
# which of eight neighbouring columns of dots each series draws: whole, dashed, dotted. The pattern
# tells the series apart where there is no colour
_PATTERNS = ((1, 1, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0))


class Canvas:
    """`columns` by `rows` cells, each with its dots and the series that drew there last."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._dots = [bytearray(columns) for _ in range(rows)]
        self._owners = [bytearray(columns) for _ in range(rows)]

    @property
    def width(self) -> int:
        """In dots."""
        return 2 * self.columns

    @property
    def height(self) -> int:
        """In dots."""
        return 4 * self.rows

    def line(self, points: Iterable[tuple[float, float] | None], series: int) -> None:
        """Draw through `points` (each 0..1 from left and from bottom) in the pattern of `series`.

        None is a gap, and so is a point outside. Points must ascend. Many points in one column of
        dots become one stroke from their least to their greatest, so the cost is that of the width.
        """
        right, bottom = self.width - 1, self.height - 1
        strokes: list[list[int] | None] = []
        last: list[int] | None = None
        for point in points:
            if point is None or not (0 <= point[0] <= 1 and 0 <= point[1] <= 1):
                if last is not None:
                    strokes.append(None)
                last = None
                continue
            x, y = int(point[0] * right + 0.5), bottom - int(point[1] * bottom + 0.5)
            if last is not None and last[0] == x:
                last[2] = y
                if y < last[3]:
                    last[3] = y
                elif y > last[4]:
                    last[4] = y
            else:
                last = [x, y, y, y, y]  # column, first, last, top, bottom
                strokes.append(last)
        self._draw(strokes, series)

    def _draw(self, strokes: Sequence[list[int] | None], series: int) -> None:
        pattern = _PATTERNS[series % len(_PATTERNS)]
        before: list[int] | None = None
        for position, stroke in enumerate(strokes):
            if stroke is None:
                before = None
                continue
            x, first, _, top, bottom = stroke
            after = strokes[position + 1] if position + 1 < len(strokes) else None
            is_alone = before is None and after is None
            if before is not None:
                self._join(before[0], before[2], x, first, series, pattern)
            if is_alone or pattern[x % 8]:
                self._column(x, top, bottom, series)
            before = stroke

    def _join(
        self, left: int, left_y: int, right: int, right_y: int, series: int, pattern: Sequence[int]
    ) -> None:
        """Dots strictly between two columns, and up to half of the way in each of the two."""
        slope = (right_y - left_y) / (right - left)
        previous = left_y
        for x in range(left, right):
            y = right_y if x + 1 == right else round(left_y + slope * (x + 1 - left))
            middle = (previous + y) // 2
            if pattern[x % 8]:
                self._column(x, min(previous, middle), max(previous, middle), series)
            if pattern[(x + 1) % 8]:
                low, high = (middle + 1, y) if y > previous else (y, max(y, middle))
                if low <= high:
                    self._column(x + 1, low, high, series)
            previous = y

    def _column(self, x: int, top: int, bottom: int, series: int) -> None:
        column, bits = x >> 1, _BITS[x & 1]
        for y in range(top, bottom + 1):
            row = y >> 2
            self._dots[row][column] |= bits[y & 3]
            self._owners[row][column] = series

    def runs(self, row: int) -> list[tuple[str, int | None]]:
        """The texts of one row from left to right with the series of each, None for blanks."""
        text = self._dots[row].decode("latin-1").translate(_CHARACTERS)
        owners = self._owners[row]
        runs: list[tuple[str, int | None]] = []
        start, current = 0, self._owner(row, 0)
        for column in range(1, self.columns):
            owner = owners[column] if text[column] != " " else None
            if owner != current:
                runs.append((text[start:column], current))
                start, current = column, owner
        runs.append((text[start:], current))
        return runs

    def _owner(self, row: int, column: int) -> int | None:
        return self._owners[row][column] if self._dots[row][column] else None


@lru_cache
def sample(series: int, columns: int = 4) -> str:
    """What the pattern of `series` looks like, for a legend: `columns` cells."""
    canvas = Canvas(columns, 1)
    pattern = _PATTERNS[series % len(_PATTERNS)]
    for x in range(canvas.width):
        if pattern[x % 8]:
            canvas._column(x, 1, 1, series)
    return "".join(text for text, _ in canvas.runs(0))
