"""How the app asks: lanes, each a thread with a store connection of its own, and commands in processes of theirs.

A question is a function of the store that a lane calls in its thread (a connection belongs to its thread):
`await lab.read(detail, run_id)`. What is wrong comes out of the `await` as the error that the command line would
explain. A function that needs much imports it itself: in the event loop, that would keep the screen waiting.
Torch-free.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from tui.app.memory import MemoryAnswers
from tui.describe import health
from tui.describe.runs import previews as pictures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.compare.frames import Frame
    from engine.fit.answering import Device
    from presets.spec.run import RunSpec
    from store.index.index import Index
    from store.index.previews import Preview
    from store.lineage.records import LogEntry
    from store.store import Store
    from tui.describe.health import Status
    from tui.describe.runs.detail import Detail
    from tui.describe.runs.following.watch import Watch
    from tui.describe.runs.previews import Shown

Given = ParamSpec("Given")
Told = TypeVar("Told")

# A panel reads so many log entries at a time: the screen is drawn in between.
LOG_PAGE = 1000


class CommandFailed(Exception):
    """A `modiff` command that the app ran did not end well; says what it said last."""


class Lab:
    """The store at `root` (the user's own by default) and the lanes that it is asked in; close it in the end.

    read: quick looks. change: what alters the store. work: what may take a while. check: a reading of everything.
    engine: what waits for an engine to start or stop. files: looks at pictures and clips of people. None of them keeps
    another waiting.
    """

    def __init__(self, root: Path | None = None) -> None:
        opened: list[Store] = []
        alone = threading.Lock()
        self.read, self.change, self.work, self.check, self.engine, self.files = self._lanes = (
            tuple(
                Lane(name, root, opened, alone)
                for name in ("read", "change", "work", "check", "engine", "files")
            )
        )
        self.is_closed = False
        self._watch: Watch | None = None  # of the lane that reads
        self._memory: MemoryAnswers | None = None

    async def memory(self, spec: RunSpec) -> tuple[Device, ...]:
        """What a run needs of each device, from a process of its own. Raises Unanswered."""
        if self._memory is None:
            root = await self.read(lambda store: store.root)
            self._memory = MemoryAnswers(root)
        return await self._memory.ask(spec)

    def close(self) -> None:
        """Does not wait for what is still at work in a lane."""
        self.is_closed = True
        if self._memory is not None:
            self._memory.close()
        for lane in self._lanes:
            lane.close()

    async def status(self) -> Status:
        """Ends the runs of dead engines on the way, as every viewer does."""

        def ask(store: Store) -> Status:
            from tui.describe.runs.following.watch import Watch

            if self._watch is None:
                self._watch = Watch()
            return health.status(store, self._watch)

        status = await self.read(ask)
        return replace(status, unwritable=self.read.unwritable or status.unwritable)

    async def log(self, run_id: str, after: int) -> list[LogEntry]:
        """The next page of a run's log."""
        return await self.read(lambda store: store.log(run_id, after, limit=LOG_PAGE))

    async def previews(self, keys: Sequence[str]) -> dict[str, Preview]:
        """The previews of steps and videos by their keys; those that are not there (any more) are left out."""
        return await self.read.indexed(lambda _, index: _previews(index, keys))

    async def shown(self, wanted: Sequence[tuple[Detail, int | None]]) -> list[Shown]:
        """The picture of each run after so many of its steps, None for its video, with what is to be said of it."""
        found = await self.previews([key for each in wanted for key in pictures.keys_of(*each)])
        return [pictures.shown(detail, step, found) for detail, step in wanted]

    async def read_video(
        self, path: Path, within: tuple[int, int], take: Callable[[Frame], bool]
    ) -> None:
        """Give every frame of a video, of the size that fits best into `within` (columns, rows), to `take`, in another
        thread, until that is False. Raises EngineError where it cannot be read."""

        def read() -> None:
            from engine.compare.frames import read_frames

            for frame in read_frames(path, within):
                if not take(frame):
                    return

        await asyncio.to_thread(read)

    # Commands

    async def command(self, *arguments: str) -> Any:
        """What `modiff ARGUMENTS --json` prints, as data, in a process of its own: for what needs torch.

        Raises CommandFailed with what is wrong where it did not do it.
        """
        root = await self.read(lambda store: store.root)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tui.cli", *arguments, "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_command_environment(root),
            start_new_session=True,  # Ctrl-C in the app's terminal is the app's
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.terminate()
            raise
        try:
            data = json.loads(out)
        except ValueError:
            lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
            raise CommandFailed(
                lines[-1].removeprefix("modiff: ") if lines else f"modiff {arguments[0]} failed"
            ) from None
        if isinstance(data, dict) and "error" in data and "run" not in data:  # as of print_failure
            raise CommandFailed(str(data["error"]))
        return data


class Lane:
    """One thread with its own store connection; what it is asked is answered in turn."""

    def __init__(
        self, name: str, root: Path | None, opened: list[Store], alone: threading.Lock
    ) -> None:
        """opened: by all lanes of a lab; a lane that comes late must not found a new store where theirs was. alone: of
        all of them too; on a full disk one at a time can have the store."""
        self._root, self._opened, self._alone = root, opened, alone
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"lab-{name}")
        self._held = threading.local()
        self.unwritable = ""  # why it could only look when it was last asked

    async def __call__(
        self,
        ask: Callable[Concatenate[Store, Given], Told],
        /,
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Told:
        """What `ask` returns for the store and the rest."""
        return await self._in_turn(lambda store: ask(store, *args, **kwargs))

    async def indexed(
        self,
        ask: Callable[Concatenate[Store, Index, Given], Told],
        /,
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Told:
        """The same for the store and the index beside it."""
        return await self._in_turn(lambda store: ask(store, self._index(store), *args, **kwargs))

    async def cleaning(
        self,
        ask: Callable[Concatenate[Store, Given], Told],
        /,
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Told:
        """The same for what removes, also where a full disk lets nothing be written."""
        return await self._in_turn(lambda store: ask(store, *args, **kwargs), to_clean=True)

    async def _in_turn(self, ask: Callable[[Store], Told], *, to_clean: bool = False) -> Told:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: self._answer(ask, to_clean))

    def _answer(self, ask: Callable[[Store], Told], to_clean: bool) -> Told:
        """Where nothing can be written, on a full or a read-only disk, the store is opened as it is for one question:
        for the next one it may be another."""
        from store.errors import StoreFull, StoreUnwritable
        from store.store import open_as_it_is

        try:
            store = self._store()
        except (StoreFull, StoreUnwritable) as error:
            self.unwritable = str(error)
            with self._alone, open_as_it_is(self._root, to_clean=to_clean) as store:
                return ask(store)
        self.unwritable = ""
        return ask(store)

    def _index(self, store: Store) -> Index:
        from store.index.index import open_index

        if getattr(self._held, "index", None) is None:
            self._held.index = open_index(store.root)
        index: Index = self._held.index
        return index

    def _store(self) -> Store:
        from store.errors import StoreError
        from store.store import open_store

        first = next(iter(self._opened), None)
        if first is not None and not first.is_in_place():
            raise StoreError(
                f"the store is no longer at {first.root}; put it back, or start modiff again to begin a new one"
            )
        held: Store | None = getattr(self._held, "store", None)
        if held is None:
            held = self._held.store = open_store(self._root)
            self._opened.append(held)
        return held

    def close(self) -> None:
        def close() -> None:
            for name in ("index", "store"):
                held = getattr(self._held, name, None)
                if held is not None:
                    held.close()

        self._executor.submit(close)
        self._executor.shutdown(wait=False)


def _previews(index: Index, keys: Sequence[str]) -> dict[str, Preview]:
    from store.index.previews import get_preview

    found = {key: get_preview(index, key) for key in keys if key}
    return {key: preview for key, preview in found.items() if preview is not None}


def _command_environment(root: Path) -> dict[str, str]:
    """Ours, with this very store and this very package."""
    package_root = str(Path(__file__).resolve().parents[2])
    search = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "MODIFF_STORE": str(root), "PYTHONPATH": os.pathsep.join(search)}
