"""What a screen asks the app for beyond itself: to go elsewhere with something, or to queue a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from presets.spec.run import RunSpec


class WatchRun(Message):
    """Show a run on the live screen."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id


class ShowRun(Message):
    """Show a run in the list of all runs, where its filter lets it through."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id


class BranchFrom(Message):
    """Ask for what is to change after a step of a run (None: one yet to be chosen), and branch there."""

    def __init__(self, run_id: str, step: int | None = None) -> None:
        super().__init__()
        self.run_id, self.step = run_id, step


class ComposeWith(Message):
    """Show the settings of a run in the form, to be changed and started. preset: the one that it came from. field: to
    go to, "" for none.

    answered: set when the form has taken them (`is_taken`), or another run has taken its place there.
    """

    def __init__(self, spec: RunSpec, preset: str, field: str = "") -> None:
        super().__init__()
        self.spec, self.preset, self.field = spec, preset, field
        self.answered = asyncio.Event()
        self.is_taken = False


class ContinueFrom(Message):
    """Compose what begins with the last frame of a run."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id


class QueuedRuns(Message):
    """Several runs were queued: an engine is needed, and where they have a tag of their own they are to be shown."""

    def __init__(self, run_ids: Sequence[str], tag: str = "") -> None:
        super().__init__()
        self.run_ids, self.tag = run_ids, tag


class Act(Message):
    """Carry out an action of a screen, whichever is shown; run_id: of the run that it is for, "" for none."""

    def __init__(self, mode: str, action: str, run_id: str = "") -> None:
        super().__init__()
        self.mode, self.action, self.run_id = mode, action, run_id


class Queued(Message):
    """A run was queued: an engine is needed, and the run is to be watched where `watch` says so."""

    def __init__(self, run_id: str, *, watch: bool) -> None:
        super().__init__()
        self.run_id, self.watch = run_id, watch
