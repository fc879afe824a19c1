"""A disk without room is told on every screen, once in words and on top for as long as it lasts."""

from __future__ import annotations

import pytest

from store.store import open_store
from store.upkeep import space
from tests.unit.tui.opened_app import NARROW, WIDE, notices, play, until
from tui.app.top_line import TopLine


@pytest.mark.parametrize(
    ("size", "told"), [(WIDE, "✖ disk full  ○ no engine"), (NARROW, "✖ disk full")]
)
def test_a_full_disk_is_told_until_there_is_room(tmp_path, monkeypatch, size, told):
    monkeypatch.chdir(tmp_path)
    open_store().close()
    free = [0]
    monkeypatch.setattr(space, "free_bytes", lambda _root: free[0])

    async def script(pilot):
        top = pilot.app.screen.query_one(TopLine)
        await until(pilot, lambda: str(top.render()).rstrip().endswith(told))
        await pilot.app.look_once()
        assert [notice for notice in notices(pilot.app) if "disk is full" in notice] == notices(
            pilot.app
        )[:1]
        free[0] = 1 << 30
        await until(pilot, lambda: "full" not in str(top.render()))

    play("queue", script, size=size)
