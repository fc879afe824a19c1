"""A moving picture from raw frames: half blocks everywhere, real pixels where there is a maker."""

from __future__ import annotations

from time import monotonic
from typing import ClassVar, Protocol

from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from tui.app.widgets.drawn import Drawn
from tui.app.widgets.graphics import ImageMaker
from tui.app.widgets.halfblocks import fitted, half_blocks, scaled

STEP_FPS = 6.0
"""Frames of a step stand for several of the video each; nobody knows their time."""
_IMAGE_SECONDS = 0.5
"""Least time between two images of real pixels: each is some hundred kB for the terminal."""
_PLAY_SECONDS = 20.0
"""Each frame costs the terminal and its machine, also when nobody looks any more."""


class Frames(Protocol):
    """uint8 RGB pixels, frame by frame, each row by row."""

    @property
    def num_frames(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def pixels(self) -> bytes: ...


class Picture(Drawn):
    """Loops frames at `fps` (0: the middle one stands still) for some seconds once somebody can see it.

    Never larger than the widget, in the middle of it, with its aspect kept. The caption is the last line, where there
    are four or more; without frames it is all there is. One that follows another has no time of its own.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"picture--caption"}
    DEFAULT_CSS = """
    Picture { width: 1fr; height: 1fr; min-height: 1; align: center middle; }
    Picture > .picture--caption { color: $foreground-muted; }
    """

    fps: reactive[float] = reactive(STEP_FPS, repaint=False)

    def __init__(
        self,
        *,
        fps: float = STEP_FPS,
        graphics: ImageMaker | None = None,
        image_seconds: float = _IMAGE_SECONDS,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self.set_reactive(Picture.fps, fps)
        self._graphics = graphics
        self._image_seconds = image_seconds
        self._frames: Frames | None = None
        self._caption = ""
        self._index = 0
        self._is_shown = False
        self._timer: Timer | None = None
        self._rests_at = 0.0
        self._lead: Picture | None = None
        self._followers: list[Picture] = []
        self._drawings: dict[int, list[Strip]] = {}  # by frame, for `_drawn_for`
        self._drawn_for: tuple[int, int] = (0, 0)
        self._image: Widget | None = None
        self._image_cells = (0, 0)
        self._image_timer: Timer | None = None
        self._painted_at = 0.0

    def show(self, frames: Frames | None, caption: str = "") -> None:
        """Show these frames instead of the present ones; a loop goes on where it is."""
        if frames is self._frames and caption == self._caption:
            return
        if frames is not self._frames:
            self._frames = frames
            self._drawings.clear()
            self._index = self._first_index()
            self._begin()
        self._caption = caption
        self.redraw()
        self._show_image()

    def follow(self, lead: Picture) -> None:
        """From now on go from frame to frame with another picture, as far in these frames as that is in its own."""
        self._lead = lead
        lead._followers.append(self)
        self._settle()

    @property
    def is_moving(self) -> bool:
        """Whether a timer runs: there are frames to loop through and they can be seen."""
        return self._timer is not None

    @property
    def _uses_image(self) -> bool:
        return self._graphics is not None and not self.app.no_color

    def _rate(self) -> float:
        """Frames per second, 0 for none. Sixel stands still: its pictures flicker when replaced."""
        if self._frames is None or self._frames.num_frames < 2 or self.fps <= 0:
            return 0.0
        if self._uses_image and self._graphics is not None:
            return min(self.fps, 1 / self._image_seconds) if self._graphics.kind == "kitty" else 0.0
        return self.fps

    def _first_index(self) -> int:
        """The frame to begin with, the middle one for a still."""
        if self._frames is None:
            return 0
        num_frames = max(1, self._frames.num_frames)
        return self._index % num_frames if self._rate() else num_frames // 2

    # When it may move

    def on_mount(self) -> None:
        self.app.screen_change_signal.subscribe(self, self._on_screen_change)

    def on_show(self) -> None:
        self._is_shown = True
        self._begin()
        self._show_image()

    def on_hide(self) -> None:
        self._is_shown = False
        self._settle()

    def _on_screen_change(self, _screen: Screen[object]) -> None:
        self._begin()
        self._show_image()

    def watch_fps(self) -> None:
        self._settle(restart=True)

    def _is_visible(self) -> bool:
        return self._is_shown and self.is_attached and self.screen.is_active

    def _begin(self) -> None:
        """Play from now on, for as long as pictures are looked at."""
        self._rests_at = monotonic() + _PLAY_SECONDS
        self._settle()

    def _settle(self, *, restart: bool = False) -> None:
        """Run a timer if there is something to move and somebody to see it, else none."""
        is_wanted = self._is_visible() and not self._is_led and monotonic() < self._rests_at
        rate = self._rate() if is_wanted else 0.0
        if self._timer is not None and (restart or not rate):
            self._timer.stop()
            self._timer = None
        if rate and self._timer is None:
            self._timer = self.set_interval(1 / rate, self._advance)
        for follower in self._followers:
            follower._settle()

    @property
    def _is_led(self) -> bool:
        """Whether another picture says which frame it is; one that moves, else nobody would."""
        return self._lead is not None and self._lead.is_moving

    def _advance(self) -> None:
        if self._frames is None:
            return
        self._go_to((self._index + 1) % self._frames.num_frames)
        for follower in self._followers:
            if follower._frames is not None:
                follower._go_to(
                    self._index * follower._frames.num_frames // self._frames.num_frames
                )
        if monotonic() >= self._rests_at:
            self._settle()

    def _go_to(self, index: int) -> None:
        if index == self._index or not self.is_in_view:
            return
        self._index = index
        if self._uses_image:
            self._show_image()
        else:
            self.redraw()

    # Half blocks

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._drawings.clear()

    def draw(self, width: int, height: int) -> list[Strip]:
        frames = self._frames
        if frames is None or min(frames.num_frames, frames.width, frames.height) < 1:
            return self.centred(self._caption, self.styled("picture--caption"), width, height)
        if self._uses_image:
            lines = [Strip.blank(width, self.plain)] * self._rows(height)
        else:
            lines = self._drawing(frames, width, self._rows(height))
        if len(lines) < height:
            caption = self.centred(self._caption, self.styled("picture--caption"), width, 1)
            return [*lines, *caption]
        return lines

    def _rows(self, height: int) -> int:
        """Rows for the picture, of `height`."""
        return height - 1 if self._caption and height >= 4 else height

    def _drawing(self, frames: Frames, width: int, rows: int) -> list[Strip]:
        """The lines of the present frame, drawn once for each size."""
        if self._drawn_for != (width, rows):
            self._drawn_for = (width, rows)
            self._drawings.clear()
        if self._index not in self._drawings:
            lines = frame_lines(frames, self._index, width, rows, self.plain)
            self._drawings[self._index] = lines
        return self._drawings[self._index]

    # Real pixels

    def on_resize(self) -> None:
        self._place_image()

    def _show_image(self) -> None:
        """Paint the present frame with real pixels: now, or when enough time has passed."""
        if not self._uses_image or not self._is_visible():
            return
        wait = self._painted_at + self._image_seconds - monotonic()
        if wait <= 0.05:
            self._paint_image()
        elif self._image_timer is None:
            self._image_timer = self.set_timer(wait, self._paint_image)

    def _paint_image(self) -> None:
        if self._image_timer is not None:
            self._image_timer.stop()
            self._image_timer = None
        maker, frames = self._graphics, self._frames
        if maker is None or not self._is_visible():
            return
        if self._image is None and frames is not None:
            self._image = maker.make()
            self.mount(self._image)
        if self._image is None:
            return
        self._image.display = frames is not None
        if frames is not None:
            self._place_image()
            pixels = _frame(frames, self._index)
            maker.paint(self._image, bytes(pixels), frames.width, frames.height)
        self._painted_at = monotonic()

    def _place_image(self) -> None:
        """Give the image the most cells that it can have with its aspect kept."""
        if self._image is None or self._frames is None or self._graphics is None or not self.size:
            return
        columns, rows = fitted(
            self._frames.width,
            self._frames.height,
            self.size.width,
            self._rows(self.size.height),
            cell_aspect=self._graphics.cell_aspect,
        )
        if self._image_cells != (columns, rows):
            self._image_cells = columns, rows
            self._image.styles.width, self._image.styles.height = columns, rows


def _frame(frames: Frames, index: int) -> memoryview:
    """The pixels of one frame."""
    num_bytes = 3 * frames.width * frames.height
    return memoryview(frames.pixels)[num_bytes * index : num_bytes * (index + 1)]


def frame_lines(frames: Frames, index: int, width: int, rows: int, plain: Style) -> list[Strip]:
    """One frame as `rows` lines of `width` cells, in the middle of them with its aspect kept. plain: what is around
    it."""
    columns, lines = fitted(frames.width, frames.height, width, rows)
    small = scaled(_frame(frames, index), frames.width, frames.height, columns, 2 * lines)
    left, top = (width - columns) // 2, (rows - lines) // 2
    before = Segment(" " * left, plain)
    after = Segment(" " * (width - columns - left), plain)
    blank = Strip.blank(width, plain)
    middle = [Strip([before, *line, after], width) for line in half_blocks(small, columns)]
    return [blank] * top + middle + [blank] * (rows - lines - top)
