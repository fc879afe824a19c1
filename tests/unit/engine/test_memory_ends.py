"""Memory ends in a run, at every kind of place that asks for some: how it goes on, what it says and what it makes."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine import client
from engine import runner as runners
from engine.components import clip, umt5, wan_dit, wan_vae
from engine.components.wan_dit import LocalPredict
from engine.errors import EngineError, RunFailed
from engine.models.image_encoders.clip import CLIP
from engine.models.text_encoders.t5 import UMT5
from engine.models.vae.wanvae import WanVAE
from engine.output import media
from engine.output.mark import Mark, read_mark
from engine.output.reading import comment_of
from engine.process.version import installed_version
from engine.runner import Runner
from presets.encoding import decode_spec
from presets.library import load_preset
from presets.spec import RunSpec
from store.blobs import blobs
from store.lineage.events import Event, Message, StageFinished, StageStarted, StepFinished, Verified
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute

SEEDS = itertools.count(7000)
LINES = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "python": MemoryError(),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    ),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "cublas": RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"
    ),
}
IDLE = "goes on without the models that are idle"


@contextmanager
def opened_at(root: Path) -> Iterator[Store]:
    with (
        open_store(root) as store,
        store.register_engine(ENGINE, pid=1, version=installed_version()),
    ):
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened_at(tmp_path / "store") as opened:
        yield opened


def spec(*overrides: str, preset: str = "micro") -> RunSpec:
    own = ["scheduler.steps=3", "guidance.scale=1", f"seed={next(SEEDS)}", *SMALL]
    return load_preset(preset, [*own, *overrides])


def failing(do: Callable[..., Any], error: Exception, *, calls: range) -> Callable[..., Any]:
    """`do`, in which memory ends at these calls, counted from 0."""
    count = itertools.count()

    def call(*given: Any, **named: Any) -> Any:
        if next(count) in calls:
            raise error
        return do(*given, **named)

    return call


class Ran:
    """One run from the queue to its end, and what is known of it."""

    def __init__(self, runner: Runner, wanted: RunSpec, output: Path) -> None:
        self.store = runner.store
        self.id = client.submit(self.store, wanted, output=str(output))
        self.events = execute(runner, self.id)
        videos = [each for each in self.store.links_of(self.id) if each.stage == "video"]
        self.video, self.latents = videos and videos[0].digest, self.store.run(self.id).latents
        self.spec = decode_spec(self.store.run(self.id).spec_json)

    @property
    def warnings(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Message) and e.level == "warning"]

    @property
    def steps(self) -> list[tuple[int, str]]:
        return [(e.step, e.source) for e in self.events if isinstance(e, StepFinished)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunSpec, Ran]]:
    """Settings with work for every kind of component, and their run where memory does not end."""
    folder = tmp_path_factory.mktemp("plain")
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(folder / "given.png")
    given = f"image.path={folder / 'given.png'}"
    wanted = spec(given, "components.vae.chunk_frames=1", preset="micro-i2v")
    with opened_at(folder / "store") as store:
        yield wanted, Ran(Runner(store), wanted, folder / "a.mp4")


COMPUTED = [(1, "computed"), (2, "computed"), (3, "computed")]
# what is asked for memory -> (its place, the call at which there is none, the stage that is told)
PLACES: dict[str, tuple[Any, str, int, str]] = {
    "load text encoder": (umt5, "load", 0, "load of the text encoder"),
    "load image encoder": (clip, "load", 0, "load of the image encoder"),
    "load denoiser": (wan_dit, "load", 0, "load of the denoiser"),
    "load VAE": (wan_vae, "load", 0, "load of the VAE"),
    "text": (UMT5, "encode", 0, "text_encode"),
    "image": (CLIP, "encode", 0, "image_encode"),
    "condition": (WanVAE, "encode", 0, "encode"),
    "step": (LocalPredict, "__call__", 1, "denoise"),
    "chunk": (WanVAE, "_decoded_chunk", 1, "decode"),
    "video": (media, "encode_video", 0, "decode"),
    "file": (media, "write_bytes", 0, "mux"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_goes_on_where_idle_models_were_in_the_way(
    store: Store,
    tmp_path: Path,
    plain: tuple[RunSpec, Ran],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Exact: the same latents and video as without, and no step is computed twice."""
    at, name, call, stage = PLACES[place]
    wanted, expected = plain
    error = LINES[list(LINES)[list(PLACES).index(place) % len(LINES)]]
    runner = Runner(store)
    # so that something is idle that the run does not use
    before = ["prompt=a star", "components.text_encoder.dtype=bf16", 'output.kinds=["latents"]']
    Ran(runner, spec("scheduler.steps=1", *before), tmp_path / "before.safetensors")
    monkeypatch.setattr(at, name, failing(getattr(at, name), error, calls=range(call, call + 1)))
    ran = Ran(runner, wanted, tmp_path / "b.mp4")
    assert ran.warnings == [f"out of memory in {stage}: {IDLE}"]
    assert ran.steps == COMPUTED
    assert (ran.latents, ran.video) == (expected.latents, expected.video)
    assert ran.spec.components == expected.spec.components
    started = [e.stage for e in ran.events if isinstance(e, StageStarted)]
    finished = [e.stage for e in ran.events if isinstance(e, StageFinished) and e.stage != "load"]
    assert len(finished) == len(set(finished))  # nothing that has ended is told of again
    assert started[-1] == "mux"


def test_a_decode_goes_on_in_tiles_and_the_run_is_what_it_was_made_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec("width=256", "height=160", "scheduler.steps=2")
    runner = Runner(store)
    chunk = WanVAE._decoded_chunk

    def whole_frames_fail(self: WanVAE, latents: Any, tiles: Any, *rest: Any) -> Any:
        if len(tiles) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return chunk(self, latents, tiles, *rest)

    monkeypatch.setattr(WanVAE, "_decoded_chunk", whole_frames_fail)
    ran = Ran(runner, wanted, tmp_path / "a.mp4")
    assert ran.warnings == [
        f"out of memory in decode: {IDLE}",
        "out of memory in decode: goes on with tiles of 128 pixels (approximate)",
    ]
    assert ran.steps == COMPUTED[:2]
    assert ran.spec.components.vae.tile_size == 128
    # asked for with these settings it is the same video, which is stored
    same = Ran(runner, ran.spec, tmp_path / "b.mp4")
    assert {source for _, source in same.steps} == {"reused"}
    assert same.video == ran.video
    assert same.warnings == []
    # and with the first ones it is another, which is not
    monkeypatch.undo()
    first = Ran(runner, wanted, tmp_path / "c.mp4")
    assert {source for _, source in first.steps} == {"reused"}
    assert first.video != ran.video
    assert mark_in(tmp_path / "a.mp4").spec().components.vae.tile_size == 128


def test_smaller_tiles_leave_the_steps_of_a_run_from_a_picture_as_they_are(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picture went through the same VAE, in whole frames: that, and the steps that hang on it, stay on record."""
    Image.fromarray(np.full((160, 160, 3), 90, np.uint8)).save(tmp_path / "given.png")
    given = [f"image.path={tmp_path / 'given.png'}", "width=160", "height=160", "scheduler.steps=2"]
    wanted = spec(*given, preset="micro-i2v")
    runner = Runner(store)
    chunk = WanVAE._decoded_chunk

    def whole_frames_fail(self: WanVAE, latents: Any, tiles: Any, *rest: Any) -> Any:
        if len(tiles) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return chunk(self, latents, tiles, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(WanVAE, "_decoded_chunk", whole_frames_fail)
        ran = Ran(runner, wanted, tmp_path / "a.mp4")
    assert ran.warnings[-1].endswith("goes on with tiles of 128 pixels (approximate)")
    assert ran.steps == COMPUTED[:2]
    assert ran.spec.components.vae.tile_size == 128
    (segment,) = store.run(ran.id).segments
    assert (segment.stop, decode_spec(segment.spec_json).components.vae.tile_size) == (2, 0)
    assert mark_in(tmp_path / "a.mp4").branched == (2,)
    (verdict,) = verdicts(execute(runner, client.verify(store, ran.id)))
    assert verdict.identical
    # by hand it is the same: with whole frames for the picture, and tiles for the video
    plain = Ran(runner, wanted, tmp_path / "b.mp4")
    assert plain.latents == ran.latents
    branch = client.branch(store, plain.id, at="decode", overrides=["components.vae.tile_size=128"])
    events = execute(runner, branch)
    assert {e.source for e in events if isinstance(e, StepFinished)} == {"reused"}
    video = [each.digest for each in store.links_of(branch) if each.stage == "video"]
    assert video == [ran.video]


def verdicts(events: list[Event]) -> list[Verified]:
    return [event for event in events if isinstance(event, Verified)]


def mark_in(path: Path) -> Mark:
    mark = read_mark(comment_of(path))
    assert mark is not None
    return mark


def test_a_denoiser_keeps_half_of_its_blocks_and_then_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of its steps fails three times: the two before are computed once."""
    wanted = spec()
    with opened_at(tmp_path / "other") as other:
        plain = Ran(Runner(other), wanted, tmp_path / "a.mp4")
    call = failing(LocalPredict.__call__, torch.OutOfMemoryError("full"), calls=range(2, 5))
    monkeypatch.setattr(LocalPredict, "__call__", call)
    ran = Ran(Runner(store), wanted, tmp_path / "b.mp4")
    assert ran.warnings[0] == f"out of memory in denoise: {IDLE}"
    assert ran.warnings[1].startswith("out of memory in denoise: goes on with ")
    assert ran.warnings[2] == "out of memory in denoise: goes on with no block kept on the device"
    assert ran.spec.components.denoiser.resident_blocks == "0"
    assert ran.steps == COMPUTED
    assert (ran.latents, ran.video) == (plain.latents, plain.video)


def test_an_encoder_goes_to_the_cpu(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other device here: that it is not on the CPU is what is told."""
    ended = runners._ended

    def elsewhere(*given: Any) -> Any:
        return runners.Ended(**{**vars(ended(*given)), "on_cpu": False})

    monkeypatch.setattr(runners, "_ended", elsewhere)
    monkeypatch.setattr(umt5, "load", failing(umt5.load, MemoryError(), calls=range(1)))
    ran = Ran(Runner(store), spec("components.text_encoder.device=auto"), tmp_path / "a.mp4")
    told = "out of memory in load of the text encoder: goes on with the text encoder on the CPU"
    assert ran.warnings == [told]
    assert ran.spec.components.text_encoder.device == "cpu"
    assert ran.steps == COMPUTED


@pytest.mark.parametrize("line", LINES)
def test_at_the_end_there_is_one_line_and_the_latents_are_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    wanted = spec("scheduler.steps=2")
    runner = Runner(store)
    with monkeypatch.context() as patched:
        patched.setattr(
            WanVAE, "_decoded_chunk", failing(WanVAE._decoded_chunk, LINES[line], calls=range(99))
        )
        with pytest.raises(RunFailed) as caught:
            Ran(runner, wanted, tmp_path / "a.mp4")
    (run,) = store.runs(limit=1)
    assert str(caught.value) == (
        "out of memory in decode, also without the models that are idle, with 1 latent frame at a time; the latents "
        f"are kept: close what else takes memory, and `modiff resume {run.id}`"
    )
    assert decode_spec(run.spec_json).components.vae == wanted.components.vae
    assert blobs.is_stored(store.root, run.latents)
    assert runner.models() == ()
    store.finish(run.id, "failed")
    client.resume(store, run.id)
    events = execute(runner, run.id)
    assert {e.source for e in events if isinstance(e, StepFinished)} == {"reused"}
    assert store.run(run.id).status == "done"


def test_a_verification_goes_on_without_idle_models(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(store)
    ran = Ran(runner, spec("scheduler.steps=2"), tmp_path / "a.mp4")
    call = failing(LocalPredict.__call__, torch.OutOfMemoryError("full"), calls=range(1))
    monkeypatch.setattr(LocalPredict, "__call__", call)
    events: list[Event] = execute(runner, client.verify(store, ran.id))
    assert [e.text for e in events if isinstance(e, Message) and e.level == "warning"] == [
        f"out of memory in denoise: {IDLE}"
    ]
    (verdict,) = verdicts(events)
    assert verdict.identical


def test_another_error_is_told_as_it_is(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = failing(UMT5.encode, RuntimeError("shapes do not fit"), calls=range(9))
    monkeypatch.setattr(UMT5, "encode", failure)
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        Ran(Runner(store), spec(), tmp_path / "a.mp4")
    assert not isinstance(caught.value, EngineError)
