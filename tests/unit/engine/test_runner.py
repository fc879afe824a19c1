"""One run after another on real micro weights: order of events, what is stored when, warm models, cancelling."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import client
from engine.checkpoints.locate import locate
from engine.errors import EngineError, RunCancelled, RunFailed
from engine.output import media
from engine.output.mark import read_mark
from engine.output.reading import comment_of
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.blobs.tensors import decode_tensors
from store.errors import StoreFull
from store.lineage.events import (
    ChunkDecoded,
    Event,
    LatentsStored,
    Message,
    PlanMade,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.store import RunRecord, open_store
from tests.executing import SMALL

SEEDS = itertools.count(1000)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with open_store(tmp_path_factory.mktemp("store")) as store:
        yield Runner(store)


def record(runner: Runner, spec: RunSpec, output: Path) -> RunRecord:
    """The record that the store would lease out."""
    run_id = runner.store.enqueue(encode_spec(spec), preset="micro", output=str(output))
    return runner.store.run(run_id)


def spec(*overrides: str) -> RunSpec:
    """A run that no other test has made before: nothing of its steps is stored."""
    own = ["scheduler.steps=3", "output.overwrite=true", f"seed={next(SEEDS)}", *SMALL]
    return load_preset("micro", [*own, *overrides])


def execute(runner: Runner, run: RunRecord, wanted: RunSpec) -> tuple[str, list[Event]]:
    events: list[Event] = []
    return runner.execute(run, wanted, emit=events.append, cancelled=lambda: False), events


def test_stages_in_order_and_latents_before_decoding(runner: Runner, tmp_path: Path) -> None:
    wanted = spec('output.kinds=["video", "frames", "latents"]')
    run = record(runner, wanted, tmp_path / "a.mp4")
    output, events = execute(runner, run, wanted)
    assert output == str(tmp_path / "a.mp4")
    order = [e.stage for e in events if isinstance(e, StageStarted)]
    assert order[0] == "load"  # each component when its stage begins, if it is not in memory
    assert [stage for stage in order if stage != "load"] == [
        "text_encode",
        "denoise",
        "decode",
        "mux",
    ]
    assert order == [e.stage for e in events if isinstance(e, StageFinished)]
    steps = [e for e in events if isinstance(e, StepFinished)]
    assert [(e.step, e.total) for e in steps] == [(1, 3), (2, 3), (3, 3)]
    stored = next(i for i, e in enumerate(events) if isinstance(e, LatentsStored))
    assert stored < next(i for i, e in enumerate(events) if e == StageStarted("decode"))
    latents = decode_tensors(blobs.get(runner.store.root, events[stored].digest))["latents"]
    beside = load_file(tmp_path / "a.safetensors")["latents"]
    assert latents.shape == (1, 16, 2, 4, 4)
    assert torch.equal(latents, beside)
    assert float(latents.std()) == pytest.approx(steps[-1].std, rel=1e-5)
    assert len(list((tmp_path / "a-frames").iterdir())) == 5
    for name in ("a.mp4", "a.safetensors", "a-frames/00000.png", "a-frames/00004.png"):
        mark = read_mark(comment_of(tmp_path / name))
        assert mark is not None
        assert (mark.run, mark.latents) == (run.id, events[stored].digest)
        assert mark.spec().scheduler == wanted.scheduler


def test_models_stay_warm_and_change_with_the_spec(runner: Runner, tmp_path: Path) -> None:
    def loaded(*overrides: str) -> list[str]:
        wanted = spec(*overrides)
        _, events = execute(runner, record(runner, wanted, tmp_path / "b.mp4"), wanted)
        return [e.text for e in events if isinstance(e, Message)]

    loaded()
    assert loaded() == []
    assert loaded("components.vae.dtype=bf16") == ["loaded vae wan-vae (bf16)"]
    assert loaded() == ["loaded vae wan-vae (fp32)"]


def test_a_plan_knows_what_an_engine_holds(runner: Runner, tmp_path: Path) -> None:
    store, wanted = runner.store, spec()
    execute(runner, record(runner, wanted, tmp_path / "a.mp4"), wanted)
    next_one, other = spec(), spec("components.vae.dtype=bf16")
    assert not client.is_warm(store, client.plan(store, next_one))  # no engine lives
    with store.register_engine("engine1", pid=1):
        assert not client.is_warm(store, client.plan(store, next_one))
        store.set_held("engine1", runner.held())
        assert client.is_warm(store, client.plan(store, next_one))
        assert not client.is_warm(store, client.plan(store, other))
        made = client.plan(store, wanted)
        assert not made.needs  # all is stored: nothing to be warm for
        assert not client.is_warm(store, made)


@pytest.mark.parametrize(
    "override",
    [
        "components.denoiser.attention=plain",
        "components.vae.chunk_frames=1",
        "components.vae.tile_size=128",
        "components.denoiser.device=auto",
    ],
)
def test_another_use_of_a_component_loads_nothing(
    runner: Runner, tmp_path: Path, override: str
) -> None:
    def loaded(*overrides: str) -> list[str]:
        own = ["components.denoiser.device=cpu", *overrides]
        wanted = spec(*own)
        _, events = execute(runner, record(runner, wanted, tmp_path / "u.mp4"), wanted)
        return [e.text for e in events if isinstance(e, Message)]

    if override.endswith("auto") and torch.cuda.is_available():
        pytest.skip("auto is another device here")
    loaded()
    assert loaded(override) == []


def test_same_spec_gives_the_same_latents(runner: Runner, tmp_path: Path) -> None:
    """Computed twice, in two stores that know nothing of each other."""
    wanted = spec("output.kinds=['latents']")

    def digest(own: Runner) -> str:
        _, events = execute(own, record(own, wanted, tmp_path / "c.mp4"), wanted)
        assert "decode" not in [e.stage for e in events if isinstance(e, StageStarted)]
        assert next(e for e in events if isinstance(e, PlanMade)).reused_steps == 0
        return next(e.digest for e in events if isinstance(e, LatentsStored))

    with open_store(tmp_path / "other") as other:
        assert digest(runner) == digest(Runner(other))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_cancelling_stops_between_steps(runner: Runner, tmp_path: Path, after: int) -> None:
    wanted = spec()
    events: list[Event] = []

    def num_done() -> int:
        return sum(isinstance(event, StepFinished) for event in events)

    with pytest.raises(RunCancelled):
        runner.execute(
            record(runner, wanted, tmp_path / "d.mp4"),
            wanted,
            emit=events.append,
            cancelled=lambda: num_done() >= after,
        )
    assert not (tmp_path / "d.mp4").exists()
    assert num_done() == after


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("vae.device", "cuda:97", "device 'cuda:97' was asked for, but this machine has"),
        (
            "denoiser.guidance_device",
            "cuda:97",
            "device 'cuda:97' was asked for, but this machine has",
        ),
        ("denoiser.attention", "sdpa-cudnn", "'sdpa-cudnn' does not work on cpu in torch.float32"),
    ],
)
def test_what_does_not_run_here_costs_nothing(
    runner: Runner, tmp_path: Path, key: str, value: str, told: str
) -> None:
    wanted, held = spec(f"components.{key}={value}", "seed=97"), runner.held()
    run = record(runner, wanted, tmp_path / "f.mp4")
    with pytest.raises(EngineError, match=rf"^components\.{key}: {told}"):
        execute(runner, run, wanted)
    assert runner.store.links_of(run.id) == []
    assert runner.held() == held


def test_an_ffmpeg_that_does_not_start_costs_no_steps(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec()
    run = record(runner, wanted, tmp_path / "h.mp4")
    with monkeypatch.context() as patched:
        patched.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
        with pytest.raises(EngineError, match="ffmpeg, which writes videos, is no program"):
            execute(runner, run, wanted)
    assert runner.store.links_of(run.id) == []
    execute(runner, run, wanted)
    with monkeypatch.context() as patched:  # a video that is stored needs none
        patched.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
        execute(runner, run, wanted)


def test_an_output_folder_that_vanished(runner: Runner, tmp_path: Path) -> None:
    """Told by the path that was asked for, not by the draft that could not be made."""
    wanted = spec()
    run = record(runner, wanted, tmp_path / "gone" / "g.mp4")
    with pytest.raises(RunFailed) as caught:
        execute(runner, run, wanted)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/gone/g.mp4 (No such file or directory); `modiff resume {run.id}` tries again, "
        f"`modiff branch {run.id} --at decode --output FILE` writes it elsewhere"
    )


def test_python_face(tmp_path: Path) -> None:
    from engine.api import TextToVideo

    pipeline = TextToVideo.from_preset("micro", ["scheduler.steps=2"])
    video = pipeline("a small yellow star moves up over a dark blue background", seed=1)
    assert video.frames.shape == (17, 64, 64, 3)
    assert video.spec.seed == 1
    assert json.loads(encode_spec(video.spec))["prompt"].startswith("a small yellow star")
    again = pipeline("a small yellow star moves up over a dark blue background", seed=1)
    assert torch.equal(video.frames, again.frames)
    other = pipeline("a large red circle moves left over a black background", seed=1)
    assert not torch.equal(video.frames, other.frames)
    assert video.save(tmp_path / "star.mp4").stat().st_size > 500
    assert media.to_uint8(torch.ones(3, 1, 1, 1)).tolist() == [[[[255, 255, 255]]]]


def test_replaced_weights_are_read_again(runner: Runner, tmp_path: Path) -> None:
    source = locate("vae", "builtin:micro")
    copy = tmp_path / "vae.safetensors"
    shutil.copyfile(source, copy)

    def loaded() -> list[str]:
        wanted = spec(f"components.vae.checkpoint={copy}")
        _, events = execute(runner, record(runner, wanted, tmp_path / "h.mp4"), wanted)
        loads = [e for e in events if isinstance(e, StageFinished) and e.stage == "load"]
        texts = [e.text for e in events if isinstance(e, Message)]
        assert all(load.cached for load in loads) == (texts == [])
        return texts

    loaded()
    assert loaded() == []
    fresh = tmp_path / "fresh.safetensors"
    shutil.copyfile(source, fresh)
    fresh.replace(copy)
    assert loaded() == ["loaded vae wan-vae (fp32)"]


def test_cancelling_while_decoding(runner: Runner, tmp_path: Path) -> None:
    wanted = spec("components.vae.chunk_frames=1", "frames=9")
    chunks: list[ChunkDecoded] = []

    def emit(event: Event) -> None:
        if isinstance(event, ChunkDecoded):
            chunks.append(event)

    with pytest.raises(RunCancelled):
        runner.execute(
            record(runner, wanted, tmp_path / "i.mp4"),
            wanted,
            emit=emit,
            cancelled=lambda: len(chunks) >= 2,
        )
    assert [(c.chunk, c.total) for c in chunks] == [(1, 3), (2, 3)]


def test_a_store_that_cannot_take_the_latents_costs_no_run(
    runner: Runner, tmp_path: Path, monkeypatch
) -> None:
    def full(*_: object) -> str:
        raise StoreFull("no space left on the store's disk")

    monkeypatch.setattr(blobs, "put", full)
    wanted = spec()
    run = record(runner, wanted, tmp_path / "j.mp4")
    output, events = execute(runner, run, wanted)
    assert Path(output).is_file()
    warnings = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    full = "could not be stored: no space left on the store's disk"
    assert all(full in text for text in warnings)
    assert f"the latents {full}" in warnings
    told = [e.text for _, e in runner.store.events(run.id) if isinstance(e, Message)]
    assert told[0].startswith("step 1 could not be stored yet (no space left on the store's disk)")
    assert told[1] == f"3 of the steps {full}"


def test_a_file_that_appeared_during_the_run_stays(runner: Runner, tmp_path: Path) -> None:
    wanted = spec("output.overwrite=false")
    run = record(runner, wanted, tmp_path / "k.mp4")
    (tmp_path / "k.mp4").write_text("mine")
    output, events = execute(runner, run, wanted)
    assert output == str(tmp_path / f"k-{run.id}.mp4")
    assert Path(output).stat().st_size > 500
    assert (tmp_path / "k.mp4").read_text() == "mine"
    (warning,) = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert "k.mp4 appeared during the run" in warning


@pytest.mark.parametrize("kind", ["video", "frames", "latents"])
def test_a_file_that_appears_in_the_last_moment_stays(
    runner: Runner, tmp_path: Path, monkeypatch, kind: str
) -> None:
    """After it was looked for, before it is written."""
    wanted = spec("output.overwrite=false", f"output.kinds={json.dumps([kind])}")
    run = record(runner, wanted, tmp_path / "k.mp4")
    target = tmp_path / {"video": "k.mp4", "frames": "k.mp4", "latents": "k.safetensors"}[kind]
    name = "write_frames" if kind == "frames" else "write_bytes"
    write = getattr(media, name)

    def late(path: Path, data: object, **manner: object) -> None:
        if path == target:
            if kind == "frames":
                target.mkdir()
                (target / "00000.png").write_text("mine")
            else:
                target.write_text("mine")
        write(path, data, **manner)

    monkeypatch.setattr(media, name, late)
    output, events = execute(runner, run, wanted)
    mine = target / "00000.png" if kind == "frames" else target
    assert mine.read_text() == "mine"
    assert Path(output).name.startswith(f"k-{run.id}")
    assert Path(output).exists()
    (warning,) = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert f"{target.name} appeared during the run" in warning
