"""The editors of the form, each alone: what keys do to it, and what it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Input

from presets.library.loading import load_preset
from presets.spec.sections import SECTIONS
from tui.app.base import ModiffBase
from tui.app.compose.draft import FIELDS, Draft, check
from tui.app.compose.field_row import FieldEdited, NumberInput, RowEditor
from tui.app.compose.prompts import PromptArea
from tui.app.compose.section_rows import FormRow, rows, section_of
from tui.app.preferences import Preferences
from tui.app.widgets.choice_line import ChoiceLine

DRAFT = Draft("micro", load_preset("micro"))


def rows_of(*keys: str) -> list[FormRow]:
    """Of the draft; of all fields where none is named."""
    sections = [section_of(key) for key in keys] or SECTIONS
    checked = check(DRAFT)
    found = [
        row for section in dict.fromkeys(sections) for row in rows(section, DRAFT, checked, {})
    ]
    return [row for row in found if not keys or row.key in keys]


class Form(App[None]):
    """Rows, and what they told."""

    def __init__(self, form_rows: list[FormRow]) -> None:
        super().__init__()
        self._form_rows = form_rows
        self.told: list[tuple[str, str]] = []

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False):
            yield from map(RowEditor, self._form_rows)

    def on_field_edited(self, event: FieldEdited) -> None:
        self.told.append((event.key, event.text))

    def editor(self, key: str) -> RowEditor:
        return next(row for row in self.query(RowEditor) if row.row.key == key)


def with_rows(script: Callable[[Form, Pilot[None]], Awaitable[None]], *keys: str) -> None:
    async def run() -> None:
        app = Form(rows_of(*keys))
        async with app.run_test(size=(100, 40)) as pilot:
            await pilot.pause()
            await script(app, pilot)

    asyncio.run(run())


def test_every_field_has_an_editor_that_takes_the_keys_and_tells_what_it_holds():
    async def script(app: Form, pilot: Pilot[None]) -> None:
        editors = list(app.query(RowEditor))
        prompts = {key for key, field in FIELDS.items() if field.role == "prompt"}
        options = "components.prompt_expander.options"  # a table whose keys are known
        of_no_row = {"extensions", *prompts, options}  # a list, and areas
        opened = {f"{options}.timeout", f"{options}.retries"}
        assert {each.row.key for each in editors} == set(FIELDS) - of_no_row | opened
        for each in editors:
            assert each.text == each.row.text
            app.set_focus(each.editor)
            assert app.focused is each.editor
            each.put(f"{each.row.text}7")
        await pilot.pause()
        assert dict(app.told) == {each.row.key: f"{each.row.text}7" for each in editors}

    with_rows(script)


def test_up_and_down_go_from_field_to_field():
    async def script(app: Form, pilot: Pilot[None]) -> None:
        app.editor("scheduler.name").editor.focus()
        for key, name, kind in (
            ("down", "scheduler.steps", Input),
            ("down", "scheduler.shift", Input),
            ("up", "scheduler.steps", Input),
            ("up", "scheduler.name", ChoiceLine),
        ):
            await pilot.press(key)
            assert app.focused is app.editor(name).query_one(kind)

    with_rows(script, "scheduler.name", "scheduler.steps", "scheduler.shift")


def test_choices_are_made_with_the_arrows():
    async def script(app: Form, pilot: Pilot[None]) -> None:
        app.editor("scheduler.name").editor.focus()
        await pilot.press("left", "left")
        app.editor("output.kinds").editor.focus()
        await pilot.press("left", "left", "space")
        app.editor("output.overwrite").editor.focus()
        await pilot.press("right")
        assert app.told[-3:] == [
            ("scheduler.name", "euler"),
            ("output.kinds", '["frames", "video"]'),
            ("output.overwrite", "true"),
        ]

    with_rows(script, "scheduler.name", "output.kinds", "output.overwrite")


def test_numbers_go_up_and_down_on_their_grid_and_take_no_command():
    async def script(app: Form, pilot: Pilot[None]) -> None:
        frames = app.editor("frames")
        frames.editor.focus()
        await pilot.press("pageup", "pageup", "pagedown", "u", "U")
        assert frames.text == "21"
        assert app.told[-1] == ("frames", "21")
        seed = app.editor("seed").editor
        assert isinstance(seed, NumberInput)
        assert not seed.check_consume_key("r", "r")
        assert frames.editor.check_consume_key("r", "r")  # no command of another number

    with_rows(script, "frames", "seed")


def test_guidance_has_room_for_pieces():
    async def script(app: Form, pilot: Pilot[None]) -> None:
        row = app.editor("guidance.scale")
        short = row.editor.size.width
        row.show(replace(row.row, kind="text", text="[{from=0,to=0.4,scale=6}]"))
        await pilot.pause()
        assert row.editor.size.width > short
        assert row.text == "[{from=0,to=0.4,scale=6}]"
        row.show(replace(row.row, kind="number", text="4"))
        await pilot.pause()
        assert row.editor.size.width == short

    with_rows(script, "guidance.scale")


class Prompting(ModiffBase):
    """A prompt alone, as it is in the form."""

    def compose(self) -> ComposeResult:
        yield PromptArea("prompt", "")


def test_prompts_of_before():
    async def run() -> None:
        app = Prompting(preferences=Preferences(prompts=["a red circle", "a blue star"]))
        async with app.run_test() as pilot:
            area = app.query_one(PromptArea)
            area.fill("what is there")
            await pilot.press("ctrl+up")
            assert area.text == "a blue star"
            await pilot.press("alt+up", "alt+up")
            assert area.text == "a red circle"
            await pilot.press("ctrl+down", "ctrl+down")
            assert area.text == "what is there"

    asyncio.run(run())


def test_a_field_that_changes_while_its_editor_is_made_is_shown_as_it_is():
    class Early(RowEditor):
        def compose(self):
            yield from super().compose()
            self.show(replace(self.row, text="7"))

    async def script(app: Form, pilot: Pilot[None]) -> None:
        early = Early(app.editor("seed").row)
        await app.mount(early)
        await pilot.pause()
        assert (early.text, early.row.text) == ("7", "7")

    with_rows(script, "seed")
