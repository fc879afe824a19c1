"""The Python face: build from a preset, run, save. The engine's own executor on the user's store, in this process."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from torch import Tensor

from engine.client import settled
from engine.components import choice
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.cut_prompts import cut_line, cut_prompts
from engine.errors import RunCancelled, RunPaused
from engine.output import media
from engine.output.made import RunOutputs
from engine.process.logs import one_line
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.output.formats import choice_of_endings, named_by
from presets.output.rules import format_of, moved
from presets.spec.run import RunSpec
from presets.validation import validate
from store.blobs.tensors import decode_tensors
from store.breaker import Breaker
from store.errors import StoreBusy, StoreError, StoreFull
from store.index.index import open_index
from store.lineage.events import Event
from store.paths import prepare, store_root
from store.store import BUSY_SECONDS, Store, open_store
from store.upkeep.gc import make_room

KINDS = ("frames", "latents")
_CHARACTERS_SHOWN = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """frames: uint8 [T,H,W,3]; latents: fp32 [1,C,F,h,w], what `frames` were decoded from; run: its id in the
    store."""

    frames: Tensor
    latents: Tensor
    spec: RunSpec
    run: str

    def save(self, path: str | Path) -> Path:
        """Writes a video in the format that the ending of `path` stands for, or that of the spec where it has that
        ending; raises PresetError, OSError or EngineError where it cannot."""
        path = Path(path)
        output = msgspec.structs.replace(moved(self.spec.output, str(path)), kinds=("video",))
        if not named_by(str(path)):
            raise PresetError(
                f"expected a name that ends in {choice_of_endings()}, got {path.name}"
            )
        spec = validate(msgspec.structs.replace(self.spec, output=output))
        media.write_video(
            path,
            self.frames,
            format=format_of(output),
            fps=spec.fps,
            scale=(output.scale, output.resample),
            comment=spec.prompt,
        )
        return path


@dataclass(frozen=True)
class TextToVideo:
    """A preset and the models that it runs on, which stay in memory between two calls. store: its folder."""

    spec: RunSpec
    store: Path
    residents: Residents = field(default_factory=Residents)

    @classmethod
    def from_preset(
        cls, preset: str, overrides: Sequence[str] = (), *, store: Path | None = None
    ) -> TextToVideo:
        """preset: a name or a path; overrides: `key=value` as on the command line; store: a folder, the user's
        store where None.

        Raises PresetError, ComponentError, CheckpointError or StoreError before any weights are read.
        """
        root = (store or store_root()).absolute()
        prepare(root)
        spec = choice.settle(load_preset(preset, overrides))
        with open_index(root) as index:
            choice.check(spec, Descriptions(index))
        return cls(spec, root)

    def __call__(self, prompt: str | None = None, *, seed: int | None = None) -> Video:
        """A video of the prompt; what is not given is the preset's.

        It is a run of the store like any other: what is stored of it is not computed again, it is listed, and may be
        watched and cancelled from elsewhere. Warns of a prompt of which the text encoder reads only the beginning.
        Raises PresetError, StoreError, RunCancelled, RunPaused, and the errors of components and checkpoints.
        """
        spec = self.spec
        if prompt is not None:
            spec = msgspec.structs.replace(spec, prompt=prompt)
        if seed is not None:
            spec = msgspec.structs.replace(spec, seed=seed)
        spec = validate(spec)
        with open_store(self.store) as store:
            spec = settled(store, spec).spec
        for name, cut in cut_prompts(spec).items():
            warnings.warn(cut_line(name, cut, _shown(cut.text)), stacklevel=2)
        breaker = Breaker(BUSY_SECONDS)
        with open_store(self.store, breaker=breaker) as store, store.alone() as own:
            run_id = store.enqueue(encode_spec(spec), preset="", output="", engine=own)
            with _ended(store, run_id):
                made = self._made(store, run_id, spec)
        assert made.latents is not None
        return Video(made.frames, decode_tensors(made.latents)["latents"], spec, run_id)

    def _made(self, store: Store, run_id: str, spec: RunSpec) -> RunOutputs:
        with Runner(store, self.residents) as runner:
            return runner.made(
                store.run(run_id),
                spec,
                KINDS,
                emit=_log(store, run_id),
                cancelled=lambda: store.cancel_requested(run_id),
                paused=lambda: store.pause_requested(run_id),
            )


def _shown(text: str) -> str:
    """The beginning of a text that is told, on one line and with nothing that a terminal would obey."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[: _CHARACTERS_SHOWN - 1].rstrip()}…"


def _log(store: Store, run_id: str) -> Callable[[Event], None]:
    """Takes the events of a run; one that the store cannot take is dropped."""

    def emit(event: Event) -> None:
        with contextlib.suppress(StoreFull, StoreBusy):
            store.append(run_id, [event])

    return emit


@contextlib.contextmanager
def _ended(store: Store, run_id: str) -> Iterator[None]:
    """Records how a run ends, whatever happens in the block."""
    status, error = "interrupted", "its Python process was interrupted"
    try:
        yield
        status, error = "done", ""
    except RunCancelled:
        status, error = "cancelled", ""
        raise
    except RunPaused:
        status, error = "paused", ""
        raise
    except Exception as problem:
        status, error = "failed", one_line(problem)
        raise
    finally:
        with contextlib.suppress(StoreError):  # a clean-up that fails costs no run
            make_room(store.root)
        _finish(store, run_id, status, error)


def _finish(store: Store, run_id: str, status: str, error: str) -> None:
    """Records an end. Where the store does not take it, whoever looks next ends the run: what was made is not lost
    for that."""
    try:
        store.finish(run_id, status, error=error)
    except StoreError as problem:
        log.warning("run %s: its end (%s) is not recorded: %s", run_id, status, one_line(problem))
