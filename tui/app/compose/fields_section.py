"""The section of a form that is a number of fields."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING

from textual.containers import VerticalScroll

from tui.app.compose.field_row import RowEditor
from tui.app.compose.given_view import GivenView
from tui.describe.inputs import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from textual.widget import Widget

    from presets.spec.sections import Section
    from tui.app.compose.section_rows import FormRow


def widgets_of(rows: Sequence[FormRow]) -> Iterator[Widget]:
    """The fields, and below those of a picture or a clip a look at it."""
    for name, own in groupby(rows, key=lambda row: row.key.partition(".")[0]):
        yield from map(RowEditor, own)
        if name in GIVEN:
            yield GivenView(name)


class FieldsSection(VerticalScroll, can_focus=False):
    """A row for each field. Another kind of section is another class with these methods."""

    ID = "rows"
    KEYS = ""
    """What can be done here, in a line."""

    def __init__(self, section: Section, known: Mapping[str, Sequence[str]]) -> None:
        """known: by role, names that exist on this machine."""
        super().__init__(id=self.ID)
        self.section = section
        self.known = known
        self.filling = asyncio.Lock()

    def editors(self) -> list[RowEditor]:
        """The rows that are there."""
        return list(self.query(RowEditor))

    async def fill(self, rows: Sequence[FormRow]) -> None:
        """With these rows, from nothing."""
        async with self.filling, self.batch():
            await self.remove_children()
            if not self.is_attached:  # another section was opened meanwhile, or the app left
                return
            await self.mount_all(widgets_of(rows))

    def show(self, rows: Sequence[FormRow], source: str = "") -> None:
        """The rows as they are now. source: the key of the field that was typed in just now."""
        by_key = {row.key: row for row in rows}
        for editor in self.editors():
            if editor.row.key in by_key:
                editor.show(by_key[editor.row.key], is_source=editor.row.key == source)
