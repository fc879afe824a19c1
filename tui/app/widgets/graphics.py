"""Real pixels where the terminal can draw them: Kitty graphics or Sixel, by the textual-image extra.

That package asks the terminal what it can do while it is imported, and reads the answer from the
keyboard's stream. So it is imported before the app runs, or never, and only where the environment
promises an answer: a terminal that gives none costs half a second and perhaps a key press.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from textual.widget import Widget

Choice = Literal["auto", "half", "off"]

_TERMS = ("xterm-kitty", "xterm-ghostty", "foot", "foot-extra", "contour")
_PROGRAMS = ("WezTerm", "ghostty", "iTerm.app", "rio")
_VARIABLES = ("KITTY_WINDOW_ID", "KONSOLE_VERSION", "WEZTERM_PANE", "GHOSTTY_RESOURCES_DIR")
# multiplexers pass neither graphics nor questions on; over SSH one picture is some 400 kB
_OBSTACLES = ("TMUX", "STY", "ZELLIJ", "SSH_CONNECTION", "SSH_TTY", "NO_COLOR")


def wanted_graphics(environ: Mapping[str, str], *, is_tty: bool, choice: Choice) -> bool:
    """Whether to ask the terminal for graphics at all; `is_tty` of both input and output.

    Only `auto` asks, and only a terminal known for graphics that nothing stands in front of:
    no multiplexer, no SSH, no browser (modiff web), no wish for no colour.
    """
    if choice != "auto" or not is_tty or any(name in environ for name in _OBSTACLES):
        return False
    if environ.get("TERM_PROGRAM") in ("textual", "tmux") or environ.get("TEXTUAL_DRIVER"):
        return False
    term = environ.get("TERM", "")
    if term.partition("-")[0] in ("tmux", "screen", "dumb", "linux"):
        return False
    return (
        term in _TERMS
        or environ.get("TERM_PROGRAM") in _PROGRAMS
        or any(environ.get(name) for name in _VARIABLES)
    )


@dataclass(frozen=True)
class ImageMaker:
    """Makes widgets that show pixels by `kind`; a cell has `cell_width` by `cell_height` pixels."""

    kind: Literal["kitty", "sixel"]
    widget_type: type[Widget]
    cell_width: int
    cell_height: int

    @property
    def cell_aspect(self) -> float:
        """Height of a cell over its width."""
        return self.cell_height / self.cell_width

    def make(self) -> Widget:
        """An empty image; it is as large as its styles say."""
        return self.widget_type()

    def paint(self, widget: Widget, pixels: bytes, width: int, height: int) -> None:
        """Show one frame, uint8 RGB row by row, on a widget that `make` made."""
        from PIL import Image

        image: Any = widget
        image.image = Image.frombytes("RGB", (width, height), pixels)


def load_graphics() -> ImageMaker | None:
    """Ask the terminal, which takes up to half a second: before the app runs, in the main thread.

    None where it can draw no pixels, or where the extra is not installed.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the terminal can be asked for graphics in the main thread only")
    try:
        renderable = importlib.import_module("textual_image.renderable")
        kinds: dict[Any, Literal["kitty", "sixel"]] = {
            renderable.TGPImage: "kitty",
            renderable.SixelImage: "sixel",
        }
        kind = kinds.get(renderable.Image)
        if kind is None:
            return None
        widget = importlib.import_module("textual_image.widget")
        cell = widget.get_cell_size()
        return ImageMaker(kind, widget.Image, int(cell.width), int(cell.height))
    except Exception:  # noqa: BLE001  # pictures of an extra never keep the app from starting
        return None
