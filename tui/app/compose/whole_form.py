"""Where there is room: the fields of all sections as one form, which scrolls to the section that is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.widgets import Static

from presets.spec.sections import SECTIONS
from tui.app.compose.fields_section import FieldsSection, widgets_of
from tui.app.compose.section_rows import list_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from presets.spec.sections import Section
    from tui.app.compose.section_rows import FormRow

# From so many columns and rows of the screen on.
WHOLE_FROM = (150, 44)
# Those that have an editor of their own.
_APART = ("preset", "prompt")
PARTS = tuple(each for each in SECTIONS if each.name not in _APART and not list_of(each))


class WholeForm(FieldsSection):
    """A heading for each section with fields, and its rows below it."""

    ID = "whole"
    DEFAULT_CSS = """
    WholeForm > .heading { height: 1; margin-top: 1; }
    WholeForm > .heading.-first { margin-top: 0; }
    """

    def __init__(self, section: Section, known: Mapping[str, Sequence[str]]) -> None:
        """As of `FieldsSection`."""
        super().__init__(section, known)
        self._told: dict[str, str] = {}

    async def fill(self, rows: Sequence[FormRow]) -> None:
        """With these rows, from nothing."""
        async with self.filling, self.batch():
            await self.remove_children()
            self._told.clear()
            for section in PARTS if self.is_attached else ():
                heading = Text.assemble((section.title, "bold"), f"  {section.about}")
                classes = "heading -first" if section is PARTS[0] else "heading"
                own = [row for row in rows if row.field.section == section.name]
                await self.mount(
                    Static(heading, id=f"heading-{section.name}", classes=classes),
                    *widgets_of(own),
                )

    def tell(self, section: Section, about: str) -> None:
        """What a section does, where that follows from the settings; before there are rows nothing is told."""
        if about == self._told.get(section.name):
            return
        for heading in self.query(f"#heading-{section.name}").results(Static):
            self._told[section.name] = about
            heading.update(Text.assemble((section.title, "bold"), f"  {about}"))

    def go_to(self, section: Section) -> None:
        """Scroll there, where a section is not in sight as it is."""
        for heading in self.query(f"#heading-{section.name}"):
            self.scroll_to_widget(heading, top=True, animate=False)
