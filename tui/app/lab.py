"""Everything that the app knows and does: the one module of it that reads the store and starts processes.

Each question is a function that runs in a lane: one thread with a store connection of its own (a connection belongs
to its thread). Quick reads, changes, long work, a check of everything and the start of an engine have a lane each, so
that none keeps another waiting. What is wrong comes out of the `await` as the error that the command line would
explain. A function imports what it needs in its lane too: in the event loop, that would keep the screen waiting.
Torch-free.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from tui.describe import health
from tui.describe import plan as plans
from tui.describe import space as spaces
from tui.describe.runs import previews as pictures
from tui.describe.runs import run as runs

if TYPE_CHECKING:
    from engine.checkpoints.library import Found
    from engine.compare.frames import Frame
    from presets.errors import PresetError
    from presets.library import PresetInfo
    from presets.spec import RunSpec
    from store.index.index import Index
    from store.index.previews import Preview
    from store.lineage.records import EngineRecord, LogEntry, RunRecord
    from store.store import Store
    from store.upkeep.removal import Plan as Removal
    from store.upkeep.removal import Policy
    from store.upkeep.verify import Verdict
    from tui.describe.health import ComponentRow, Status
    from tui.describe.known_files import Known
    from tui.describe.plan import Planned
    from tui.describe.runs.filter import Search
    from tui.describe.runs.previews import Shown
    from tui.describe.runs.queued import Expected
    from tui.describe.runs.run import At, Detail, RunRow
    from tui.describe.runs.sweeps import PlannedSweep
    from tui.describe.runs.watch import Watch
    from tui.describe.space import Space

Told = TypeVar("Told")
LaneName = Literal["read", "change", "work", "check", "engine"]

# A panel reads so many log entries at a time: the screen is drawn in between.
LOG_PAGE = 1000
RUN_LIMIT = 500
PAUSED_LIMIT = 100


class CommandFailed(Exception):
    """A `modiff` command that the app ran did not end well; says what it said last."""


class Lab:
    """The store at `root` (the user's own by default) and all that the app asks of it; close it in the end."""

    def __init__(self, root: Path | None = None) -> None:
        opened: list[Store] = []
        alone = threading.Lock()
        self._lanes: dict[LaneName, _Lane] = {
            name: _Lane(name, root, opened, alone) for name in get_args(LaneName)
        }
        self._watch: Watch | None = None  # of the lane that reads

    def close(self) -> None:
        """Does not wait for what is still at work in a lane."""
        for lane in self._lanes.values():
            lane.close()

    async def _in(
        self, lane: LaneName, ask: Callable[[Store], Told], *, to_clean: bool = False
    ) -> Told:
        return await self._lanes[lane].ask(ask, to_clean=to_clean)

    # Looking

    async def root(self) -> Path:
        """Where the store is."""
        return await self._in("read", lambda store: store.root)

    async def status(self) -> Status:
        """Ends the runs of dead engines on the way, as every viewer does."""

        def ask(store: Store) -> Status:
            from tui.describe.runs.watch import Watch

            if self._watch is None:
                self._watch = Watch()
            return health.status(store, self._watch)

        status = await self._in("read", ask)
        return replace(status, unwritable=self._lanes["read"].unwritable or status.unwritable)

    async def runs(self, search: Search, limit: int = RUN_LIMIT) -> list[RunRow]:
        """The runs that fit, newest first."""
        return await self._in("read", lambda store: runs.run_rows(store, search.find(store, limit)))

    async def ancestors(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """The runs that these descend from and that are not among them; those that were removed are left out."""
        return await self._in("read", lambda store: runs.ancestors(store, rows))

    async def queue(self) -> list[RunRow]:
        """The runs at work first, then the queued ones in their order, then those that were paused, the newest
        first."""
        return await self._in(
            "read",
            lambda store: runs.run_rows(
                store,
                [
                    *reversed(store.runs(limit=health.MOST_RUNNING, status="running")),
                    *store.queued(),
                    *store.runs(limit=PAUSED_LIMIT, status="paused"),
                ],
            ),
        )

    async def expectations(self, records: Sequence[RunRecord]) -> dict[str, Expected]:
        """What queued runs change of their presets and may take, by run."""
        from tui.describe.runs.queued import expected

        return await self._in("work", lambda store: expected(store, records))

    async def run(self, run_id: str) -> RunRecord:
        """Raises UnknownRun where it was removed."""
        return await self._in("read", lambda store: store.run(run_id))

    async def written_by(self, path: Path) -> str:
        """The run that wrote a file. Raises UnknownRun."""
        from tui.describe.runs.of_file import written_by

        return (await self._in("work", lambda store: written_by(store, path))).run_id

    async def settings_of_file(self, path: Path) -> tuple[RunSpec, str]:
        """The settings of the run that wrote a file, and their preset. Raises UnknownRun, PresetError."""
        from tui.describe.runs.of_file import settings_of_file

        return await self._in("work", lambda store: settings_of_file(store, path))

    async def detail(self, run_id: str) -> Detail:
        """Raises UnknownRun where it was removed."""
        return await self._in("read", lambda store: runs.detail(store, run_id))

    async def log(self, run_id: str, after: int) -> list[LogEntry]:
        """The next page of a run's log."""
        return await self._in("read", lambda store: store.log(run_id, after, limit=LOG_PAGE))

    async def previews(self, keys: Sequence[str]) -> dict[str, Preview]:
        """The previews of steps and videos by their keys; those that are not there (any more) are left out."""
        lane = self._lanes["read"]
        return await lane.ask(lambda store: _previews(lane.index(store), keys))

    async def shown(self, wanted: Sequence[tuple[Detail, int | None]]) -> list[Shown]:
        """The picture of each run after so many of its steps, None for its video, with what is to be said of it."""
        found = await self.previews([key for each in wanted for key in pictures.keys_of(*each)])
        return [pictures.shown(detail, step, found) for detail, step in wanted]

    async def thumbnails(self, run_ids: Sequence[str]) -> dict[str, Preview]:
        """By run the preview that stands for it; runs without one, and those that were removed, are left out."""
        lane = self._lanes["read"]
        return await lane.ask(lambda store: runs.thumbnails(store, lane.index(store), run_ids))

    async def command_line(self, run_id: str) -> str:
        """The command that makes a run again. Raises UnknownRun, and PresetError where this version cannot read it."""

        def ask(store: Store) -> str:
            from tui.describe.runs.command_line import command_of

            return command_of(store, run_id)

        return await self._in("read", ask)

    async def decode_seconds(self, run_id: str) -> float | None:
        """What decoding took in runs like this one, None where there is none."""
        return await self._in("work", lambda store: plans.decode_seconds(store, run_id))

    async def sigmas(self, run_id: str) -> tuple[float, ...]:
        """The noise levels of a run's whole course, the last one 0; empty where its spec is of a newer version."""
        return await self._in("read", lambda store: plans.sigmas(store, run_id))

    async def open_file(self, path: str) -> None:
        """Open a file in the desktop's player. Raises CannotOpen, with the reason."""
        from tui.app.desktop import open_file

        await asyncio.to_thread(open_file, path)

    async def video_path(self, run_id: str) -> Path | None:
        """Where a run's video can be read: its file, else the store's; None where neither is there (any more)."""

        def ask(store: Store) -> Path | None:
            from engine.output.reading import container
            from engine.results import is_stored
            from store.blobs.blobs import blob_path

            record = store.run(run_id)
            output = Path(record.output)
            if record.output and container(output):
                return output
            for link in store.links_of(run_id):
                if link.stage == "video" and is_stored(store, link.digest):
                    return Path(blob_path(store.root, link.digest))
            return None

        return await self._in("read", ask)

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

    async def plan(self, spec: RunSpec) -> Planned:
        """What a run would compute. Raises as `engine.client.submit` does."""

        def ask(store: Store) -> Planned:
            from tui.describe.plan import planned

            return planned(store, spec)

        return await self._in("work", ask)

    async def plan_of_branch(self, run_id: str, at: At, overrides: Sequence[str]) -> Planned:
        """What a branch would compute. Raises as `engine.client.branch` does."""

        def ask(store: Store) -> Planned:
            from engine import client
            from tui.describe.plan import planned

            wanted = client.branched(store, run_id, at=at, overrides=overrides)
            return planned(store, wanted.spec, segments=wanted.segments, stop_at=wanted.stop_at)

        return await self._in("work", ask)

    async def plan_of_sweep(
        self, spec: RunSpec, over: Sequence[str], stop_at: int | None
    ) -> tuple[int, PlannedSweep | None]:
        """How many variants of a run there would be, and what they would compute together; None where they are too
        many to be planned while somebody types. Raises as `tui.describe.runs.sweeps.variants` does."""

        def ask(store: Store) -> tuple[int, PlannedSweep | None]:
            from tui.describe.runs.sweeps import MAX_PLANNED, num_variants, planned_sweep, variants

            total = num_variants(over)
            if total > MAX_PLANNED:
                return total, None
            members = variants(store, spec, over, stop_at=stop_at)
            return total, planned_sweep(store, members, stop_at=stop_at)

        return await self._in("work", ask)

    async def space(self) -> Space:
        return await self._in("work", spaces.space)

    async def presets(self) -> list[PresetInfo]:
        from presets.library import list_presets

        # like all about presets, beside the lanes: small files, which are there where the store is not
        return await asyncio.to_thread(list_presets)

    async def missing_sizes(self) -> dict[str, str]:
        """Of each preset whose models are not all here: what is to be downloaded, as `69.04 GB`."""

        def ask() -> dict[str, str]:
            from presets.library import list_presets
            from tui.describe.missing import by_preset

            return by_preset(info.name for info in list_presets() if not info.error)

        return await asyncio.to_thread(ask)

    async def preset_info(self, name: str) -> PresetInfo | None:
        """None where no preset has this name."""
        from presets.library import preset_info

        return await asyncio.to_thread(preset_info, name)

    async def load_preset(self, name: str) -> RunSpec:
        """Raises PresetError where it is absent or broken."""
        from presets.library import load_preset

        return await asyncio.to_thread(load_preset, name)

    async def save_preset(
        self, name: str, spec: RunSpec, *, parent: str, description: str | None, overwrite: bool
    ) -> Path:
        """As `modiff presets save` does; where it lies. Raises PresetError."""
        from presets.saving import save_from

        return await asyncio.to_thread(
            save_from, name, spec, parent=parent, description=description, overwrite=overwrite
        )

    async def preset_text(self, path: Path) -> str:
        """What the file of a preset, valid or not, holds. Raises PresetError where it cannot be read."""
        from presets.library import read_preset_text

        return await asyncio.to_thread(read_preset_text, path)

    async def problems_of_preset(self, path: Path, text: str) -> list[PresetError]:
        """What would be wrong with a preset's file, if it held that text."""
        from presets.problems import preset_problems

        return await asyncio.to_thread(preset_problems, path, text=text)

    async def write_preset_text(self, path: Path, text: str, expected: str) -> None:
        """Replace a preset's file as a whole. Raises PresetError where it cannot be, or does not hold what is
        expected."""
        from presets.library import write_preset_text

        await asyncio.to_thread(write_preset_text, path, text, expected=expected)

    async def known_names(self) -> dict[str, tuple[str, ...]]:
        """By role what a field can be set to here. Raises ComponentError where two packages claim one name."""

        def ask() -> dict[str, tuple[str, ...]]:
            from engine.components.known_names import known_names

            return known_names()

        return await asyncio.to_thread(ask)

    async def prompt_warnings(self, spec: RunSpec) -> list[str]:
        """The warnings of `modiff run` about a run's prompts."""

        def ask() -> list[str]:
            from tui.describe.prompt_warnings import prompt_warnings

            return prompt_warnings(spec)

        return await asyncio.to_thread(ask)

    async def models(self) -> list[Found]:
        """Every weight file in every place, told by its header."""

        def ask(_store: Store) -> list[Found]:
            from engine.checkpoints.library import scan_places

            return scan_places()

        return await self._in("work", ask)

    async def inspect(self, path: Path) -> list[Found]:
        """What a weight file is, or all of those in a folder."""

        def ask(_store: Store) -> list[Found]:
            from engine.checkpoints.library import look
            from engine.checkpoints.source import sources_in

            return [look(each) for each in (sources_in(path) if os.path.isdir(path) else [path])]

        return await self._in("work", ask)

    async def known_of(self, found: Found) -> Known:
        """What is remembered of a model's files; a large one is not read."""
        lane = self._lanes["work"]
        num_bytes = found.recognition.file_bytes if found.recognition else 0

        def ask(store: Store) -> Known:
            from tui.describe.known_files import known_of

            return known_of(lane.index(store), found.files, num_bytes)

        return await lane.ask(ask)

    async def components(self) -> list[ComponentRow]:
        """Raises ComponentError where two packages claim one name."""
        return await self._in("work", lambda _store: health.components())

    # Runs

    async def launch(self, spec: RunSpec, preset: str) -> str:
        """Queue a run, checked as on the command line; its id. An engine is for `start_engine`."""

        def ask(store: Store) -> str:
            from engine import client

            return client.submit(store, spec, preset=preset)

        return await self._in("change", ask)

    async def launch_sweep(
        self, spec: RunSpec, preset: str, over: Sequence[str], stop_at: int | None
    ) -> tuple[str, list[str]]:
        """Queue variants of a run, all or none, as `modiff sweep` does; their tag and ids."""

        def ask(store: Store) -> tuple[str, list[str]]:
            from engine.process.launch import retire_other_engines
            from engine.runs.sweep import new_tag, queue_members
            from tui.describe.runs.sweeps import variants

            members = variants(store, spec, over, stop_at=stop_at)
            retire_other_engines(store)
            tag = new_tag()
            return tag, queue_members(store, members, preset=preset, stop_at=stop_at, tag=tag)

        return await self._in("change", ask)

    async def branch(self, run_id: str, at: At, overrides: Sequence[str]) -> str:
        """Queue a branch; its id."""

        def ask(store: Store) -> str:
            from engine import client

            return client.branch(store, run_id, at=at, overrides=overrides)

        return await self._in("change", ask)

    async def resume(self, run_id: str) -> None:
        """Queue a run again that stopped before its end."""

        def ask(store: Store) -> None:
            from engine import client

            client.resume(store, run_id)

        await self._in("change", ask)

    async def finish(self, run_id: str) -> None:
        """Take a run that was to stop early to its end."""

        def ask(store: Store) -> None:
            from engine import client

            client.finish(store, run_id)

        await self._in("change", ask)

    async def cancel(self, run_id: str) -> str:
        """Returns the run's status after that: a running one stops when its present step ends."""
        return await self._in("change", lambda store: store.request_cancel(run_id))

    async def cancel_all(self) -> None:
        """Cancel what waits and ask what runs to stop, all in the same moment: no engine takes one of them instead."""

        def ask(store: Store) -> None:
            going = [*store.runs(limit=health.MOST_RUNNING, status="running"), *store.queued()]
            store.request_cancel_all([record.id for record in going])

        await self._in("change", ask)

    async def pause(self, run_id: str) -> str:
        """Returns the run's status after that: a running one stops when its present step ends."""
        return await self._in("change", lambda store: store.request_pause(run_id))

    async def take_back(self, run_id: str) -> RunRecord:
        """Take a queued run out of the queue, to be edited; its record as it was."""

        def ask(store: Store) -> RunRecord:
            record = store.run(run_id)
            if record.status == "queued":
                store.request_cancel(run_id)
            return record

        return await self._in("change", ask)

    async def reorder(self, run_id: str, before_run_id: str | None) -> None:
        """Put a queued run before another, or (None) last."""
        await self._in("change", lambda store: store.reorder(run_id, before_run_id))

    async def set_tags(self, run_id: str, names: Sequence[str]) -> None:
        """Give a run these tags and no others."""

        def ask(store: Store) -> None:
            before = store.tags_of([run_id])[run_id]
            store.tag(run_id, [name for name in names if name not in before])
            store.untag(run_id, [name for name in before if name not in names])

        await self._in("change", ask)

    async def set_note(self, run_id: str, text: str) -> None:
        await self._in("change", lambda store: store.note(run_id, text))

    async def set_pinned(self, run_id: str, is_pinned: bool) -> None:
        await self._in(
            "change", lambda store: store.pin(run_id) if is_pinned else store.unpin(run_id)
        )

    async def rate(self, run_id: str, rating: int) -> None:
        """1 to 5 stars, 0 for none."""
        await self._in("change", lambda store: store.rate(run_id, rating))

    async def remove(self, run_ids: Sequence[str]) -> None:
        """Remove runs from the list; what they wrote stays."""
        await self._in("change", lambda store: store.remove(run_ids))

    # The store as a whole

    async def preview_removal(self, policy: Policy) -> Removal:
        """What `remove_by` would do now."""
        from store.upkeep.gc import preview

        return await self._in("work", lambda store: preview(store.lineage, policy))

    async def remove_by(self, policy: Policy) -> Removal:
        """Clean up; what was removed. Raises StoreBusy, with nothing done, while a run writes."""
        from store.upkeep.gc import clean

        def ask(store: Store) -> Removal:
            store.recover_if_possible()
            return clean(store.lineage, policy)

        return await self._in("work", ask, to_clean=True)

    async def verify_store(self, on_progress: Callable[[int, int], None]) -> Verdict:
        """Read everything again; on_progress: (bytes done, all bytes), called in another thread. What it raises
        ends the reading and comes out of here."""
        from store.upkeep.verify import verify

        return await self._in("check", lambda store: verify(store.lineage, on_progress=on_progress))

    # The engine

    async def start_engine(self) -> EngineRecord:
        """The live engine, started if there is none. Raises EngineUnavailable."""
        from engine.process.launch import ensure_engine

        def ask(store: Store) -> EngineRecord:
            store.recover()
            return ensure_engine(store)

        return await self._in("engine", ask)

    async def stop_engine(self) -> None:
        """The run at work becomes interrupted after its present step; the queue waits."""
        from engine.process.launch import stop_engine

        await self._in("engine", stop_engine)

    async def kill_engines(self) -> list[EngineRecord]:
        """End the engine by force, for one that hears nothing; those that lived. Raises EngineUnavailable. Not in the
        lane of the engine, where a request to stop may wait for it."""
        from engine.process.launch import kill_engines

        return await self._in("change", kill_engines)

    # Commands

    async def command(self, *arguments: str) -> Any:
        """What `modiff ARGUMENTS --json` prints, as data, in a process of its own: for what needs torch.

        Raises CommandFailed with what is wrong where it did not do it.
        """
        root = await self.root()
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


class _Lane:
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

    async def ask(self, ask: Callable[[Store], Told], *, to_clean: bool = False) -> Told:
        """to_clean: as of store.store.open_as_it_is."""
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

    def index(self, store: Store) -> Index:
        """The index beside the store; to be called in the lane's thread."""
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
