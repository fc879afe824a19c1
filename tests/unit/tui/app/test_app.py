"""The app itself: what it tells of errors, and that nothing which people wrote acts on the terminal."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial

import pytest
from textual._styles_cache import StylesCache
from textual.color import Color
from textual.command import CommandPalette
from textual.drivers.headless_driver import HeadlessDriver
from textual.events import AppBlur, AppFocus
from textual.widgets import Input, TextArea
from textual.widgets._toast import Toast, ToastRack

from store.store import open_store
from tests.terminals.opened import opened
from tests.unit.tui.live_run import live_run
from tests.unit.tui.opened_app import notices, play, until
from tui.app.app import ModiffApp
from tui.app.compose.screen import Compose
from tui.app.lab import Lab
from tui.app.preferences import Preferences
from tui.app.top_line import TopLine
from tui.describe.runs.following.notices import TAKE_TITLE_BACK, end_line
from tui.describe.runs.following.watch import Progress


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.defect
def test_a_defect_met_again_and_again_is_told_and_logged_once(monkeypatch):
    looks = []

    async def fails(lab):
        looks.append(1)
        raise ZeroDivisionError("of [/red] nothing")

    monkeypatch.setattr(Lab, "status", fails)
    monkeypatch.setattr("tui.app.app.LOOK_SECONDS", 0.01)

    async def script(pilot):
        await until(pilot, lambda: len(looks) > 20)
        for _ in range(3):
            pilot.app.tell_error(KeyError("x"))
        await until(pilot, lambda: len(notices(pilot.app)) > 1)
        told = notices(pilot.app)
        assert len(told) == 2
        assert "ZeroDivisionError: of [/red] nothing" in told[0]
        assert "KeyError" in told[1]

    play("queue", script)
    with open_store() as store:
        logs = list((store.root / "logs").glob("modiff-*.log"))
    assert len(logs) == 2


@pytest.mark.defect
def test_notices_never_pile_up_and_the_last_error_can_be_copied():
    async def script(pilot):
        app = pilot.app
        app.tell_error(KeyError("first"))
        app.tell_error(ValueError("second"))
        for number in range(4):
            app.notify(f"number {number}")
        await until(pilot, lambda: "number 3" in notices(app))
        told = notices(app)
        assert len(told) == 2
        assert "second" in told[0]
        await pilot.press("f8")
        assert app.clipboard == told[0]
        await pilot.press("ctrl+c")
        await until(pilot, lambda: any("ctrl+q leaves" in each for each in notices(app)))

    play("queue", script)


def is_told(app, line):
    return line in notices(app)


def test_the_end_of_a_run_and_what_the_app_is_at_are_told(monkeypatch):
    written = []
    monkeypatch.setattr(ModiffApp, "tell_terminal", lambda app, text: written.append(text))
    monkeypatch.setattr(ModiffApp, "bell", lambda app: written.append("bell"))

    async def script(pilot):
        app = pilot.app
        await until(pilot, lambda: app.status is not None)
        with open_store() as store, store.register_engine("engine1", pid=1):
            for is_seen in (False, True):
                store.enqueue(b'{"prompt": "a"}', preset="micro", output="/v/{run}.mp4")
                run = store.lease("engine1")
                await until(pilot, lambda: app.status.running)
                app.post_message(AppFocus() if is_seen else AppBlur())
                written.clear()
                store.finish(run.id, "failed", error="no room")
                line = f"run {run.id} failed: no room; see Runs"
                await until(pilot, partial(is_told, app, line))
                calls = [text for text in written if "]2;" not in text]
                assert bool(calls) is not is_seen
        with app.job("verifying x"):
            [top] = app.screen.query(TopLine)
            assert "⟳ verifying x 0:00" in top.render().plain
        assert "verifying" not in top.render().plain

    play("queue", script)
    assert written[-1] == TAKE_TITLE_BACK


@pytest.mark.parametrize(
    ("told_of_focus", "expected"),
    [(AppBlur, "\a\x1b]9;run {run} failed: no room\a"), (AppFocus, ""), (None, "\a")],
    ids=["unseen", "seen", "who knows"],
)
def test_the_desktop_is_told_of_the_end_of_a_run_that_nobody_sees(
    monkeypatch, told_of_focus, expected
):
    written = []
    monkeypatch.delenv("VTE_VERSION", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(HeadlessDriver, "is_headless", property(lambda _: False))
    monkeypatch.setattr(HeadlessDriver, "write", lambda _, text: written.append(text))

    async def script(pilot):
        app = pilot.app
        await until(pilot, lambda: app.status is not None)
        with open_store() as store, store.register_engine("engine1", pid=1):
            store.enqueue(b'{"prompt": "a"}', preset="micro", output="/v/{run}.mp4")
            run = store.lease("engine1")
            await until(pilot, lambda: app.status.running)
            if told_of_focus is not None:
                app.post_message(told_of_focus())
                await until(pilot, lambda: app._knows_focus)
            await until(pilot, lambda: app.app_focus == (told_of_focus is not AppBlur))
            store.finish(run.id, "failed", error="no room")
            await until(pilot, lambda: any("no room" in told for told in notices(app)))
            calls = [text for text in written if text == "\a" or text.startswith("\x1b]9;")]
            assert "".join(calls) == expected.format(run=run.id)

    play("queue", script)


@pytest.mark.parametrize("status", ["done", "failed"])
def test_the_notice_of_an_end_holds_on_every_screen_that_is_shown_after_it(status, tmp_path):
    with live_run(tmp_path) as run:

        async def script(pilot):
            app = pilot.app
            await until(pilot, lambda: app.status and app.status.running)
            await until(pilot, lambda: app.watched_run == run.id)
            run.store.finish(run.id, status)
            await until(pilot, lambda: notices(app))
            told = end_line(run.store.run(run.id))
            assert notices(app) == [told]  # what is seen already is not led to
            for key, mode in (("3", "runs"), ("4", "queue")):
                await pilot.press(key)
                await until(pilot, lambda mode=mode: app.current_mode == mode)
                assert notices(app) == [told]

        play("live", script, root=tmp_path)


def test_no_theme_takes_the_app_down(monkeypatch):
    async def script(pilot):
        for mode in ("compose", "runs"):
            await pilot.app.switch_mode(mode)
            for theme in ("ansi-dark", "ansi-light"):
                pilot.app.theme = theme
                await pilot.pause()

    play("compose", script)


def test_the_palette_that_is_asked_for_first_opens_over_the_first_screen():
    async def run():
        app = ModiffApp(preferences=Preferences())
        async with app.run_test() as pilot:
            await pilot.press("ctrl+p")  # the frame is all there is
            await opened(pilot)
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            assert isinstance(app.screen_stack[0], Compose)

    asyncio.run(run())


def test_what_an_editor_holds_does_not_act_on_the_terminal():
    hostile = "a\x1b]0;title\x07 star\x9b31m \u202egnp.evil"

    async def script(pilot):
        screen = pilot.app.screen
        area = screen.query_one("#prompt", TextArea)
        line = Input(hostile)
        await screen.mount(line)
        area.text = hostile
        await pilot.pause()
        for editor in (area, line):
            # as it goes to the terminal: with all filters
            shown = "".join(
                segment.text
                for strip in editor.render_lines(editor.outer_size.region)
                for segment in strip
            )
            assert "star" in shown
            assert not {*shown} & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert area.text == hostile  # what is drawn is harmless; what is held is what was written

    play("compose", script)


@pytest.mark.defect
def test_what_is_told_of_a_screen_goes_with_it_and_its_tabs_say_how_to_leave_a_text():
    async def script(pilot):
        app, top = pilot.app, pilot.app.screen.query_one(TopLine)
        assert str(top.render()).startswith(" modiff ")
        await app.screen.go_to("width")
        await until(pilot, lambda: str(top.render()).startswith("   alt+ "))
        app.notify("the end of a run", timeout=10)
        app.notify("something of this form")
        app.tell_error(ValueError("wrong"))
        app.notify("something of this form")
        await until(pilot, lambda: len(notices(app)) == 2)
        await pilot.press("alt+4")
        await until(pilot, lambda: app.current_mode == "queue")
        assert len(notices(app)) == 1
        assert "wrong" in notices(app)[0]

    play("compose", script)


def test_nothing_is_left_of_notices_that_gave_way():
    async def run() -> None:
        app = ModiffApp(preferences=Preferences(screen="queue"))
        async with app.run_test(notifications=True) as pilot:
            await opened(pilot)
            for number in range(5):
                app.notify(f"notice {number}")
                await until(pilot, lambda number=number: notices(app) == [f"notice {number}"])
                await until(pilot, lambda: len(app.screen.query(Toast)) == 1)
            await until(pilot, lambda: len(app.screen.query_one(ToastRack).children) <= 2)

    asyncio.run(run())


def test_what_was_drawn_of_a_widget_goes_with_it():
    lines = StylesCache()
    gone = weakref.ref(lines)
    lines.get_inner_outer(Color(0, 0, 0), Color(1, 1, 1))
    del lines
    assert gone() is None


def test_the_top_line_says_what_a_screen_says_that_follows_the_run(tmp_path):
    with live_run(tmp_path) as run:
        run.step(1)

        async def script(pilot):
            app = pilot.app
            await until(pilot, lambda: app.status and app.status.progress)
            assert app.status.progress.percent == 12
            app.follow(run.id, Progress(42, 7.0))
            await app.look_once()
            assert app.status.progress == Progress(42, 7.0)
            app.follow("another", Progress(3))
            await app.look_once()
            assert app.status.progress.percent == 12

        play("store", script, root=tmp_path)
