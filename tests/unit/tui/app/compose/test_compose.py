"""The compose screen on a real store: what is typed, what is wrong, what is planned, saved and queued. No engine."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static, TextArea

from engine import client
from engine.output import media
from presets.encoding import decode_spec
from presets.library import files, listing, loading
from presets.library.loading import load_preset
from presets.library.paths import user_preset_dir
from presets.library.saving import save_preset
from presets.spec.run import RunSpec
from presets.spec.sections import SECTIONS
from store.store import open_store
from tests.terminals.opened import WAIT_SECONDS, is_whole, opened
from tui.app.app import ModiffApp
from tui.app.compose.draft import FIELDS, Draft
from tui.app.compose.field_row import RowEditor
from tui.app.compose.fields_section import FieldsSection
from tui.app.compose.panels import Changes, Problems, Stages
from tui.app.compose.plan_panel import PlanPanel
from tui.app.compose.presets import pick
from tui.app.compose.presets.edit import PresetFile
from tui.app.compose.presets.save import SavePreset
from tui.app.compose.prompts import PromptArea
from tui.app.compose.screen import Compose
from tui.app.compose.whole_form import PARTS, WholeForm
from tui.app.dialogs.files import FilePicker, Folder
from tui.app.dialogs.picker import Picker
from tui.app.messages import ComposeWith
from tui.app.preferences import KeptDraft, Preferences, load_preferences

Act = Callable[["Shown"], Awaitable[None]]


class Shown:
    """The app with its compose screen."""

    def __init__(self, app: ModiffApp, pilot: Pilot[int]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def screen(self) -> Compose:
        screen = self.app.get_screen_stack("compose")[0]
        assert isinstance(screen, Compose)
        return screen

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_SECONDS
        while not condition() or not is_whole(self.app):
            assert time.monotonic() < end, (self.screen.draft, self.lines(Problems))
            await asyncio.sleep(0.02)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        names = {" ": "space", ".": "full_stop", "-": "minus", '"': "quotation_mark"}
        await self.press(*(names.get(letter, letter) for letter in text))

    async def paste(self, text: str) -> None:
        """As if it were typed, at one stroke."""
        self.app.screen.post_message(Paste(text))
        await self.pilot.pause()

    async def go(self, key: str) -> None:
        await self.screen.go_to(key)
        await self.pilot.pause()

    async def replace(self, key: str, text: str) -> None:
        """Put a text in the place of what a field holds."""
        await self.go(key)
        await self.press(*(("f7", "delete") if "prompt" in key else ("end", "ctrl+u")))
        await self.paste(text)
        if text != "-1":  # which draws a seed
            await self.until(lambda: self.screen.draft.edits.get(key) == text)

    async def until_at(self, key: str) -> None:
        """Until the editor of a field has the focus."""
        await self.until(lambda: self.screen.focused_row and self.screen.focused_row.row.key == key)

    def row(self, key: str) -> RowEditor:
        return next(row for row in self.screen.query(RowEditor) if row.row.key == key)

    def lines(self, kind: type[Problems] | type[Changes] | type[Stages]) -> list[str]:
        options = self.screen.query_one(kind).options
        return [str(option.prompt) for option in options]

    @property
    def plan(self) -> str:
        return str(self.screen.query_one(PlanPanel).content)

    def queued(self) -> list[tuple[str, object]]:
        with open_store() as store:
            return [(run.preset, decode_spec(run.spec_json)) for run in store.queued()]


def show(
    act: Act, size: tuple[int, int] = (120, 36), preferences: Preferences | None = None
) -> None:
    async def run() -> None:
        app = ModiffApp(preferences=preferences or Preferences())
        async with app.run_test(size=size) as pilot:
            await opened(pilot)
            shown = Shown(app, pilot)
            await shown.until(lambda: shown.screen.checked or shown.screen.broken)
            await pilot.pause()  # the section is shown by a callback of the screen's own
            await shown.until(
                lambda: (
                    all(row.is_filled for row in shown.screen.query(RowEditor))
                    and not shown.screen.view.filling.locked()
                )
            )
            await act(shown)

    asyncio.run(run())


def come_back(act: Act) -> None:
    """The app at its next start, with what it remembers of the last one."""
    preferences = load_preferences()
    preferences.screen = "compose"
    show(act, preferences=preferences)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda _app: None)


@pytest.mark.parametrize("keys", [("ctrl+t",), ("down", "enter", "p", "f4", "ctrl+t")])
def test_what_is_pressed_before_the_preset_is_read_is_done_once_it_is(
    keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        app = ModiffApp(preferences=Preferences())
        load, may_read = loading.load_preset, threading.Event()

        def load_late(name: str) -> RunSpec:
            assert may_read.wait(60)
            return load(name)

        monkeypatch.setattr(loading, "load_preset", load_late)
        async with app.run_test(size=(120, 36)) as pilot:
            shown = Shown(app, pilot)
            await shown.press(*keys)  # the first of them comes before the screen itself
            await opened(pilot)
            assert shown.screen.draft is None
            assert not shown.queued()
            may_read.set()
            await shown.until(shown.queued)
            assert shown.queued() == [("micro", load_preset("micro"))]

    asyncio.run(run())


def test_a_key_that_is_pressed_twice_in_one_moment_queues_one_run(monkeypatch):
    may_queue = threading.Event()
    queue = client.submit

    def slow(*given: Any, **options: Any) -> str:
        assert may_queue.wait(60)
        return queue(*given, **options)

    monkeypatch.setattr(client, "submit", slow)

    async def act(shown):
        await shown.press("ctrl+t", "ctrl+t", "ctrl+r")
        may_queue.set()
        await shown.until(lambda: shown.screen._launch.is_finished)
        assert len(shown.queued()) == 1
        await shown.press("ctrl+t")  # a moment later it is another run
        await shown.until(lambda: len(shown.queued()) == 2)
        assert shown.app.current_mode == "compose"

    show(act, (120, 36))


def test_one_key_queues_the_example_of_an_empty_store():
    async def act(shown):
        assert isinstance(shown.app.focused, Stages)
        await shown.press("ctrl+r")
        await shown.until(lambda: shown.app.current_mode == "live")
        assert shown.queued() == [("micro", load_preset("micro"))]

    show(act, (80, 24))


def test_what_a_run_would_compute_is_told():
    async def act(shown):
        await shown.until(lambda: "denoise 1-20" in shown.plan)
        assert "stored  0 of 20 steps" in shown.plan
        await shown.replace("scheduler.steps", "12")
        await shown.until(lambda: "denoise 1-12" in shown.plan)

    show(act)


def test_a_new_prompt_is_queued_and_stays():
    async def act(shown):
        await shown.press("down", "enter")
        assert isinstance(shown.app.focused, PromptArea)
        await shown.press("f7", "delete")
        await shown.type("a small star")
        await shown.press("ctrl+t")
        await shown.until(shown.queued)
        assert shown.app.current_mode == "compose"
        [(preset, spec)] = shown.queued()
        assert (preset, spec) == ("micro", load_preset("micro", ["prompt=a small star"]))
        assert shown.app.preferences.prompts == ["a small star"]
        assert "differs from micro: 1" in str(shown.screen.query_one(Changes).border_title)

    show(act)


def test_words_that_the_micro_model_does_not_know_are_told():
    async def act(shown):
        await shown.go("prompt")
        await shown.press("ctrl+end")
        await shown.paste(" dragon")
        words = shown.screen.query_one("#words", Static)
        await shown.until(lambda: str(words.content).endswith("mean nothing to it: dragon"))
        assert words.display
        assert any("dragon" in line for line in shown.lines(Problems))
        await shown.press("ctrl+r")
        await shown.until(shown.queued)  # a warning keeps nothing from starting

    show(act)


def test_every_field_is_in_a_section_and_each_kind_of_them_is_reached():
    """`test_field_row` has the editor of each field."""

    async def act(shown):
        seen = set()
        for section in SECTIONS:
            await shown.screen.show_section(section)
            await shown.pilot.pause()
            seen |= {row.row.key for row in shown.screen.query(RowEditor)}
            seen |= {area.key for area in shown.screen.query(PromptArea)}
            assert len(shown.screen.query("*")) < 64
        options = "components.prompt_expander.options"
        # a list, texts that a template and a review give, and a table whose keys are known
        others = {"extensions", "expansion.instructions", "expansion.text", options}
        assert seen == set(FIELDS) - others | {f"{options}.timeout", f"{options}.retries"}
        for key in ("negative_prompt", "components.vae.checkpoint", "output.kinds", "fps"):
            await shown.go(key)
            focused = shown.app.focused
            assert focused is not None
            if isinstance(focused.parent, RowEditor):
                assert focused.parent.row.key == key
            else:
                assert focused.key == key

    show(act, (80, 24))


def test_a_wrong_value_is_told_in_the_words_of_the_command_line_and_run_goes_to_it():
    async def act(shown):
        told = "scheduler.steps: expected an integer >= 1 and <= 1000, got 0"
        await shown.replace("scheduler.steps", "0")
        await shown.replace("width", "65")
        assert shown.row("width").row.error.startswith("width: expected a multiple of 16")
        assert shown.lines(Problems) == [
            "✖ width: expected a multiple of 16 from 16 to 4096, or 0 where a picture decides, got 65; nearest valid: "
            "64, 80",
            f"✖ {told}",
        ]
        assert "✖ scheduler" in "\n".join(shown.lines(Stages))
        await shown.press("escape", "ctrl+r")
        await shown.until_at("width")
        await shown.press("u")  # no letter of a number
        await shown.press("escape", "ctrl+r")
        await shown.until_at("scheduler.steps")
        assert shown.queued() == []

    show(act)


def test_where_it_is_narrow_panels_take_turns_and_enter_on_a_problem_goes_to_its_field():
    async def act(shown):
        side, middle = shown.screen.query_one("#side"), shown.screen.query_one("#middle")
        assert (side.display, middle.display) == (False, True)
        await shown.press("p")
        assert (side.display, middle.display) == (True, False)
        await shown.press("escape")
        assert (side.display, middle.display) == (False, True)
        assert isinstance(shown.app.focused, OptionList)
        await shown.replace("seed", "x1")
        await shown.press("escape", "p", "enter")
        await shown.until_at("seed")

    show(act, (80, 24))


def test_what_is_known_is_picked_from_a_list():
    async def act(shown):
        await shown.until(lambda: shown.screen._known)
        await shown.go("scheduler.name")
        await shown.press("left", "left")
        assert shown.screen.draft.edits == {"scheduler.name": "euler"}
        await shown.press("f2")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.type("dpm")
        await shown.press("enter")
        await shown.until(lambda: shown.screen.draft.edits == {"scheduler.name": "dpm++"})
        await shown.press("down", "f2")
        await shown.until(lambda: shown.app._notifications)
        (note,) = shown.app._notifications
        assert note.message.startswith("no values are known for steps; it takes an integer")
        await shown.go("components.denoiser.checkpoint")
        await shown.until(lambda: shown.row("components.denoiser.checkpoint").row.suggestions)
        await shown.press("f2")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.paste("1.3b")
        await shown.press("enter")
        checkpoint = "components.denoiser.checkpoint"
        await shown.until(lambda: shown.screen.draft.edits.get(checkpoint) == "wan2.1-t2v-1.3b")

    show(act)


def test_what_comes_when_the_app_is_left_is_not_shown():
    async def run() -> None:
        app = ModiffApp(preferences=Preferences())
        async with app.run_test() as pilot:
            await opened(pilot)
            shown = Shown(app, pilot)
            await shown.until(lambda: shown.screen.checked)
            form, before = shown.screen, shown.screen.checked
        assert not form.children
        with app._context():
            await form.show_draft(Draft("micro", load_preset("micro")))
        assert form.checked is before

    asyncio.run(run())


def test_missing_models_are_told_in_full_and_run_goes_there(monkeypatch):
    monkeypatch.setattr(pick, "MARK_SECONDS", WAIT_SECONDS)

    async def act(shown):
        shown.screen.open_preset("wan2.1-t2v-1.3b", {})
        await shown.until(lambda: any("need" in line for line in shown.lines(Problems)))
        assert shown.lines(Problems) == [
            "✖ text encoder  11.36 GB       need",
            "✖ tokenizer     17 MB          need",
            "✖ denoiser      about 5.68 GB  need",
            "✖ vae           508 MB         need",
            "  about 17.56 GB to get; y copies commands",
            "  modiff models get wan2.1-t2v-1.3b",
        ]
        assert "about 17.56 GB to get" in shown.plan
        about = str(shown.screen.query_one("#about", Static).content)
        assert "✖ about 17.56 GB to get" in about
        stages = [str(option.prompt) for option in shown.screen.query_one(Stages).options]
        assert [line.split()[1] for line in stages if line.startswith("✖")] == [
            "text",
            "denoiser",
            "decode",
        ]
        await shown.press("ctrl+r")
        await shown.until(lambda: isinstance(shown.app.focused, Problems))
        await shown.press("y")
        assert [line[:12] for line in shown.app.clipboard.splitlines()] == ["hf download "] * 4
        await shown.press("enter")
        await shown.until_at("components.text_encoder.checkpoint")
        assert shown.queued() == []
        await shown.press("ctrl+o")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        picker = shown.app.screen
        assert any("to get" in item.note for item in picker._found)  # as soon as it is open
        notes = {item.value: item.note for item in picker._items}
        assert notes["wan2.1-t2v-14b"].endswith("published defaults ✖ 69.04 GB to get")
        assert "to get" not in notes["micro"]

    show(act)


def test_undo_of_a_field_of_a_stage_of_all_and_of_what_one_stroke_replaced():
    async def act(shown):
        screen = shown.screen
        await shown.replace("scheduler.steps", "5")
        for key, text in (("seed", "7"), ("fps", "9")):
            await shown.replace(key, text)
        await shown.press("u")
        assert set(screen.draft.edits) == {"seed", "scheduler.steps"}
        assert shown.row("fps").text == "8"
        await shown.press("escape", "u")
        assert set(screen.draft.edits) == {"scheduler.steps"}
        assert shown.row("seed").text == "0"
        await shown.replace("prompt", "x")
        await shown.press("escape", "d", "u")
        assert set(screen.draft.edits) == {"scheduler.steps"}
        shown.app.post_message(ComposeWith(load_preset("micro", ["seed=9", "fps=9"]), "micro"))
        await shown.until(lambda: screen.draft.edits == {"seed": "9", "fps": "9"})
        await shown.until(lambda: screen.replaced)
        await shown.press("u")
        await shown.until(lambda: screen.draft.edits == {"scheduler.steps": "5"})
        await shown.press("U")
        assert not screen.draft.edits
        assert screen.query_one("#prompt", PromptArea).text == load_preset("micro").prompt
        await shown.press("u")
        await shown.until(lambda: screen.draft.edits == {"scheduler.steps": "5"})
        await shown.press("y")
        await shown.until(lambda: shown.app.clipboard == "modiff run micro --set scheduler.steps=5")

    show(act)


def test_a_random_seed_and_a_prompt_of_before():
    async def act(shown):
        await shown.press("r")
        assert set(shown.screen.draft.edits) == {"seed"}
        seed = shown.screen.draft.edits["seed"]
        assert [note.message for note in shown.app._notifications] == [f"the seed is {seed} now"]
        await shown.go("seed")
        await shown.press("r")
        assert shown.row("seed").text == shown.screen.draft.edits["seed"] != seed
        assert len(shown.app._notifications) == 1  # it can be seen
        await shown.press("f3")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.type("circ")
        await shown.press("enter")
        await shown.until(lambda: shown.screen.draft.edits.get("prompt") == "a red circle")

    show(act, preferences=Preferences(prompts=["a red circle", "a blue star"]))


def test_what_is_in_the_form_outlives_the_app():
    async def leave(shown):
        await shown.replace("seed", "-1")
        await shown.until(lambda: len(shown.screen.draft.edits.get("seed", "")) > 3)
        await shown.replace("seed", "7")
        await shown.go("fps")
        await shown.press("alt+3")
        await shown.until(lambda: shown.app.current_mode == "runs")
        await shown.press("1")
        await shown.until(lambda: shown.app.current_mode == "compose")
        await shown.press("2")  # of no field: those lost the focus
        await shown.until(lambda: shown.app.current_mode == "live")

    show(leave)

    async def find_again(shown):
        assert shown.screen.draft.edits == {"seed": "7"}
        assert any("U goes back" in note.message for note in shown.app._notifications)

    come_back(find_again)


def test_keys_that_are_pressed_fast_are_not_lost():
    async def act(shown):
        await shown.go("prompt")
        await shown.press("f7", "delete")
        area = shown.screen.query_one("#prompt", PromptArea)
        for letter in "circle":
            area.insert(letter)  # before the screen hears of any
        await shown.press("ctrl+t")
        await shown.until(shown.queued)
        assert shown.queued()[0][1].prompt == area.text == "circle"

    show(act)


def test_a_preset_is_saved_and_gone_on_from():
    async def act(shown):
        await shown.replace("scheduler.steps", "12")
        await shown.press("ctrl+s")
        await shown.until(lambda: isinstance(shown.app.screen, SavePreset))
        await shown.paste("micro")
        await shown.press("enter")
        wrong = shown.app.screen.query_one("#wrong", Static)
        await shown.until(lambda: str(wrong.content))
        assert '"micro" is the name of a shipped preset' in str(wrong.content)
        await shown.paste("-12")
        await shown.press("tab")
        await shown.paste("mine")
        await shown.press("enter")
        await shown.until(lambda: shown.screen.draft.preset == "micro-12")
        assert not shown.screen.draft.edits
        assert shown.screen.draft.base == load_preset("micro", ["scheduler.steps=12"])
        assert shown.app.preferences.preset == "micro-12"

    show(act)
    text = (user_preset_dir() / "micro-12.toml").read_text()
    assert 'extends = "micro"' in text
    assert 'description = "mine"' in text
    assert "prompt" not in text
    assert load_preferences().preset == "micro-12"


def test_a_preset_of_ones_own_is_replaced_where_that_is_asked_for():
    save_preset("mine", load_preset("micro"), extends="micro", description="as it was")

    async def act(shown):
        await shown.replace("seed", "5")
        await shown.press("ctrl+s")
        await shown.until(lambda: isinstance(shown.app.screen, SavePreset))
        assert shown.app.screen.query_one("#name", Input).value == "mine"
        await shown.press("enter")
        wrong = shown.app.screen.query_one("#wrong", Static)
        await shown.until(lambda: "already there" in str(wrong.content))
        await shown.press("tab", "tab", "right", "ctrl+s")
        await shown.until(lambda: not shown.screen.draft.edits)

    show(act, preferences=Preferences(preset="mine"))
    assert load_preset("mine").seed == 5
    text = (user_preset_dir() / "mine.toml").read_text()
    assert 'extends = "micro"' in text
    assert "as it was" in text


def test_another_preset_is_picked_and_ones_own_words_are_taken_along():
    async def act(shown):
        await shown.replace("prompt", "my words")
        await shown.replace("scheduler.steps", "3")
        for key in ("ctrl+o", *"2v-1.3b", "enter"):  # at one stroke
            shown.app.post_message(Key(key, key if len(key) == 1 else None))
        await shown.until(lambda: shown.screen.draft.preset == "wan2.1-t2v-1.3b")
        assert shown.screen.draft.edits == {"prompt": "my words"}
        assert shown.app.preferences.preset == "wan2.1-t2v-1.3b"
        await shown.press("ctrl+o")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.paste("micro")
        await shown.press("enter")
        await shown.until(lambda: shown.screen.draft.preset == "micro")
        assert shown.screen.draft.edits == {"prompt": "my words", "scheduler.steps": "3"}

    show(act)


def broken_preset() -> Path:
    path = user_preset_dir() / "mine.toml"
    path.parent.mkdir(parents=True)
    path.write_text('extends = "micro"\n\n[scheduler]\nsteps = 0\n')
    return path


def test_a_preset_with_a_mistake_says_what_and_where_and_is_mended_in_place():
    path = broken_preset()

    async def act(shown):
        await shown.press("enter")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.paste("mine")
        await shown.press("enter")
        await shown.until(lambda: shown.screen.broken)
        told = "scheduler.steps: expected an integer >= 1 and <= 1000, got 0"
        assert shown.lines(Problems) == [f"✖ {told} (in {path})"]
        await shown.press("ctrl+r")  # nothing that it could run
        await shown.until(lambda: isinstance(shown.app.focused, Problems))
        await shown.press("enter")
        await shown.until(lambda: isinstance(shown.app.screen, PresetFile))
        state = shown.app.screen.query_one("#state", Static)
        await shown.until(lambda: str(state.content) == f"✖ {told}")
        area = shown.app.screen.query_one(TextArea)
        assert area.cursor_location == (3, 0)
        await shown.press("end", "backspace")
        await shown.type("7")
        await shown.until(lambda: str(state.content) == "✓ a valid preset")
        await shown.press("ctrl+s")
        await shown.until(lambda: shown.screen.draft)
        assert shown.screen.checked.spec == load_preset("micro", ["scheduler.steps=7"])
        assert shown.queued() == []

    show(act)
    assert path.read_text() == 'extends = "micro"\n\n[scheduler]\nsteps = 7\n'


def test_a_broken_preset_that_is_picked_takes_nothing_away():
    path = broken_preset()
    typed = {"prompt": "my words", "scheduler.steps": "3"}

    async def pick(shown, name):
        await shown.press("ctrl+o")
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.paste(name)
        await shown.press("enter")

    async def leave(shown):
        await shown.replace("prompt", "my words")
        await shown.replace("scheduler.steps", "3")
        await pick(shown, "mine")
        await shown.until(lambda: shown.screen.broken)

    async def find_again(shown):
        assert (shown.screen.draft.preset, shown.screen.draft.edits) == ("micro", typed)
        await pick(shown, "mine")
        await shown.until(lambda: shown.screen.broken)
        path.write_text('extends = "micro"\n')
        shown.screen._reopen()  # as after its file was edited
        await shown.until(lambda: shown.screen.draft)
        assert shown.screen.draft.edits == {"prompt": "my words"}
        path.write_text("steps = 0\n")
        shown.screen._reopen()
        await shown.until(lambda: shown.screen.broken)
        await pick(shown, "2v-1.3b")
        await shown.until(lambda: shown.screen.draft)
        assert shown.screen.draft.edits == {"prompt": "my words"}

    show(leave)
    come_back(find_again)


@pytest.mark.parametrize("edits", [{}, {"fps": "9"}])
def test_settings_without_a_preset_are_there_again(edits):
    spec = load_preset("micro", ["seed=9", "width=128"])

    async def leave(shown):
        shown.app.post_message(ComposeWith(spec, "gone"))
        await shown.until(lambda: shown.screen.draft.preset == "")
        for key, text in edits.items():
            await shown.replace(key, text)

    async def find_again(shown):
        assert (shown.screen.draft.preset, shown.screen.draft.base) == ("", spec)
        assert shown.screen.draft.edits == edits
        assert any("are here again" in note.message for note in shown.app._notifications)
        assert shown.app.preferences.preset == "micro"

    show(leave)
    come_back(find_again)


@pytest.mark.parametrize("spec_json", ["", '{"format": 99}'])
def test_settings_that_cannot_be_read_any_more_are_no_obstacle(spec_json):
    async def act(shown):
        assert shown.screen.draft.preset == "micro"
        assert not shown.screen.draft.edits

    show(act, preferences=Preferences(draft=KeptDraft("", {"fps": "9"}, spec_json)))


def test_a_broken_preset_of_the_last_time_is_no_obstacle():
    broken_preset()

    async def act(shown):
        assert shown.screen.draft.preset == "micro"
        assert any("scheduler.steps" in note.message for note in shown.app._notifications)

    show(act, preferences=Preferences(preset="mine"))


def test_a_broken_preset_is_shown_once_its_file_is_known_too(monkeypatch):
    broken_preset()
    asked, may_read = threading.Event(), threading.Event()
    read = listing.preset_info

    def slow(name):
        if name == "mine":
            asked.set()
            assert may_read.wait(60)
        return read(name)

    monkeypatch.setattr(listing, "preset_info", slow)

    async def act(shown):
        shown.screen.open_preset("mine", {})
        await shown.until(asked.is_set)
        assert shown.screen.broken is None
        may_read.set()
        await shown.until(lambda: shown.screen.broken)
        await shown.press("e")
        await shown.until(lambda: isinstance(shown.app.screen, PresetFile))

    show(act)


def test_what_is_typed_while_a_file_is_saved_does_not_end_the_saving(monkeypatch):
    broken_preset()
    saving, may_save = threading.Event(), threading.Event()
    write = files.write_preset_text

    def slow(*given, **options):
        saving.set()
        assert may_save.wait(60)
        write(*given, **options)

    monkeypatch.setattr(files, "write_preset_text", slow)

    async def act(shown):
        shown.screen.open_preset("mine", {})
        await shown.until(lambda: shown.screen.broken)
        await shown.press("e")
        await shown.until(lambda: isinstance(shown.app.screen, PresetFile))
        area = shown.app.screen.query_one(TextArea)
        area.text = area.text.replace("steps = 0", "steps = 7")
        await shown.press("ctrl+s")
        await shown.until(saving.is_set)
        await shown.press("x")
        may_save.set()
        await shown.until(lambda: shown.screen.draft)
        assert shown.screen.draft.base.scheduler.steps == 7

    show(act)


def test_paths_are_no_markup(monkeypatch, tmp_path):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "[" / "red] [b]"))
    path = broken_preset()

    async def act(shown):
        shown.screen.open_preset("mine", {})
        await shown.until(lambda: shown.screen.broken)
        await shown.press("e")
        await shown.until(lambda: isinstance(shown.app.screen, PresetFile))
        title = shown.app.screen.query_one(".box")._border_title
        assert title.plain == str(path)

    show(act)


def test_presets_that_cannot_be_read_are_told(monkeypatch):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", "~nobody-of-that-name/x")

    async def act(shown):
        assert shown.screen.draft.preset == "micro"
        told = [note.message for note in shown.app._notifications]
        assert ["names no folder" in each for each in told] == [True]
        await shown.press("ctrl+o")
        assert not isinstance(shown.app.screen, Picker)
        await shown.press("ctrl+s")
        await shown.until(lambda: isinstance(shown.app.screen, SavePreset))
        await shown.press("x", "enter")
        wrong = shown.app.screen.query_one("#wrong", Static)
        await shown.until(lambda: "names no folder" in str(wrong.content))

    show(act)


def test_a_file_is_edited_in_the_editor_of_the_user(monkeypatch):
    path = broken_preset()

    def mend(_app, edited, line):
        assert (edited, line) == (path, path.read_text().splitlines().index("steps = 0"))
        path.write_text(path.read_text().replace("0", "9"))

    monkeypatch.setattr("tui.app.compose.screen.edit_file", mend)

    async def act(shown):
        shown.screen.open_preset("mine", {})
        await shown.until(lambda: shown.screen.broken)
        await shown.press("f4")
        await shown.until(lambda: shown.screen.draft)
        assert shown.screen.draft.base.scheduler.steps == 9
        monkeypatch.setattr("tui.app.compose.screen.edit_text", lambda _app, text: f"{text}!")
        await shown.go("prompt")
        await shown.press("f4")
        assert shown.screen.draft.edits == {"prompt": f"{load_preset('micro').prompt}!"}

    show(act)


def test_shipped_files_are_not_edited_and_no_editor_is_told(monkeypatch):
    async def act(shown):
        await shown.press("f4")
        await shown.press("e")
        assert isinstance(shown.app.screen, Compose)
        notes = [note.message for note in shown.app._notifications]
        assert "micro is not a preset file of yours; ctrl+s saves one" in notes
        await shown.go("prompt")
        await shown.press("f4")  # a terminal that cannot be given away
        notes = [note.message for note in shown.app._notifications]
        assert "this terminal cannot be given to an editor" in notes

    monkeypatch.setenv("EDITOR", "true")
    show(act)


@pytest.mark.parametrize("mode", ["queue", "compose"])
def test_a_run_is_put_into_the_form(mode):
    async def act(shown):
        edited = load_preset("micro", ["seed=7", "width=128"])
        shown.app.post_message(ComposeWith(edited, "micro"))
        await shown.until(lambda: shown.app.current_mode == "compose")
        await shown.until(lambda: shown.screen.draft and shown.screen.draft.edits)
        assert shown.screen.draft.edits == {"seed": "7", "width": "128"}
        shown.app.post_message(ComposeWith(load_preset("micro", ["seed=9"]), "gone"))
        await shown.until(lambda: shown.screen.draft.preset == "")
        assert shown.screen.checked.spec == load_preset("micro", ["seed=9"])

    async def run() -> None:
        app = ModiffApp(preferences=Preferences(screen=mode))
        async with app.run_test(size=(120, 36)) as pilot:
            await opened(pilot)
            await act(Shown(app, pilot))

    asyncio.run(run())


def test_the_plan_is_made_again_when_a_run_ends(monkeypatch):
    async def act(shown):
        await shown.until(lambda: "denoise" in shown.plan)
        with open_store() as store:
            run_id = store.enqueue(b'{"prompt": "a"}', preset="micro", output="o")
        await shown.until(lambda: shown.app.status and shown.app.status.num_queued == 1)
        planned = []
        monkeypatch.setattr(shown.screen, "_plan", lambda: planned.append(True))
        with open_store() as store:
            store.request_cancel(run_id)
        await shown.until(lambda: planned)

    show(act)


def test_no_size_breaks_it():
    async def act(shown):
        await shown.replace("scheduler.steps", "0")
        for width, height in [(20, 5), (8, 3), (120, 36)]:
            await shown.pilot.resize_terminal(width, height)
            await shown.press("right_square_bracket")
            assert shown.screen.has_class("-narrow") == (width < 100)
            assert shown.screen.query_one("#side").display == (width >= 100)

    show(act)


def test_extensions_are_added_set_ordered_switched_off_and_taken_out():
    async def act(shown):
        def names():
            return [
                (each.name, each.enabled, each.options)
                for each in shown.screen.checked.shown.extensions
            ]

        async def add(name):
            await shown.press("a")
            await shown.until(lambda: isinstance(shown.app.screen, Picker))
            await shown.paste(name)
            await shown.press("enter")
            await shown.until(lambda: name in [each[0] for each in names()])

        await shown.until(lambda: shown.screen._known)
        await shown.press(*["right_square_bracket"] * 8)
        assert shown.screen.section.name == "extensions"
        await shown.pilot.pause()
        await shown.press("enter")  # of an empty list: adds
        await shown.until(lambda: isinstance(shown.app.screen, Picker))
        await shown.press("escape", "escape")
        await add("teacache")
        await add("skip-layer-guidance")
        await shown.until_at("extensions[1].enabled")
        await shown.press("ctrl+up")
        await shown.until(
            lambda: [each[0] for each in names()] == ["skip-layer-guidance", "teacache"]
        )
        await shown.until_at("extensions[0].enabled")
        assert shown.row("extensions[0].enabled").row.label == "1 skip-layer-guidance"
        await shown.press("down", "end", "ctrl+u", "3", "down", "down", "down", "left")
        assert names() == [("skip-layer-guidance", True, {"blocks": "3"}), ("teacache", False, {})]
        await shown.replace("extensions[1].options.threshold", "11")
        assert shown.lines(Problems) == [
            "✖ extensions[1].options.threshold: expected a finite number >= 0 and <= 10, got 11"
        ]
        await shown.press("u")
        assert not shown.screen.checked.errors
        await shown.go("extensions[0].enabled")
        await shown.press("delete")
        await shown.until(lambda: [each[0] for each in names()] == ["teacache"])
        await shown.press("escape", "u")
        await shown.until(lambda: not shown.screen.view.editors())
        assert not shown.screen.draft.edits

    show(act, (100, 30))


def test_nothing_is_left_of_the_editors_of_a_section_that_was_left():
    async def act(shown):
        left = weakref.WeakSet[Input]()
        for section in (*SECTIONS, SECTIONS[0]):
            await shown.screen.show_section(section)
            await shown.pilot.pause()
            left |= set(shown.screen.query(Input))
        gc.collect()
        assert set(left) == set(shown.screen.query(Input))

    show(act, (100, 30))


def test_where_there_is_room_all_sections_are_one_form():
    async def act(shown):
        screen = shown.screen
        await shown.until(lambda: isinstance(screen.view, WholeForm) and screen.view.editors())
        assert not [note.message for note in shown.app._notifications]
        sections = [editor.row.field.section for editor in screen.view.editors()]
        assert list(dict.fromkeys(sections)) == [each.name for each in PARTS]
        whole = screen.view
        await shown.go("keep.every")
        assert shown.screen.view is whole
        assert screen.section.name == "keep"
        await shown.press("ctrl+u", "2")
        await shown.until(lambda: screen.draft.edits == {"keep.every": "2"})
        await shown.press("down", "down", "down", "down", "down")
        # the stages follow the cursor
        await shown.until(lambda: screen.query_one(Stages).highlighted == len(SECTIONS) - 1)
        await shown.pilot.resize_terminal(120, 36)
        await shown.until(lambda: type(screen.view) is FieldsSection)

    show(act, size=(160, 50))


def test_what_to_begin_from_is_picked_from_anywhere_and_looked_at(tmp_path):
    """A field that the task has no use for takes no room; what belongs to a file comes with it."""
    path = tmp_path / "clip.mp4"
    media.write_video(path, torch.zeros(17, 64, 64, 3, dtype=torch.uint8), fps=8, comment="")

    async def act(shown):
        form = shown.screen
        shown.app.preferences.folder = str(tmp_path)
        await shown.press("f7")
        await shown.until(lambda: isinstance(shown.app.screen, FilePicker))
        picker = shown.app.screen
        await shown.until(lambda: picker.query_one(Folder).root.children)
        seen = [row.row.key for row in form.query(RowEditor) if row.display]
        assert seen == ["video.path"]
        await shown.press("enter")
        await shown.until(lambda: form.draft.edits == {"video.path": str(path)})
        view = form.query_one("#given-video")
        await shown.until(lambda: view.display)
        assert "17 frames of it at 8 a second" in str(view.query_one(Static).content)
        assert "12 of 20 steps, from sigma 0.82" in str(view.query_one(Static).content)
        seen = [row.row.key for row in form.query(RowEditor) if row.display]
        assert seen == ["video.path", "video.strength", "video.sigma"]

    show(act)


def test_a_plan_that_is_refused_leaves_no_memory_of_the_run_before():
    async def act(shown):
        panel = shown.screen.query_one(PlanPanel)
        await shown.until(lambda: "denoise" in shown.plan)
        panel._show_memory(("memory  18 GiB",))
        assert "18 GiB" in shown.plan
        shown.screen._change(shown.screen.draft.typed("video.path", "/nowhere/a.mp4"))
        await shown.until(lambda: panel.refused)
        assert "18 GiB" not in shown.plan

    show(act)
