"""Every screen as it was looked at: at 80x24 in a light theme and at 120x36 in a dark one, on a store recorded from
real runs.

`pytest tests/unit/tui/app/test_snapshots.py --snapshot-update` draws them anew; look at each before it is committed.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widgets import Input, TextArea

from engine.process.version import installed_version
from store.database.database import immediate
from store.store import Store
from tests.stores import recorded_store
from tui.app.app import ModiffApp
from tui.app.lab import Lane
from tui.app.preferences import Preferences
from tui.app.widgets.picture import Picture

LOOKS = (((80, 24), "textual-light"), ((120, 36), "textual-dark"))
NAMES = ["80x24-textual-light", "120x36-textual-dark"]
ENGINE = "recordedengine"
Usage = namedtuple("Usage", "total used free")
# What is asked in threads and not answered yet: on a busy machine that takes longer than a screen seems at rest.
asked: list[object] = []


class SvgExtension(SingleFileSnapshotExtension):
    """One file for each picture, to be opened in a browser."""

    file_extension = "svg"
    _write_mode = WriteMode.TEXT


@pytest.fixture
def pictures(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(SvgExtension)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The recorded one, a minute after its last run, in UTC, on a disk that is always equally full."""
    now = recorded_store.recorded_ns() + 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**12, 6 * 10**11, 4 * 10**11))
    for kind in (Input, TextArea):
        monkeypatch.setattr(kind, "cursor_blink", False)
    monkeypatch.setattr(Picture, "_rate", lambda _self: 0.0)
    # where they lie differs from machine to machine
    monkeypatch.setattr("engine.checkpoints.library.scan_places", list)
    monkeypatch.setattr(Lane, "_in_turn", counted(Lane._in_turn))
    monkeypatch.setattr(asyncio, "to_thread", counted(asyncio.to_thread))
    with recorded_store.play(tmp_path / "store") as played:
        yield played
    monkeypatch.undo()
    time.tzset()


def counted(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def counting(*arguments: Any, **options: Any) -> Any:
        question = object()
        asked.append(question)
        try:
            return await ask(*arguments, **options)
        finally:
            asked.remove(question)

    return counting


@pytest.fixture
def live_run(store: Store) -> Iterator[str]:
    """A run in the middle of its steps, with a live engine."""
    run_id = next(run.id for run in store.runs(limit=50, status="done") if run.parent_step == 8)
    with store.register_engine(ENGINE, pid=4242, version=installed_version()):
        with immediate(store.lineage) as connection:
            connection.execute(
                "UPDATE runs SET status='running', engine=?, ended_ns=NULL WHERE id=?",
                (ENGINE, run_id),
            )
            [(last,)] = connection.execute(
                "SELECT id FROM events WHERE run_id=? AND json_extract(json, '$.kind')='link_stored' "
                "AND json_extract(json, '$.stage')='step' AND json_extract(json, '$.index')=11",
                (run_id,),
            ).fetchall()
            connection.execute("DELETE FROM events WHERE run_id=? AND id>?", (run_id, last))
            connection.execute("UPDATE events SET ns=ns+58000000000 WHERE run_id=?", (run_id,))
            connection.execute(
                "UPDATE runs SET started_ns=started_ns+58000000000 WHERE id=?", (run_id,)
            )
        yield run_id


async def settled(pilot: Pilot[int], looks: int = 5) -> None:
    """Until what the screen asked for has come: it is the same for so many looks, a tenth of a second apart."""
    before, unchanged = [Strip([])], 0
    for _ in range(1200):
        await pilot.pause(0.1)
        now = pilot.app.screen._compositor.render_strips()
        unchanged = unchanged + 1 if now == before and not asked else 0
        if unchanged == looks:
            return
        before = now
    raise AssertionError("the screen does not come to rest")


def drawn(
    store: Store,
    mode: str,
    *,
    size: tuple[int, int],
    theme: str,
    prepare: Callable[[ModiffApp], None] = lambda app: None,
    looks: int = 5,
) -> str:
    """The screen as SVG."""

    async def draw() -> str:
        app = ModiffApp(store.root, preferences=Preferences(screen=mode, theme=theme))
        prepare(app)
        async with app.run_test(size=size) as pilot:
            await settled(pilot, looks)
            return app.export_screenshot()

    return asyncio.run(draw())


@pytest.mark.parametrize(("size", "theme"), LOOKS, ids=NAMES)
@pytest.mark.parametrize("mode", ["compose", "runs", "queue", "store", "components"])
def test_a_screen_looks_as_it_did(store, pictures, mode, size, theme):
    assert drawn(store, mode, size=size, theme=theme) == pictures


@pytest.mark.parametrize(("size", "theme"), LOOKS, ids=NAMES)
def test_a_live_run_looks_as_it_did(store, live_run, pictures, size, theme):
    def prepare(app: ModiffApp) -> None:
        app.watched_run = live_run

    # it asks again and again; on a busy machine some time may pass between two of its questions
    assert drawn(store, "live", size=size, theme=theme, prepare=prepare, looks=20) == pictures
