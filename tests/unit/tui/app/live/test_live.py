"""The live screen, on a store whose log the test writes as an engine would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from store.blobs.blobs import blob_path
from store.database.database import immediate
from store.lineage.events import (
    MemorySampled,
    Message,
    RunFinished,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.lineage.records import LogEntry
from store.store import open_store
from tests.terminals.opened import WAIT_SECONDS, is_whole, opened
from tests.unit.tui.live_run import LiveRun, live_run
from tui.app import desktop as opening
from tui.app.app import ModiffApp
from tui.app.dialogs.ask import Confirm
from tui.app.lab import LOG_PAGE
from tui.app.live.screen import Live
from tui.app.preferences import Preferences
from tui.app.run_view.head import RunHead
from tui.app.run_view.log_view import LogView
from tui.app.run_view.timeline import Timeline
from tui.app.run_view.view import RunView
from tui.app.widgets.picture import Picture


class Watched:
    """The app on its live screen, and what can be read off it."""

    def __init__(self, app: ModiffApp, pilot: Pilot[int]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def live(self) -> Live:
        screen = self.app.get_screen_stack("live")[0]
        assert isinstance(screen, Live)
        return screen

    @property
    def head(self) -> str:
        head = self.live.query_one(RunHead)
        return "\n".join(head.render_line(y).text.rstrip() for y in range(4))

    @property
    def cursor(self) -> int:
        return self.live.query_one(Timeline).cursor

    @property
    def shown(self) -> str:
        """Under the picture: the step that it is of, or the video."""
        return str(self.live.query_one("#preview").border_subtitle or "").partition(" · ")[0]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; what never does fails with what is on the screen."""
        end = time.monotonic() + WAIT_SECONDS
        while not condition() or not is_whole(self.app):
            if time.monotonic() > end:
                raise AssertionError(f"never: the head says\n{self.head}")
            await asyncio.sleep(0.02)
        await self.pilot.pause()

    async def until_head(self, *words: str) -> None:
        await self.until(lambda: all(word in self.head for word in words))


def watch(
    root: Path,
    act: Callable[[Watched], Awaitable[None]],
    size: tuple[int, int] = (120, 36),
    **preferences: str,
) -> None:
    async def run() -> None:
        app = ModiffApp(root, preferences=Preferences(screen="live", **preferences))
        async with app.run_test(size=size) as pilot:
            await opened(pilot)
            await act(Watched(app, pilot))

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _local(monkeypatch):
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_engine(monkeypatch):
    """Engines that were to be started, none of which is."""
    started: list[object] = []

    def ensure_engine(store, *_args, **_options):
        started.append(store)

    monkeypatch.setattr("engine.process.launch.ensure_engine", ensure_engine)
    return started


def test_without_runs_it_says_how_to_make_one(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until(lambda: watched.app.status)
        assert watched.live.query_one("#empty").display
        assert not watched.live.query_one(RunView).display
        for key in ("space", "x", "r", "b", "o", "y", "Y", "P", "z"):
            await watched.pilot.press(key)
        assert not watched.app.screen.is_modal

    watch(tmp_path / "store", act)


def test_a_run_at_work_is_found_and_followed(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running", "0 of 8 steps", "star")
        run.step(1)
        run.step(2)
        await watched.until_head("2 of 8 steps", "2.00 it/s", "~0:0", "reused: text")
        await watched.until(lambda: watched.cursor == 2 and watched.shown == "step 2")
        assert watched.live.query_one("#run").border_title == run.id
        assert "|Δ| 0.100" in str(watched.live.query_one("#run").border_subtitle)
        assert watched.live.query_one(LogView).lines

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_what_keeps_a_run_from_getting_on_is_told_while_it_does(tmp_path, monkeypatch):
    async def act(watched: Watched) -> None:
        run.step(1)
        await watched.until_head("1 of 8 steps", "memory")
        monkeypatch.setattr("tui.describe.runs.following.stalling.LEAST_SECONDS", 0.0)
        monkeypatch.setattr("tui.describe.runs.following.stalling.TIMES_USUAL", 0.0)
        await watched.until_head("no progress since", "(denoise 1 of 8 done")
        with immediate(run.store.lineage) as connection:
            connection.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 60000000000")
        await watched.until_head("has given no sign of life", "Components")
        await watched.pilot.press("x")
        await watched.until(lambda: isinstance(watched.app.screen, Confirm))
        words = [str(each.content) for each in watched.app.screen.query(Static)]
        assert any("it hears nothing: the engine (process" in line for line in words)
        await watched.pilot.press("escape")
        monkeypatch.setattr("tui.describe.runs.following.stalling.LEAST_SECONDS", 1e9)
        run.store.heartbeat(f"engine{run.id}")
        await watched.until_head("memory")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_a_run_that_begins_while_nothing_was_there_is_shown(tmp_path):
    open_store(tmp_path / "store").close()

    async def act(watched: Watched) -> None:
        await watched.until(lambda: watched.app.status)
        with live_run(tmp_path / "store"):
            await watched.until(lambda: watched.live.query_one(RunView).display)
            await watched.until_head("running")
            assert isinstance(watched.app.focused, Timeline)

    watch(tmp_path / "store", act)


def test_the_cursor_shows_a_step_and_follows_again_at_the_newest(tmp_path):
    async def act(watched: Watched) -> None:
        for number in (1, 2, 3):
            run.step(number)
        await watched.until(lambda: watched.shown == "step 3")
        await watched.pilot.press("left", "left")
        await watched.until(lambda: watched.shown == "step 1")
        assert watched.cursor == 1
        run.step(4)
        await watched.until_head("4 of 8")
        assert (watched.cursor, watched.shown) == (1, "step 1")
        await watched.pilot.press("end")
        await watched.until(lambda: watched.shown == "step 4")
        run.step(5)
        await watched.until(lambda: watched.cursor == 5)

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_a_step_without_a_picture_says_so_and_pictures_are_turned_off_and_on(tmp_path):
    async def act(watched: Watched) -> None:
        run.step(1, has_preview=False)
        run.step(2)
        await watched.until(lambda: watched.shown == "step 2")
        await watched.pilot.press("left")
        picture = watched.live.query_one(Picture)
        await watched.until(lambda: "step 1 has no preview" in _text(picture))
        await watched.pilot.press("home")
        await watched.until(lambda: "the noise" in _text(picture))
        await watched.pilot.press("end")
        await watched.until(lambda: watched.shown == "step 2")
        await watched.pilot.press("P")
        assert watched.shown == ""
        assert "P shows them" in _text(picture)
        await watched.pilot.press("P")
        await watched.until(lambda: watched.shown == "step 2")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def _text(picture: Picture) -> str:
    return "".join(picture.render_line(y).text for y in range(picture.size.height))


def test_pause_is_asked_for_and_told_until_it_happens(tmp_path):
    async def act(watched: Watched) -> None:
        def actions() -> set[str]:
            """Of the keys that are shown."""
            return {
                bound.binding.action
                for bound in watched.live.active_bindings.values()
                if bound.node is watched.live
            }

        await watched.until_head("running")
        await watched.until(lambda: "pause" in actions())
        assert not actions() & {"resume", "open_output"}
        await watched.pilot.press("space")
        await watched.until_head("to be paused after this step")
        assert run.store.pause_requested(run.id)
        run.store.finish(run.id, "paused")
        await watched.until_head("paused", "r resumes it")
        await watched.until(lambda: "resume" in actions())
        assert not actions() & {"cancel", "open_output"}

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_a_run_that_stopped_is_resumed_by_one_key(tmp_path, no_engine):
    async def act(watched: Watched) -> None:
        for status, key in (
            ("paused", "space"),
            ("interrupted", "r"),
            ("failed", "space"),
            ("cancelled", "r"),
        ):
            with run.leased():
                await watched.until_head("running")
                run.step(1)
                await watched.until_head("1 of 8")
                error = "no \x1b[0m luck" if status == "failed" else ""
                run.store.finish(run.id, status, error=error)
                await watched.until_head(status, "luck" if error else "r resumes it")
                assert "\x1b" not in watched.head
                no_engine.clear()
                await watched.pilot.press(key)
                await watched.until_head("queued")
                await watched.until(lambda: no_engine)

    with open_store(tmp_path / "store") as store:
        run = LiveRun(store)
        watch(tmp_path / "store", act)


def test_a_dead_engine_makes_it_interrupted_and_a_new_one_is_seen(tmp_path, no_engine):
    """Journey: the engine is killed in the middle, the run goes on after one key."""

    async def act(watched: Watched) -> None:
        with run.leased():
            run.step(1)
            await watched.until_head("1 of 8")
        # the block's end is the engine's: its lock is free, its run still says that it runs
        await watched.until_head("interrupted", "r resumes it")
        await watched.pilot.press("r")
        await watched.until_head("queued")
        with run.leased():
            await watched.until_head("running")
            run.step(1)
            await watched.until_head("1 of 8")
            run.store.finish(run.id, "paused")
            await watched.until_head("paused")
            await watched.until(lambda: not watched.live._is_reading)
        run.store.resume(run.id)  # as from elsewhere
        with run.leased():
            await watched.until_head("running")

    with open_store(tmp_path / "store") as store:
        run = LiveRun(store)
        watch(tmp_path / "store", act)


def test_cancelling_asks(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        await watched.pilot.press("x")
        await watched.until(lambda: watched.app.screen.is_modal)
        await watched.pilot.press("escape")
        await watched.until(lambda: not watched.app.screen.is_modal)
        assert not run.store.cancel_requested(run.id)
        await watched.pilot.press("x")
        await watched.until(lambda: watched.app.screen.is_modal)
        await watched.pilot.press("y")
        await watched.until_head("to be cancelled")
        run.store.finish(run.id, "cancelled")
        await watched.until_head("cancelled", "r resumes it")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_a_run_that_ends_behind_a_question_is_seen(tmp_path):
    async def act(watched: Watched) -> None:
        run.step(1)
        await watched.until_head("1 of 8")
        await watched.pilot.press("x")
        await watched.until(lambda: watched.app.screen.is_modal)
        run.store.finish(run.id, "done")
        await watched.until(lambda: watched.app.status.running == ())
        await watched.pilot.press("y")
        await watched.until_head("done")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_another_run_is_gone_on_to_when_this_one_is_over(tmp_path):
    async def act(watched: Watched) -> None:
        with first.leased():
            await watched.until_head("running")
            first.store.finish(first.id, "done")
            await watched.until_head("done")
        second = LiveRun(first.store)
        with second.leased():
            await watched.until(lambda: watched.app.watched_run == second.id)
            await watched.until_head("running")
            await watched.pilot.press("n")
            second.store.finish(second.id, "done")
            await watched.until_head("done")
        third = LiveRun(first.store)
        with third.leased():
            looks = watched.app.status
            await watched.until(lambda: watched.app.status.running and watched.app.status != looks)
            await watched.pilot.pause(0.6)
            assert watched.app.watched_run == second.id

    with open_store(tmp_path / "store") as store:
        first = LiveRun(store)
        watch(tmp_path / "store", act)


def test_a_past_run_that_was_asked_for_stays_while_another_one_works(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        watched.app.watch_run(past.id)
        await watched.until_head("cancelled")
        await watched.pilot.pause(0.6)
        assert watched.app.watched_run == past.id

    with open_store(tmp_path / "store") as store:
        past = LiveRun(store)
        store.request_cancel(past.id)
        with LiveRun(store).leased():
            watch(tmp_path / "store", act)


def test_a_run_that_was_removed_gives_way(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("cancelled")
        store.remove([run.id])
        watched.app.watch_run(run.id)
        watched.live._feed = None
        watched.live._watch()
        await watched.until(lambda: watched.live.query_one("#empty").display)

    with open_store(tmp_path / "store") as store:
        run = LiveRun(store)
        store.request_cancel(run.id)
        watch(tmp_path / "store", act)


def test_a_run_that_is_done_says_where_its_file_is(tmp_path, monkeypatch):
    def open_file(path: str) -> None:
        opened.append(path)
        raise opening.CannotOpen("there is no display")

    opened: list[str] = []
    monkeypatch.setattr(opening, "open_file", open_file)

    async def act(watched: Watched) -> None:
        await watched.until_head("done", "out.mp4")
        await watched.pilot.press("o")
        await watched.until(lambda: len(opened) == 1)
        await watched.pilot.press("enter")
        await watched.until(lambda: len(opened) == 2)
        await watched.pilot.click(RunHead, offset=(3, 3))
        await watched.until(lambda: len(opened) == 3)
        told = [(note.title, note.message) for note in watched.app._notifications]
        assert ("there is no display", output) in told
        await watched.pilot.press("Y")
        assert watched.app.clipboard == output
        await watched.pilot.press("y")
        await watched.until(lambda: watched.app.clipboard.startswith("modiff run micro "))

    output = str(tmp_path / "out.mp4")
    with live_run(tmp_path / "store", output=output) as run:
        run.store.finish(run.id, "done")
        watch(tmp_path / "store", act, (80, 24))


def test_the_video_takes_the_place_of_the_last_step_and_steps_can_be_gone_back_to(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until(lambda: watched.shown == "step 2")
        run.decode()
        await watched.until(lambda: watched.shown == "the video")
        run.store.finish(run.id, "done")
        await watched.until_head("done")
        for key, shown in (("left", "step 1"), ("end", "the video")):
            await watched.pilot.press(key)
            await watched.until(lambda shown=shown: watched.shown == shown)
        await watched.pilot.press("v")
        await watched.until(lambda: watched.app._notifications)
        assert "replay" in next(iter(watched.app._notifications)).message

    with live_run(tmp_path / "store", steps=2) as run:
        run.step(1)
        run.step(2)
        watch(tmp_path / "store", act)


def test_leaving_at_once_leaves_the_run_alone(tmp_path):
    """Journey: leave, come again, and the run is found."""

    async def leave(watched: Watched) -> None:
        await watched.until_head("running")
        await watched.pilot.press("ctrl+d")
        await watched.until(lambda: not watched.app.is_running)
        assert watched.app.return_value == 0

    async def come_again(watched: Watched) -> None:
        run.step(1)
        await watched.until_head("running", "1 of 8")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", leave)
        assert run.store.run(run.id).status == "running"
        watch(tmp_path / "store", come_again)


def test_over_a_remote_link_previews_wait_to_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SSH_TTY", "/dev/pts/1")

    async def act(watched: Watched) -> None:
        run.step(1)
        await watched.until_head("1 of 8")
        assert "P shows them" in _text(watched.live.query_one(Picture))
        await watched.pilot.press("P")
        await watched.until(lambda: watched.shown == "step 1")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_a_small_terminal_shows_the_panels_in_turns(tmp_path):
    async def act(watched: Watched) -> None:
        run.step(1)
        await watched.until_head("1 of 8")

        def displayed() -> list[str | None]:
            return [panel.id for panel in watched.live.query(".panel") if panel.display]

        await watched.until(lambda: displayed() == ["run", "preview"])
        run.say(*[Message("info", f"line {number}") for number in range(3000)])
        await watched.until(lambda: watched.live._feed.state.num_lines > 3000)
        log = watched.live.query_one(LogView)
        assert not log.lines  # of a log that is hidden nothing is drawn, and nothing lost
        seen = []
        for _ in range(5):
            await watched.pilot.press("right_square_bracket")
            await watched.pilot.pause()
            seen += displayed()[1:]
        assert seen == ["log", "sigma", "latents", "memory", "preview"]
        await watched.until(lambda: len(log.lines) >= 1900)
        await watched.pilot.press("left_square_bracket")
        assert displayed() == ["run", "memory"]
        assert "‹memory›" in str(watched.live.query_one("#memory").border_title)
        assert all(widget.region.bottom <= 24 for widget in watched.live.query(".panel"))
        await watched.pilot.resize_terminal(120, 36)
        await watched.until(lambda: len(displayed()) == 6)

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act, (80, 24))


def test_zoom_and_back(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        await watched.pilot.press("z")
        assert watched.live.maximized is watched.live.query_one("#run")
        await watched.pilot.press("z")
        assert watched.live.maximized is None
        watched.live.query_one("#sigma").focus()
        await watched.pilot.press("z")
        await watched.pilot.pause()
        assert watched.live.query_one("#sigma").size.height > 25
        await watched.pilot.press("escape")
        assert watched.live.maximized is None
        words = " ".join(f"w{number:02}" for number in range(24))
        run.say(Message("error", words))
        log = watched.live.query_one(LogView)
        await watched.until(lambda: any("w00" in line for line in log.lines))
        log.focus()
        await watched.pilot.press("z")  # in which long lines are whole
        await watched.until(
            lambda: any(words in log.render_line(y).text for y in range(log.size.height))
        )

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_it_reads_nothing_while_another_screen_is_open(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        await watched.pilot.press("4")
        await watched.until(lambda: not watched.live._is_reading)
        run.step(1)
        await watched.pilot.pause(0.4)
        assert watched.live._feed.state.steps_done == 0
        await watched.pilot.press("2")
        await watched.until_head("1 of 8")

    with live_run(tmp_path / "store") as run:
        watch(tmp_path / "store", act)


def test_20_000_events_come_in_pages_and_keep_the_screen_alive(tmp_path):
    """The loop turns between the pages, and the state stays small. bench_app measures how short the turns are."""
    turns, turns_at_page = 0, []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        log = watched.app.lab.log

        async def counted_log(run_id: str, after: int) -> list[LogEntry]:
            turns_at_page.append(turns)
            return await log(run_id, after)

        watched.app.lab.log = counted_log  # type: ignore[method-assign]
        turning = asyncio.create_task(turn())
        _long_log(run)
        await watched.until_head("done")
        turning.cancel()
        state = watched.live._feed.state
        assert state.last_id >= 20_000
        assert (len(state.lines), len(state.memory) <= 512) == (2000, True)
        assert len(turns_at_page) >= 20_000 / LOG_PAGE
        assert all(before < after for before, after in pairwise(turns_at_page))

    with live_run(tmp_path / "store", steps=1000) as run:
        watch(tmp_path / "store", act)


def _long_log(run: LiveRun) -> None:
    steps = [StepFinished(n, 1000, 0.5, 1, 0.1, 0.0, 1.0, change=0.1) for n in range(1, 1001)]
    run.say(*steps)
    for _ in range(19):
        run.say(*[MemorySampled(n << 20, 0) for n in range(500)])
        run.say(*[Message("info", f"line {n}") for n in range(500)])
    run.say(StageFinished("denoise", 100.0, False), StageStarted("mux"), RunFinished("done"))


def test_a_run_that_waits_gives_way_to_the_one_at_work_when_one_comes_back(tmp_path):
    async def act(watched: Watched) -> None:
        await watched.until_head("running")
        watched.app.watch_run(waiting.id)
        await watched.until_head("queued")
        await watched.pilot.press("question_mark", "escape")  # a dialog over it is no leaving
        await watched.until(lambda: watched.app.screen is watched.live)
        assert watched.app.watched_run == waiting.id
        await watched.pilot.press("4", "2")
        await watched.until_head("running")

    with open_store(tmp_path / "store") as store, LiveRun(store).leased():
        waiting = LiveRun(store)
        watch(tmp_path / "store", act)


def test_what_a_clean_up_took_meanwhile_is_seen_on_coming_back(tmp_path):
    async def act(watched: Watched) -> None:
        def info() -> str:
            return watched.live.query_one(Timeline)._info()

        await watched.until_head("done")
        await watched.pilot.press("left")
        await watched.until(lambda: info() == "step 1 of 2 · computed · 500 ms · stored")
        latents.unlink()
        await watched.pilot.press("alt+4")
        await watched.until(lambda: watched.app.current_mode == "queue")
        await watched.pilot.press("alt+2")
        await watched.until(lambda: info().endswith("not stored"))
        assert watched.cursor == 1

    with live_run(tmp_path, steps=2) as run:
        run.step(1)
        run.step(2)
        run.store.finish(run.id, "done")
        latents = blob_path(tmp_path, f"sha256:{1:064x}")
        latents.parent.mkdir(parents=True, exist_ok=True)
        latents.write_bytes(b"latents")
        watch(tmp_path, act)
