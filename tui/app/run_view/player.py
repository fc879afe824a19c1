"""Plays a run's video in the terminal, over any screen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Label

from tui.app import desktop
from tui.app.asking import asks, told
from tui.app.base import ModiffBase
from tui.app.dialogs.base import Dialog
from tui.app.widgets.picture import Picture
from tui.describe.runs.of_file import video_path
from tui.describe.runs.previews import video_fps
from tui.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from engine.compare.frames import Frame
    from store.lineage.records import RunRecord

# What a player holds at most: a minute of frames of the size of a large terminal.
MAX_BYTES = 64 << 20
# Frames are drawn so often at most; the ones between are passed over, so that the video keeps its time.
DRAWN_PER_SECOND = 12.0
REMOTE_DRAWN_PER_SECOND = 4.0
_IMAGE_SECONDS = 0.1
_MAX_IMAGE_PIXELS = (640, 640)


@dataclass(frozen=True, slots=True)
class Still:
    """One frame of a video, uint8 RGB."""

    height: int
    width: int
    pixels: bytes
    num_frames: int = 1


class Player(Dialog[None]):
    """Plays a file again and again in its own time while its frames come in; space stops it, left and right go frame by
    frame. What is more than a player may hold is left out, and that is told."""

    app = getters.app(ModiffBase)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "hold", "Stop, go on", id="player.hold"),
        Binding("left,h", "move(-1)", "Frame back", id="player.back"),
        Binding("right,l", "move(1)", "Frame on", id="player.on"),
        Binding("home", "jump(0)", "First frame", id="player.first", show=False),
        Binding("end", "jump(-1)", "Last frame", id="player.last", show=False),
        Binding("escape,q,v", "dismiss", "Close", id="app.back"),
    ]
    CSS = """
    Player.dialog > .box { width: 100%; height: 100%; max-width: 100%; max-height: 100%; padding: 0; }
    Player #told { height: 1; width: 1fr; text-align: center; color: $text-muted; }
    """

    def __init__(self, path: Path, title: str, fps: float) -> None:
        """path: of the video. title: untrusted."""
        super().__init__()
        self._path, self._title, self._fps = path, title, fps
        self._frames: list[Frame] = []
        self._num_bytes = 0
        self._index = 0
        self._begun: float | None = (
            None  # when frame 0 was shown, or would have been; None before it
        )
        self._is_playing = True
        self._is_whole = self._is_cut = self._is_left = False

    def compose(self) -> ComposeResult:
        graphics = self.app.graphics
        if graphics is not None and graphics.kind == "sixel":
            graphics = None  # its pictures flicker when replaced
        with Vertical(classes="box") as box:
            box.border_title = Content(printable(self._title))
            box.border_subtitle = "space stops, ← and → go frame by frame, esc closes"
            yield Picture(graphics=graphics, image_seconds=_IMAGE_SECONDS)
            yield Label("reading …", id="told", markup=False)

    def on_mount(self) -> None:
        rate = REMOTE_DRAWN_PER_SECOND if self.app.is_remote else DRAWN_PER_SECOND
        self.set_interval(1 / min(rate, self._fps), self._advance)
        self.call_after_refresh(self._read)

    def on_unmount(self) -> None:
        self._is_left = True

    @asks(exclusive=True)
    async def _read(self) -> None:
        if await told(self, self.app.lab.read_video(self._path, self._room(), self._take)):
            self._is_whole = True
            self._show()
        else:
            self.dismiss()

    def _room(self) -> tuple[int, int]:
        """Columns and rows of pixels that frames are to fit into."""
        size = self.query_one(Picture).size
        graphics = self.app.graphics
        if graphics is None or graphics.kind == "sixel":
            return max(1, size.width), max(1, 2 * size.height)
        return (
            min(_MAX_IMAGE_PIXELS[0], size.width * graphics.cell_width),
            min(_MAX_IMAGE_PIXELS[1], size.height * graphics.cell_height),
        )

    def _take(self, frame: Frame) -> bool:
        """Whether more is wanted. Called in the thread that reads."""
        if self._is_left:
            return False
        self._num_bytes += len(frame.pixels)
        if self._num_bytes > MAX_BYTES:
            self._is_cut = True
            return False
        self._frames.append(frame)
        return True

    # Time

    def _advance(self) -> None:
        """Show the frame whose time it is; where that has not come in yet, the last one that has."""
        if not (self._frames and self._is_playing):
            return
        if self._begun is None:
            self._begun = monotonic() - self._index / self._fps
        due = int((monotonic() - self._begun) * self._fps)
        self._go_to(due % len(self._frames) if self._is_whole else min(due, len(self._frames) - 1))

    def _go_to(self, index: int) -> None:
        self._index = index
        self._show()

    def _show(self) -> None:
        if not self._frames:
            return
        frame = self._frames[self._index]
        self.query_one(Picture).show(Still(frame.height, frame.width, frame.pixels))
        self.query_one("#told", Label).update(self._told())

    def _told(self) -> str:
        count = len(self._frames)
        told = f"frame {self._index + 1} of {count}"
        if self._is_cut:
            return f"{told}, the first of them: there are more"
        return told if self._is_whole else f"{told} so far"

    def action_hold(self) -> None:
        """Stop at a frame, or go on from it."""
        self._is_playing, self._begun = not self._is_playing, None

    def action_move(self, by: int) -> None:
        """Stop, and show another frame."""
        self._is_playing = False
        if self._frames:
            self._go_to((self._index + by) % len(self._frames))

    def action_jump(self, index: int) -> None:
        """Stop at an end."""
        self._is_playing = False
        if self._frames:
            self._go_to(index % len(self._frames))


async def play(app: ModiffBase, record: RunRecord) -> bool:
    """Play a run's video in the terminal: its file, or what the store has of it; whether there was either."""
    with app.opening():
        path = await app.lab.read(video_path, record.id)
    if path is None:
        return False
    app.push_screen(Player(path, record.output or record.id, video_fps(record.spec_json)))
    return True


async def play_or_tell(app: ModiffBase, record: RunRecord) -> None:
    """Play it, or say why not."""
    if not await play(app, record):
        app.notify(
            "the file is gone and the store has no video of it; `modiff replay` makes it again",
            title=printable(record.output),
            severity="warning",
            timeout=12,
            markup=False,
        )


async def open_or_play(app: ModiffBase, record: RunRecord) -> None:
    """Open a run's file in the desktop's player; where there is none, play it here, else tell where the file is."""
    try:
        await asyncio.to_thread(desktop.open_file, record.output)
    except desktop.CannotOpen as reason:
        if not await play(app, record):
            app.notify(
                printable(record.output),
                title=printable(str(reason)),
                timeout=12,
                markup=False,
            )
