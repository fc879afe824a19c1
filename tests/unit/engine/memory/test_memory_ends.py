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
from torch import Tensor

from engine import client
from engine import runner as runners
from engine.components.providers import clip, umt5, wan_dit, wan_vae
from engine.components.providers.wan_dit import LocalPredict
from engine.errors import OutOfMemory, RunFailed
from engine.fit import lighter
from engine.fit.out_of_memory import out_of_memory_explained
from engine.models.image_encoders.clip import CLIP
from engine.models.text_encoders.t5 import UMT5
from engine.models.vae.wanvae import WanVAE
from engine.output import media
from engine.output.mark import Mark, read_mark
from engine.output.reading import comment_of
from engine.process.version import installed_version
from engine.runner import Runner
from presets.encoding import decode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.lineage.events import Event, Message, StageFinished, StageStarted, StepFinished, Verified
from store.store import Store, open_store
from tests.executing import ENGINE, execute
from tests.pretended import pretended

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
TILED = ("width=80", "frames=1", "scheduler.steps=2")  # one more than the smallest of tiles
IDLE = "goes on without the models that are idle"


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lighter, "TILES", (64,))


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
    own = [
        "width=16",
        "height=16",
        "frames=5",
        "scheduler.steps=3",
        "guidance.scale=1",
        f"seed={next(SEEDS)}",
    ]
    return load_preset(preset, [*own, *overrides])


def failing(do: Callable[..., Any], error: Exception, *, calls: range) -> Callable[..., Any]:
    """`do`, in which memory ends at these calls, counted from 0."""
    count = itertools.count()

    def call(*given: Any, **named: Any) -> Any:
        if next(count) in calls:
            raise error
        return do(*given, **named)

    return call


_decode_chunks = WanVAE.decode_chunks


def only_in_tiles(self: WanVAE, latents: Tensor, **options: Any) -> Iterator[Tensor]:
    """As `WanVAE.decode_chunks`; for whole frames there is no memory."""
    if not options["tile_size"]:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return _decode_chunks(self, latents, **options)


class Ran:
    """One run from the queue to its end, and what is known of it."""

    def __init__(self, runner: Runner, wanted: RunSpec, output: Path) -> None:
        self.store = runner.store
        self.id = client.submit(self.store, wanted, output=str(output))
        self.events = execute(runner, self.id)
        videos = [each for each in self.store.links_of(self.id) if each.stage == "video"]
        self.video, self.latents = videos and videos[0].digest, self.store.run(self.id).latents
        self.video_key = videos and videos[0].key
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
# what asks for memory, at which call there is none, and the stage that is told, in the order of a run
Place = tuple[Any, str, int, str]
LOADS: list[Place] = [
    (umt5, "load", 0, "load of the text encoder"),
    (clip, "load", 0, "load of the image encoder"),
    (wan_vae, "load", 0, "load of the VAE"),
    (wan_dit, "load", 0, "load of the denoiser"),
]
WORK: list[Place] = [
    (UMT5, "encode", 0, "text_encode"),
    (CLIP, "encode", 0, "image_encode"),
    (WanVAE, "encode_parts", 0, "encode"),
    (LocalPredict, "__call__", 1, "denoise"),
    (WanVAE, "_decoded_chunk", 1, "decode"),
    (media, "write_bytes", 0, "mux"),
]
VIDEO: list[Place] = [(media, "encode_video", 0, "decode")]


@pytest.mark.parametrize("places", [LOADS, WORK, VIDEO], ids=["loads", "work", "video"])
def test_a_run_goes_on_wherever_idle_models_were_in_the_way(
    store: Store,
    tmp_path: Path,
    plain: tuple[RunSpec, Ran],
    monkeypatch: pytest.MonkeyPatch,
    places: list[Place],
) -> None:
    """Exact: the same latents and video as without, and no step is computed twice."""
    wanted, expected = plain
    runner = Runner(store)
    # so that something is idle from the first stage on
    before = ["prompt=a star", "components.text_encoder.dtype=bf16", 'output.kinds=["latents"]']
    Ran(runner, spec("scheduler.steps=1", *before), tmp_path / "before.safetensors")
    for (at, name, call, _), error in zip(places, itertools.cycle(LINES.values()), strict=False):
        there_is_none = failing(getattr(at, name), error, calls=range(call, call + 1))
        monkeypatch.setattr(at, name, there_is_none)
    ran = Ran(runner, wanted, tmp_path / "b.mp4")
    assert ran.warnings == [f"out of memory in {stage}: {IDLE}" for _, _, _, stage in places]
    assert ran.steps == COMPUTED
    assert (ran.latents, ran.video) == (expected.latents, expected.video)
    assert ran.spec.components == expected.spec.components
    started = [e.stage for e in ran.events if isinstance(e, StageStarted)]
    finished = [e.stage for e in ran.events if isinstance(e, StageFinished) and e.stage != "load"]
    assert len(finished) == len(set(finished))  # nothing that has ended is told of again
    assert started[-1] == "mux"


@pytest.mark.usefixtures("small_tiles")
def test_a_decode_goes_on_in_tiles_and_the_run_is_what_it_was_made_with(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(*TILED)
    runner = Runner(store)

    monkeypatch.setattr(WanVAE, "decode_chunks", only_in_tiles)
    ran = Ran(runner, wanted, tmp_path / "a.mp4")
    assert ran.warnings == [
        f"out of memory in decode: {IDLE}",
        "out of memory in decode: goes on with tiles of 64 pixels (approximate)",
    ]
    assert ran.steps == COMPUTED[:2]
    assert ran.spec.components.vae.tile_size == 64
    # asked for with these settings it is the same video, which is stored
    same = Ran(runner, ran.spec, tmp_path / "b.mp4")
    assert {source for _, source in same.steps} == {"reused"}
    assert same.video == ran.video
    assert same.warnings == []
    # and with the first ones it is another, which is not
    monkeypatch.undo()
    first = Ran(runner, wanted, tmp_path / "c.mp4")
    assert {source for _, source in first.steps} == {"reused"}
    assert first.video_key != ran.video_key == same.video_key
    assert mark_in(tmp_path / "a.mp4").spec().components.vae.tile_size == 64


@pytest.mark.usefixtures("small_tiles")
def test_smaller_tiles_leave_the_steps_of_a_run_from_a_picture_as_they_are(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its picture went through the same VAE, in whole frames: that, and the steps that hang on it, stay on record."""
    Image.fromarray(np.full((16, 80, 3), 90, np.uint8)).save(tmp_path / "given.png")
    wanted = spec(f"image.path={tmp_path / 'given.png'}", *TILED, preset="micro-i2v")
    runner = Runner(store)

    with monkeypatch.context() as patched:
        patched.setattr(WanVAE, "decode_chunks", only_in_tiles)
        ran = Ran(runner, wanted, tmp_path / "a.mp4")
    assert ran.warnings[-1].endswith("goes on with tiles of 64 pixels (approximate)")
    assert ran.steps == COMPUTED[:2]
    assert ran.spec.components.vae.tile_size == 64
    (segment,) = store.run(ran.id).segments
    assert (segment.stop, decode_spec(segment.spec_json).components.vae.tile_size) == (2, 0)
    assert mark_in(tmp_path / "a.mp4").branched == (2,)
    (verdict,) = verdicts(execute(runner, client.verify(store, ran.id)))
    assert verdict.identical
    # by hand it is the same: with whole frames for the picture, and tiles for the video
    plain = Ran(runner, wanted, tmp_path / "b.mp4")
    assert plain.latents == ran.latents
    tiles = ["components.vae.tile_size=64", "components.vae.tile_overlap=32"]
    branch = client.branch(store, plain.id, at="decode", overrides=tiles)
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


@pytest.mark.parametrize(("full", "others"), [("cuda:1", "cuda:0"), ("cuda:0", "cuda:1")])
def test_both_halves_of_the_guidance_run_where_there_is_memory(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, others: str
) -> None:
    load = wan_dit.load

    def loaded(part: Any, about: Any = None) -> Any:
        if part.device == full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load(part, about)

    monkeypatch.setattr(wan_dit, "load", loaded)
    on = ["denoiser.device=cuda:0", "denoiser.guidance_device=cuda:1", "vae.device=cpu"]
    places = [f"components.{each}" for each in (*on, "text_encoder.device=cpu")]
    wanted = spec("guidance.scale=2", "scheduler.steps=1", *places)
    with pretended(monkeypatch):
        ran = Ran(Runner(store), wanted, tmp_path / "a.mp4")
    assert ran.warnings == [
        f"out of memory in load of the denoiser: {IDLE}",
        f"out of memory in load of the denoiser: goes on with both halves of the guidance on {others}",
    ]
    denoiser = ran.spec.components.denoiser
    assert (denoiser.device, denoiser.guidance_device) == (others, "")
    assert ran.steps == COMPUTED[:1]


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
def test_whatever_says_that_there_is_no_memory_is_known(line: str) -> None:
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory in load of the VAE$") as caught,
        out_of_memory_explained("load", "vae"),
    ):
        raise LINES[line]
    assert (caught.value.stage, caught.value.kind) == ("load", "vae")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not fit"), OSError(errno.ENOENT, "gone"), RunFailed("out of memory")],
)
def test_what_is_another_error_stays_one(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, out_of_memory_explained("load", "vae"):
        raise error
    assert caught.value is error


def test_at_the_end_there_is_one_line_and_the_latents_are_kept(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec("scheduler.steps=2")
    runner = Runner(store)
    with monkeypatch.context() as patched:
        none = failing(WanVAE._decoded_chunk, LINES["cpu"], calls=range(99))
        patched.setattr(WanVAE, "_decoded_chunk", none)
        with pytest.raises(RunFailed) as caught:
            Ran(runner, wanted, tmp_path / "a.mp4")
    (run,) = store.runs(limit=1)
    assert str(caught.value) == (
        "out of memory in decode, also without the models that are idle, with 1 latent frame at a time; the latents "
        f"are kept: close what else takes memory, and `modiff resume {run.id}`"
    )
    assert decode_spec(run.spec_json).components.vae == wanted.components.vae
    assert blobs.is_stored(store.root, run.latents)
    assert [each.kind for each in runner.models()] == ["vae"]
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


def test_an_attention_kernel_for_which_there_is_no_memory_is_none_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = failing(lambda q, k, v: q, torch.OutOfMemoryError("CUDA out of memory"), calls=range(1))
    monkeypatch.setattr("engine.models.attention.get_attention", lambda name: none)
    with pytest.raises(torch.OutOfMemoryError):
        wan_dit._try_attention("sdpa", 8, torch.device("cpu"), torch.float32)
    assert wan_dit._try_attention("sdpa", 8, torch.device("cpu"), torch.float32) is none
