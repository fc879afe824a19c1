"""The section of a form that is a list: items with their settings, to be added, taken out, moved and switched."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding

from presets.fields.keys import parse_key
from presets.fields.listing import item_fields
from presets.spec.run import RunSpec
from tui.app.asking import asks
from tui.app.compose.field_row import DraftEdited, RowEditor
from tui.app.compose.fields_section import FieldsSection
from tui.app.compose.list_edits import added, moved, removed
from tui.app.compose.section_rows import list_of

if TYPE_CHECKING:
    from textual.binding import BindingType


class ListSection(FieldsSection):
    """Of each item a switch with its name, and under it its settings."""

    KEYS = "a adds one, del takes one out, ctrl+↑ ctrl+↓ move it; ← → switch it off and on"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("delete", "remove", "Take out", id="item.remove", show=False),
        Binding("ctrl+up,alt+up", "move(-1)", "Move up", id="item.up", show=False),
        Binding("ctrl+down,alt+down", "move(1)", "Move down", id="item.down", show=False),
    ]

    @asks(group="pick")
    async def add(self) -> None:
        """Pick one of those that are known, and add it at the end."""
        from tui.app.dialogs.picker import Item, Picker

        key = list_of(self.section)
        roles = {field.key: field.role for field in item_fields(RunSpec)}
        names = self.known.get(roles.get(f"{key}[N].name", ""), ())
        picked = await self.app.push_screen_wait(Picker("add", [Item(name) for name in names]))
        if picked is not None:
            self.post_message(
                DraftEdited(
                    lambda draft, checked: added(draft, checked, key, {"name": picked}),
                    focus=f"{key}[-1]",
                )
            )

    def action_remove(self) -> None:
        """Take out the item that the cursor is in."""
        key, index = list_of(self.section), self._index
        if index is not None:
            edit = partial(removed, key=key, index=index)
            self.post_message(DraftEdited(edit, focus=f"{key}[{max(0, index - 1)}]"))

    def action_move(self, by: int) -> None:
        """Move the item that the cursor is in."""
        key, index = list_of(self.section), self._index
        if index is not None:
            edit = partial(moved, key=key, index=index, by=by)
            self.post_message(DraftEdited(edit, focus=f"{key}[{index + by}]"))

    @property
    def _index(self) -> int | None:
        parent = self.screen.focused.parent if self.screen.focused else None
        path = parse_key(parent.row.key) if isinstance(parent, RowEditor) else None
        return next((part for part in path or () if isinstance(part, int)), None)
