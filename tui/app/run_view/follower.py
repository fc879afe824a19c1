"""Keeps the plain state of one run up to date from its log, a page at a time, with the previews of its steps and its
video."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from tui.app.lab import LOG_PAGE
from tui.describe.runs.following.state import RunState

if TYPE_CHECKING:
    from store.index.previews import Preview
    from tui.app.lab import Lab

# A preview has up to 200 kB, that of a video 500 kB.
MAX_PREVIEWS = 64


class Follower:
    """`state` is what the log says so far. The same for a run that is live and for one of last year."""

    def __init__(self, lab: Lab, run_id: str) -> None:
        self._lab = lab
        self._previews: OrderedDict[str, Preview] = OrderedDict()
        self.state = RunState(run_id)

    async def read(self) -> bool:
        """Take in the next page of the log; whether it was a full one, so that there may be more at once."""
        entries = await self._lab.log(self.state.run_id, self.state.last_id)
        self.state.take(entries)
        return len(entries) == LOG_PAGE

    async def preview(self, step: int) -> Preview | None:
        """What the step, counted from 1, points to; None where there is no preview (yet)."""
        if not 1 <= step <= len(self.state.steps):
            return None
        return await self._preview(self.state.steps[step - 1].key)

    async def video(self) -> Preview | None:
        """The video in small; None before it is made, and where that is not known of it."""
        return await self._preview(self.state.video) if self.state.video else None

    async def _preview(self, key: str) -> Preview | None:
        if key not in self._previews:
            self._previews.update(await self._lab.previews([key]))
            while len(self._previews) > MAX_PREVIEWS:
                self._previews.popitem(last=False)
        return self._previews.get(key)

    async def newest_preview(self) -> tuple[int, Preview | None]:
        """(step, preview) of the last step that is done and has a key; (0, None) before the first."""
        for step in range(len(self.state.steps), 0, -1):
            known = self.state.steps[step - 1]
            if known.status in ("computed", "reused") and known.key:
                return step, await self.preview(step)
        return 0, None
