"""The file of one of the user's presets, edited in place and checked as one types."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static, TextArea

from presets.errors import PresetError
from presets.library import files
from presets.library.problems import preset_problems
from tui.app.asking import asks
from tui.app.base import ModiffBase
from tui.app.compose.draft import line_of
from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.binding import BindingType


# After the last key, before the text is checked.
CHECK_SECONDS = 0.15


class PresetFile(Dialog[bool]):
    """Ends with whether it was saved."""

    app = getters.app(ModiffBase)

    DEFAULT_CSS = """
    PresetFile > .box { height: 90%; width: 100; }
    PresetFile TextArea { height: 1fr; }
    PresetFile #state { height: auto; max-height: 6; margin-top: 1; color: $text-success; }
    PresetFile #state.error { color: $text-error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="file.save"),
        Binding("escape", "dismiss(False)", "Leave", id="file.leave"),
    ]

    def __init__(self, path: Path, text: str, key: str) -> None:
        """key: where the cursor begins, empty for the first line."""
        super().__init__()
        self._path, self._text, self._key = path, text, key

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = Content(printable(str(self._path)))
            box.border_subtitle = "ctrl+s saves, esc leaves"
            yield TextArea(self._text, show_line_numbers=True, compact=True)
            yield Static("", id="state", markup=False)

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.focus()
        area.move_cursor((line_of(self._text, self._key), 0))
        self._check(self._text)

    def on_text_area_changed(self) -> None:
        self._check(self.query_one(TextArea).text)

    @asks(exclusive=True)
    async def _check(self, text: str) -> None:
        await asyncio.sleep(CHECK_SECONDS)
        found = await asyncio.to_thread(preset_problems, self._path, text=text)
        # the file is named in the title
        told = [f"✖ {str(error).removesuffix(f' (in {self._path})')}" for error in found]
        self._tell(*(told or ["✓ a valid preset"]), is_error=bool(told))

    def _tell(self, *lines: str, is_error: bool) -> None:
        state = self.query_one("#state", Static)
        state.update("\n".join(map(printable, lines)))
        state.set_class(is_error, "error")

    @asks(group="save")  # apart from the checks, of which each ends the one before
    async def action_save(self) -> None:
        """Also what is not valid yet: it can be mended in steps."""
        try:
            text = self.query_one(TextArea).text
            await asyncio.to_thread(files.write_preset_text, self._path, text, expected=self._text)
        except PresetError as error:
            self._tell(f"✖ {error}", is_error=True)
        else:
            self.dismiss(True)
