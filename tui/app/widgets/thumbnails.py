"""Small moving pictures in a grid, each with two lines below it, a mark, and a cursor that goes from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from textual.binding import Binding
from textual.message import Message
from textual.strip import Strip

from tui.app.widgets.drawn import Drawn
from tui.app.widgets.halfblocks import fitted
from tui.app.widgets.picture import frame_lines
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from textual import events
    from textual.binding import BindingType
    from textual.timer import Timer

    from tui.app.widgets.picture import Frames

TEXT_LINES = 2
_GAP = 2  # cells between two tiles, and to their pictures' right
_GAP_LINES = 1
MIN_PICTURE = (16, 6)  # cells; below that a picture tells nothing
MAX_PICTURE = (48, 24)  # cells; above that it costs more to draw than it tells


class Tile(NamedTuple):
    """A picture's place. key: unlike that of every other. title, line: below it, untrusted. mark: one letter or ""."""

    key: str
    title: str
    line: str
    mark: str = ""


class Layout(NamedTuple):
    """columns, rows: how many tiles are seen at once; width, picture_rows: of a tile's picture, in cells."""

    columns: int
    rows: int
    width: int
    picture_rows: int

    @property
    def tile_lines(self) -> int:
        return self.picture_rows + TEXT_LINES + _GAP_LINES


def layout_of(count: int, width: int, height: int, aspect: float) -> Layout:
    """The largest tiles of which all fit; where only too small ones would, as many columns of small ones as fit.

    aspect: width over height of the pictures, in pixels.
    """
    best, best_cells = Layout(1, 1, 1, 1), 0
    for columns in range(1, max(1, count) + 1):
        rows = -(-max(1, count) // columns)
        tile = width // columns - _GAP
        picture_rows = height // rows - TEXT_LINES - _GAP_LINES
        if tile < MIN_PICTURE[0]:
            break
        if picture_rows < MIN_PICTURE[1]:
            continue
        cells = _picture_cells(min(tile, MAX_PICTURE[0]), min(picture_rows, MAX_PICTURE[1]), aspect)
        if cells[0] * cells[1] > best_cells:
            best_cells = cells[0] * cells[1]
            best = Layout(columns, rows, max(cells[0], MIN_PICTURE[0]), cells[1])
    if best_cells:
        return best
    columns = max(1, width // (MIN_PICTURE[0] + _GAP))
    tile = max(1, width // columns - _GAP)
    _, wanted_rows = _picture_cells(tile, max(1, height - TEXT_LINES), aspect)
    below = TEXT_LINES + _GAP_LINES
    rows = max(1, (height + _GAP_LINES) // (min(wanted_rows, MIN_PICTURE[1]) + below))
    picture_rows = min(wanted_rows, (height + _GAP_LINES) // rows - below)
    return Layout(columns, rows, tile, max(1, picture_rows))


def _picture_cells(width: int, rows: int, aspect: float) -> tuple[int, int]:
    return fitted(round(1000 * aspect), 1000, width, rows)


class Thumbnails(Drawn, can_focus=True):
    """Shows the tiles around its cursor; asks for the pictures of those by `Seen`, and keeps no others.

    fps: 0 for stills, the middle frame of each.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "thumbnails--cursor",
        "thumbnails--mark",
        "thumbnails--line",
    }
    DEFAULT_CSS = """
    Thumbnails { width: 1fr; height: 1fr; }
    Thumbnails > .thumbnails--line { color: $foreground-muted; }
    Thumbnails > .thumbnails--mark { color: $text-accent; text-style: bold reverse; }
    Thumbnails > .thumbnails--cursor { text-style: bold underline; }
    Thumbnails:focus > .thumbnails--cursor { text-style: bold reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Tile before", show=False, id="thumbnails.left"),
        Binding("right", "move(1)", "Next tile", show=False, id="thumbnails.right"),
        Binding("up,k", "row(-1)", "Up", show=False, id="thumbnails.up"),
        Binding("down,j", "row(1)", "Down", show=False, id="thumbnails.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="thumbnails.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="thumbnails.page_down"),
        Binding("home", "jump(0)", "First", show=False, id="thumbnails.first"),
        Binding("end", "jump(-1)", "Last tile", show=False, id="thumbnails.last"),
        Binding("enter", "choose", "Open", show=False, id="thumbnails.choose"),
    ]

    class Moved(Message):
        """The cursor is on another tile."""

    class Chosen(Message):
        """Enter, or a second click, on the tile under the cursor."""

    class Seen(Message):
        """Other tiles are seen than before: these, from the first on."""

        def __init__(self, keys: Sequence[str]) -> None:
            super().__init__()
            self.keys = keys

    def __init__(self, *, fps: float = 4.0, id: str | None = None) -> None:
        super().__init__(id=id)
        self._fps = fps
        self._tiles: tuple[Tile, ...] = ()
        self._aspect = 1.0
        self._cursor = 0
        self._first_row = 0
        self._pictures: dict[str, Frames] = {}
        self._drawings: dict[tuple[str, int], list[Strip]] = {}  # of `_drawn_for`, by key and frame
        self._drawn_for: tuple[object, ...] = ()
        self._seen: tuple[str, ...] = ()
        self._frame = 0
        self._timer: Timer | None = None

    @property
    def current(self) -> str:
        """The key of the tile under the cursor, "" for none."""
        return self._tiles[self._cursor].key if self._tiles else ""

    @property
    def keys(self) -> Sequence[str]:
        """The keys of all tiles, in their order."""
        return [tile.key for tile in self._tiles]

    @property
    def seen(self) -> Sequence[str]:
        """The keys of the tiles that are seen."""
        return self._seen

    def show(self, tiles: Sequence[Tile], aspect: float) -> None:
        """Show these tiles; the cursor stays on its own, or at its place where that is gone. aspect: width over
        height of most pictures."""
        if (tuple(tiles), aspect) == (self._tiles, self._aspect):
            return
        before, old = self.current, {tile.key for tile in self._tiles}
        self._tiles, self._aspect = tuple(tiles), aspect
        keys = [tile.key for tile in tiles]
        if before in keys:
            self._cursor = keys.index(before)
        elif old.isdisjoint(keys):
            self._cursor = 0
        else:
            self._cursor = max(0, min(self._cursor, len(keys) - 1))
        self._settle()

    def show_pictures(self, pictures: Mapping[str, Frames]) -> None:
        """The pictures of tiles that are seen; those that were there stay."""
        for key, frames in pictures.items():
            if key in self._seen and self._pictures.get(key) != frames:
                self._pictures[key] = frames
                self._drawings = {at: each for at, each in self._drawings.items() if at[0] != key}
        self.redraw()

    def has_picture(self, key: str) -> bool:
        return key in self._pictures

    def select(self, key: str) -> None:
        """Move the cursor to a tile; to where it is for one that is not there."""
        found = [i for i, tile in enumerate(self._tiles) if tile.key == key]
        if found:
            self._go_to(found[0])

    # Moving

    def action_move(self, by: int) -> None:
        """The tile before or after."""
        self._go_to(self._cursor + by)

    def action_row(self, by: int) -> None:
        """A row up or down; in the last one the last tile."""
        to = self._cursor + by * self._layout.columns
        rows = -(-len(self._tiles) // self._layout.columns)
        if to < 0 or to // self._layout.columns >= rows:
            return
        self._go_to(to)

    def action_page(self, by: int) -> None:
        """As many rows as are seen."""
        self._go_to(self._cursor + by * self._layout.columns * self._layout.rows)

    def action_jump(self, to: int) -> None:
        """To the first tile, or (-1) to the last."""
        self._go_to(to % len(self._tiles) if self._tiles else 0)

    def action_choose(self) -> None:
        """Open the tile under the cursor."""
        if self._tiles:
            self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        layout = self._layout
        column = event.x // (layout.width + _GAP)
        at = (self._first_row + event.y // layout.tile_lines) * layout.columns + column
        if column >= layout.columns or at >= len(self._tiles):
            return
        if at == self._cursor and event.chain > 1:
            self.action_choose()
        else:
            self._go_to(at)

    def on_mouse_scroll_down(self) -> None:
        self.action_row(1)

    def on_mouse_scroll_up(self) -> None:
        self.action_row(-1)

    def _go_to(self, place: int) -> None:
        before = self._cursor
        self._cursor = max(0, min(place, len(self._tiles) - 1))
        if self._cursor != before:
            self.post_message(self.Moved())
            self._settle()

    # What is seen

    @property
    def _layout(self) -> Layout:
        width, height = self.size
        return layout_of(len(self._tiles), max(1, width), max(1, height), self._aspect)

    def on_resize(self) -> None:
        self._settle()

    def on_show(self) -> None:
        self._settle()

    def on_hide(self) -> None:
        self._seen = ()
        self._move_or_rest()

    def _settle(self) -> None:
        """The cursor's row is among those that are seen; what is not seen any more is forgotten."""
        if not self.size:
            return
        layout = self._layout
        row = self._cursor // layout.columns
        last_row = max(0, -(-len(self._tiles) // layout.columns) - layout.rows)
        self._first_row = min(max(row - layout.rows + 1, min(self._first_row, row)), last_row)
        seen = tuple(tile.key for _, _, tile in self._visible(layout))
        if seen != self._seen:
            self._seen = seen
            self._pictures = {key: each for key, each in self._pictures.items() if key in seen}
            self._drawings = {at: each for at, each in self._drawings.items() if at[0] in seen}
            self.post_message(self.Seen(seen))
        self._move_or_rest()
        self.redraw()

    def _visible(self, layout: Layout) -> Iterable[tuple[int, int, Tile]]:
        """(row, column, tile) of those that are seen."""
        first = self._first_row * layout.columns
        for i, tile in enumerate(self._tiles[first : first + layout.columns * layout.rows]):
            yield i // layout.columns, i % layout.columns, tile

    def _move_or_rest(self) -> None:
        is_wanted = bool(self._seen and self._fps > 0)
        if is_wanted and self._timer is None:
            self._timer = self.set_interval(1 / self._fps, self._advance)
        elif not is_wanted and self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _advance(self) -> None:
        if not (self.screen.is_active and self.is_in_view):
            return
        if any(frames.num_frames > 1 for frames in self._pictures.values()):
            self._frame += 1
            self.redraw()

    # Drawing

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawings.clear()

    def draw(self, width: int, height: int) -> list[Strip]:
        layout = self._layout
        rows: dict[int, list[list[Strip]]] = {}
        for row, _, tile in self._visible(layout):
            rows.setdefault(row, []).append(self._tile(tile, layout))
        gap = Strip([Segment(" " * _GAP, self.plain)], _GAP)
        blank = Strip.blank(width, self.plain)
        lines: list[Strip] = []
        for tiles in rows.values():
            for parts in zip(*tiles, strict=True):
                joined = [piece for part in parts for piece in (part, gap)]
                lines.append(Strip.join(joined).adjust_cell_length(width, self.plain))
            lines += [blank] * _GAP_LINES
        return lines[:height]

    def _tile(self, tile: Tile, layout: Layout) -> list[Strip]:
        """Its picture, and its two lines."""
        width = layout.width
        is_current = tile.key == self.current
        title_style = self.styled("thumbnails--cursor") if is_current else self.plain
        title = shorten(printable(tile.title), width - (2 if tile.mark else 0))
        title += " " * (width - (2 if tile.mark else 0) - cell_len(title))
        parts = [(tile.mark, self.styled("thumbnails--mark")), (" ", self.plain)] * bool(tile.mark)
        line = shorten(printable(tile.line), width)
        return [
            *self._picture(tile.key, width, layout.picture_rows),
            self.line([*parts, (title, title_style)], width),
            self.line([(line, self.styled("thumbnails--line"))], width),
        ]

    def _picture(self, key: str, width: int, rows: int) -> list[Strip]:
        frames = self._pictures.get(key)
        if frames is None:
            return self.centred("·", self.styled("thumbnails--line"), width, rows)
        if (width, rows) != self._drawn_for:
            self._drawn_for = (width, rows)
            self._drawings.clear()
        index = self._frame % frames.num_frames if self._fps > 0 else frames.num_frames // 2
        if (key, index) not in self._drawings:
            self._drawings[key, index] = frame_lines(frames, index, width, rows, self.plain)
        return self._drawings[key, index]
