"""Saving the settings of the form as a preset of one's own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Static

from presets.errors import PresetError
from presets.library.saving import save_from
from tui.app.asking import asks
from tui.app.base import ModiffBase
from tui.app.dialogs.base import Dialog
from tui.app.form_words import form_words
from tui.app.widgets.choice_line import ChoiceLine
from tui.text import printable

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from presets.spec.run import RunSpec


class SavePreset(Dialog[Path | None]):
    """Ends with the path of what was saved, or None."""

    app = getters.app(ModiffBase)

    DEFAULT_CSS = """
    SavePreset Input, SavePreset ChoiceLine { margin-bottom: 1; }
    SavePreset Input { background: $foreground 8%; }
    SavePreset #wrong { color: $text-error; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", id="preset.save"),
        Binding("escape", "dismiss(None)", "Leave", id="preset.leave"),
    ]

    def __init__(self, spec: RunSpec, parent: str, name: str, description: str) -> None:
        """parent: the preset that the settings started from. name, description: to begin with; a description is
        kept where it is left as it is."""
        super().__init__()
        self._spec, self._made_from = spec, parent
        self._first_name, self._description = name, description

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = "save as preset"
            box.border_subtitle = "enter saves, esc leaves"
            yield Static("name: letters, digits, '.', '_', '+' and '-'")
            yield Input(self._first_name, id="name", compact=True, select_on_focus=False)
            yield Static("description: one line for lists")
            yield Input(self._description, id="description", compact=True, select_on_focus=False)
            yield Static("replace a preset of that name")
            yield ChoiceLine(("no", "yes"), ("no",))
            yield Static(self._about(), id="about", markup=False)
            yield Static("", id="wrong", markup=False)

    def _about(self) -> str:
        if self._made_from and not self._made_from.endswith(".toml"):
            return f"Only what differs from {printable(self._made_from)} is written; it follows the rest."
        return "All settings are written."

    def on_input_submitted(self) -> None:
        self.action_save()

    def action_save(self) -> None:
        self._save(self.query_one("#name", Input).value.strip())

    @asks(exclusive=True)
    async def _save(self, name: str) -> None:
        try:
            path = await asyncio.to_thread(
                save_from,
                name,
                self._spec,
                parent=self._made_from,
                description=self.query_one("#description", Input).value,
                overwrite=self.query_one(ChoiceLine).chosen == ("yes",),
            )
        except PresetError as error:
            self.query_one("#wrong", Static).update(f"✖ {form_words(str(error))}")
        else:
            self.dismiss(path)
