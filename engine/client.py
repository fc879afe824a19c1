"""How a viewer asks for a run and watches it. Torch-free.

The store is all that viewer and engine share: a viewer may come, go or die at any moment, and
several may follow one run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engine.launch import ensure_engine
from engine.outputs import default_output
from presets.errors import PresetError
from presets.spec import encode_spec
from presets.validation import validate
from store.events import RunFinished
from store.records import QUEUED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from presets.spec import RunSpec
    from store.events import Event
    from store.store import Store


def submit(store: Store, spec: RunSpec, *, preset: str = "", output: str = "") -> str:
    """Check a run and queue it; returns its id.

    output: where the output goes; empty means the spec's own path, or a file in the current folder
    that is named after the run. Raises PresetError, ComponentError or CheckpointError before anything is
    queued, StoreError if it cannot be.
    """
    # reads plugins and file headers: only when asked to run
    from engine.registry import check, settle

    spec = validate(spec)
    path = _output_path(
        output or spec.output.path or default_output(spec.output.kinds), spec.output.kinds
    )
    spec = settle(spec)  # the engine may have been started with other folders
    check(spec)
    return store.enqueue(encode_spec(spec), preset=preset, output=str(path))


def follow(store: Store, run_id: str, *, poll_seconds: float = 0.1) -> Iterator[Event]:
    """The run's events from its first on, as they come, to RunFinished.

    Ends when the run does, however that happens: if its engine dies, the run is recorded as
    interrupted; if it is queued and no engine lives, one is started.
    """
    last_id = 0
    while True:
        new = store.events(run_id, after=last_id)
        for event_id, event in new:
            last_id = event_id
            yield event
            if isinstance(event, RunFinished):
                return
        if not new and not _look_after(store, run_id):
            time.sleep(poll_seconds)


def _look_after(store: Store, run_id: str) -> bool:
    """See to it that the run gets on; whether there may be new events because of that."""
    run = store.run(run_id)
    if run.status == RUNNING and not store.is_engine_alive(run.engine):
        store.recover()
        return True
    if run.status == QUEUED and not store.engines():
        store.recover()
        ensure_engine(store)
    return False


def _output_path(output: str, kinds: Collection[str]) -> Path:
    """The absolute path of an output, in a folder that can take it."""
    try:
        path = Path(output).expanduser().absolute()
    except RuntimeError as error:  # a home directory that cannot be told, such as ~nobody-here
        raise PresetError(f"{output}: {error}", key="output.path") from None
    problem = ""
    if path.is_dir() and "video" in kinds:
        problem = f"{path} is a folder; name a file in it, such as video.mp4"
    elif not path.parent.is_dir():
        problem = f"there is no folder {path.parent}; make it, or choose another"
    elif not os.access(path.parent, os.W_OK):
        problem = f"the folder {path.parent} cannot be written; choose another"
    if problem:
        raise PresetError(problem, key="output.path")
    return path
