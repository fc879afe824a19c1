"""Checkpoints that this process has opened: their headers are read and laid out once, as long as no file changes.
Torch-free.

What is remembered counts only while everything that it came from is as it was then: the files themselves, the index
of shards, the folder that was asked for, and whether a `config.json` or an index lies beside them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from engine.checkpoints.formats.reading import facts_of
from engine.checkpoints.formats.table import TICK_NS, Facts
from engine.checkpoints.formats.weight_file import sidecars
from engine.checkpoints.layout import Layout, lay_out
from engine.checkpoints.source import CONFIG, Source, indices_beside, open_source

# Of all that is remembered together: some 60 MB. The largest published model has 1,331.
MAX_TENSORS = 65_536

States = dict[Path, Facts | None]


@dataclass(frozen=True, slots=True)
class _Opened:
    """states: what each path was, None where nothing was there."""

    states: States
    source: Source
    layout: Layout


_remembered: dict[Path, _Opened] = {}  # the one asked for last is the last
_lock = Lock()


def layout_at(path: Path) -> tuple[Source, Layout]:
    """The checkpoint at `path` as `open_source` opens it, and its layout. Both are shared by all who ask: change
    nothing in them. Raises CheckpointError as `open_source` does; refusals are not remembered."""
    begun = time.time_ns()
    with _lock:
        held = _remembered.pop(path, None)
    if held is None or _states(held.states) != held.states:
        source = open_source(path)
        held = _Opened(_states(_sources_of(path, source)), source, lay_out(source))
    if _is_settled(held, begun):
        with _lock:
            _remembered[path] = held
            while sum(len(each.source.tensors) for each in _remembered.values()) > MAX_TENSORS:
                del _remembered[next(iter(_remembered))]
    return held.source, held.layout


def _sources_of(path: Path, source: Source) -> Iterable[Path]:
    """Every path on which it depends what `open_source` gives."""
    yield from (path, source.path, *source.files, source.path.with_name(CONFIG))
    yield from indices_beside(source.path)
    for file in source.files:
        yield from sidecars(file)


def _states(paths: Iterable[Path]) -> States:
    return {path: _state(path) for path in paths}


def _state(path: Path) -> Facts | None:
    try:
        return facts_of(os.stat(path))
    except OSError:
        return None


def _is_settled(held: _Opened, begun: int) -> bool:
    """Whether the states are those of what was read: nothing changed since reading began, or so shortly before that
    the next change might not show."""
    return all(
        facts is None or facts.ctime_ns < begun - TICK_NS for facts in held.states.values()
    ) and all(info.facts in (None, held.states[info.file]) for info in held.source.tensors.values())
