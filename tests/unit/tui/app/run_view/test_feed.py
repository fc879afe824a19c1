"""Which picture of a run is shown while it is followed, and where a hand goes back along its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.index.previews import Preview
from store.lineage import events
from store.lineage.records import LogEntry
from store.store import open_store
from tests.unit.tui.live_run import picture
from tui.app.run_view.feed import RunFeed, changes_told
from tui.describe.runs.previews import VIDEO, step_told

CLIP = Preview(3, 1, 1, bytes(9))


class View:
    """What a feed asks of a RunView, and what it was last told to show."""

    is_following, wants_preview, cursor = True, True, 2

    def __init__(self) -> None:
        self.shown: tuple[Preview | None, str] = (None, "")

    def show_preview(
        self, preview: Preview | None, told: str = "no preview yet", *, fps: float | None = None
    ) -> None:
        self.shown = (preview, told)

    def show_given(self, given: Sequence[object]) -> None:
        assert not given


class FakeLab:
    def __init__(self, **previews: Preview) -> None:
        self.known = previews
        self.asked: list[str] = []

    async def previews(self, keys: Sequence[str]) -> dict[str, Preview]:
        self.asked += keys
        return {key: self.known[key] for key in keys if key in self.known}


def stored(stage: str, index: int, key: str) -> events.LinkStored:
    return events.LinkStored(stage, index, key, "d", "l", "computed")


STEPS = [
    event
    for number in (1, 2)
    for event in (
        stored("step", number - 1, f"step{number}"),
        events.StepFinished(number, 2, 0.5, 9, 0.1),
    )
]
DECODED = stored("video", 0, "clip")
DONE = events.RunFinished("done")


def fed(lab: FakeLab, act: Callable[[RunFeed, View], Awaitable[None]], *told: events.Event) -> None:
    view: Any = View()
    feed = RunFeed(lab, "k3f", view)  # type: ignore[arg-type]
    feed.state.take(LogEntry(n, n, event) for n, event in enumerate((*STEPS, *told), start=1))
    asyncio.run(act(feed, view))


def test_the_newest_step_is_shown_until_the_video_is_there():
    async def act(feed: RunFeed, view: View) -> None:
        await feed.show_preview()
        assert view.shown == (picture(2), step_told(2))
        feed.state.take([LogEntry(90, 90, DECODED), LogEntry(91, 91, DONE)])
        await feed.show_preview()
        assert view.shown == (CLIP, VIDEO)

    fed(FakeLab(step2=picture(2), clip=CLIP), act)


def test_going_back_shows_the_latents_of_a_step_and_the_end_the_video_again():
    async def act(feed: RunFeed, view: View) -> None:
        await feed.show_preview()
        assert view.shown == (CLIP, VIDEO)
        view.cursor, view.is_following = 1, False
        await feed.show_preview()
        assert view.shown == (picture(1), step_told(1))
        view.cursor, view.is_following = 2, True
        await feed.show_preview()
        assert view.shown == (CLIP, VIDEO)

    fed(FakeLab(step1=picture(1), step2=picture(2), clip=CLIP), act, DECODED, DONE)


def test_a_video_whose_preview_is_gone_leaves_the_last_step():
    async def act(feed: RunFeed, view: View) -> None:
        await feed.show_preview()
        assert view.shown == (picture(2), step_told(2))

    fed(FakeLab(step2=picture(2)), act, DECODED, DONE)


def test_a_run_that_is_gone_on_with_shows_its_steps_again():
    async def act(feed: RunFeed, view: View) -> None:
        await feed.show_preview()
        assert view.shown == (CLIP, VIDEO)
        feed.state.take(
            LogEntry(90 + n, 90, event)
            for n, event in enumerate([events.RunResumed("done"), *STEPS])
        )
        feed.allow_previews()
        await feed.show_preview()
        assert view.shown == (picture(2), step_told(2))

    fed(FakeLab(step2=picture(2), clip=CLIP), act, DECODED, DONE)


def test_what_is_shown_is_not_read_again():
    lab = FakeLab(step2=picture(2), clip=CLIP)

    async def act(feed: RunFeed, _view: View) -> None:
        for _ in range(3):
            await feed.show_preview()
        assert lab.asked == ["clip"]

    fed(lab, act, DECODED, DONE)


def test_previews_that_are_off_stay_off():
    async def act(feed: RunFeed, view: View) -> None:
        feed.hide_previews()
        await feed.show_preview()
        assert view.shown[0] is None

    fed(FakeLab(clip=CLIP), act, DECODED, DONE)


def test_the_head_says_what_was_changed_but_for_what_it_says_anyway():
    with open_store() as store:

        def told(**values: object) -> str:
            spec = load_preset("micro", values=values)
            run_id = store.enqueue(encode_spec(spec), preset="micro", output="")
            return changes_told(store, store.run(run_id))

        quantised = {"components.denoiser.quantise": "int8", "scheduler.steps": 8}
        assert told(**quantised, seed=7, prompt="a cat") == "quantise int8, steps 8"
        assert told(seed=7) == ""
