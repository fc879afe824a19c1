"""Every step of a run leaves a preview of what it points to, before anybody is told of the step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import client
from engine.chain import previews
from engine.chain.previews import STEP_FRAMES, Thumbnails, preview_of, previewer_of
from engine.models.vae.tiny_decoder import TinyDecoder
from engine.process.version import installed_version
from engine.runner import Runner
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.blobs.tensors import get_tensors
from store.index.index import open_index
from store.index.previews import MAX_FRAMES, MAX_SIDE, Preview, get_preview, put_preview
from store.lineage.events import Event, LinkStored, Message, StepFinished
from store.lineage.records import COMPUTED, REUSED, LinkRecord
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute, plan_in

SEEDS = itertools.count(3000)
MICRO = {"latents_of": "micro", "latent_channels": 16}
WAN = {"latents_of": "wan2.1", "latent_channels": 16}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    root = tmp_path_factory.mktemp("store")
    with (
        open_store(root) as store,
        store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        yield Runner(store)


def spec(*overrides: str) -> RunSpec:
    """A run that no other test has made before, without its decoding."""
    own = ["scheduler.steps=4", 'output.kinds=["latents"]', f"seed={next(SEEDS)}", *SMALL]
    return load_preset("micro", [*own, *overrides])


def finished(runner: Runner, wanted: RunSpec, folder: Path) -> tuple[str, list[Event]]:
    ending = ".mp4" if "video" in wanted.output.kinds else ".safetensors"
    run_id = client.submit(runner.store, wanted, output=str(folder / f"{{run}}{ending}"))
    return run_id, execute(runner, run_id)


def step_keys(store: Store, run_id: str) -> list[str]:
    """From the log: what a viewer knows."""
    events = [event for _, event in store.events(run_id)]
    return [e.key for e in events if isinstance(e, LinkStored) and e.stage == "step"]


def previews_of(store: Store, keys: list[str]) -> list[Preview | None]:
    with open_index(store.root) as index:
        return [get_preview(index, key) for key in keys]


def preview_of_video(store: Store, run_id: str) -> Preview | None:
    """As a viewer finds it."""
    events = [event for _, event in store.events(run_id)]
    (key,) = [e.key for e in events if isinstance(e, LinkStored) and e.stage == "video"]
    return previews_of(store, [key])[0]


def colours(preview: Preview | None) -> np.ndarray:
    assert preview is not None
    shape = (preview.num_frames, preview.height, preview.width, 3)
    return np.frombuffer(preview.pixels, np.uint8).reshape(shape).astype(float)


def noise_of(wanted: RunSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(wanted.seed)
    return torch.randn(1, 16, 2, 4, 4, generator=generator).double()


# Which latents


def previewer() -> Callable[[torch.Tensor], Preview]:
    found = previewer_of(MICRO)
    assert found is not None
    return found


def test_each_vae_has_its_own_previewer_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert previewer()(torch.randn(1, 16, 5, 8, 8)).width == 32
    assert previewer_of(WAN) is preview_of
    assert previewer_of(WAN | {"latent_channels": 48}) is None
    assert previewer_of(MICRO | {"latent_channels": 48}) is None
    assert previewer_of({"latent_channels": 16}) is None
    monkeypatch.setattr(previews, "FILE", "absent.safetensors")
    assert previewer_of(MICRO) is None


def test_a_long_clip_of_a_tiny_decoder_is_cut_like_any_other() -> None:
    found = previews.decoded_preview(TinyDecoder(), torch.randn(1, 16, 21, 15, 26))
    assert (found.num_frames, found.height, found.width) == (STEP_FRAMES, 55, MAX_SIDE)


def test_a_large_clip_becomes_a_small_preview() -> None:
    preview = preview_of(torch.randn(1, 16, 21, 60, 104))
    assert (preview.num_frames, preview.height, preview.width) == (STEP_FRAMES, 55, MAX_SIDE)


# Of a video


def thumbnails_of(*chunks: torch.Tensor) -> Preview:
    thumbnails = Thumbnails()
    for chunk in chunks:
        thumbnails.add(chunk)
    return thumbnails.preview()


def test_a_small_clip_is_its_own_preview() -> None:
    clip = torch.randint(0, 256, (5, 6, 96, 3), dtype=torch.uint8)
    found = thumbnails_of(clip[:1], clip[1:])
    assert found == Preview(5, 6, 96, clip.numpy().tobytes())


@pytest.mark.parametrize(
    ("size", "small"), [((480, 832), (55, 96)), ((832, 480), (96, 55)), ((97, 97), (96, 96))]
)
def test_a_large_clip_becomes_small_frames_spread_over_it(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    chunks = [torch.full((count, *size, 3), 0, dtype=torch.uint8) for count in (1, 4, 16)]
    number = 0
    for chunk in chunks:
        for frame in chunk:
            frame[:] = torch.tensor([number, 255 - number, 7])
            number += 1
    found = thumbnails_of(*chunks)
    assert (found.num_frames, found.height, found.width) == (MAX_FRAMES, *small)
    numbers = colours(found)[:, 0, 0, 0]
    assert numbers[0] == 0
    assert numbers[-1] == 20
    assert set(np.diff(numbers)) == {1, 2}
    assert (colours(found) == colours(found)[:, :1, :1]).all()
    assert (colours(found)[:, 0, 0, 1:] == np.stack([255 - numbers, 0 * numbers + 7], 1)).all()


def test_a_pixel_of_it_is_the_mean_of_its_area() -> None:
    clip = torch.randint(0, 256, (2, 192, 288, 3), dtype=torch.uint8)
    found = colours(thumbnails_of(clip))
    assert found.shape == (2, 64, 96, 3)
    means = clip.double().reshape(2, 64, 3, 96, 3, 3).mean((2, 4)).numpy()
    assert np.abs(found - means).max() <= 0.5 + 1e-4


# In a run


def test_every_step_has_one_of_the_clean_latents_that_it_points_to(
    runner: Runner, tmp_path: Path
) -> None:
    wanted = spec("scheduler.name=euler")
    run_id, _ = finished(runner, wanted, tmp_path)
    links = [link for link in runner.store.links_of(run_id) if link.stage == "step"]
    velocities = [get_tensors(runner.store.root, link.digest)["velocity"] for link in links]
    show = previewer()
    latents = noise_of(wanted)
    sigmas = [link.sigma for link in links] + [0.0]
    for number, velocity in enumerate(velocities):
        clean = latents - sigmas[number] * velocity.double()
        found = colours(previews_of(runner.store, [links[number].key])[0])
        assert np.abs(found - colours(show(clean.float()))).max() <= 1
        latents = latents + (sigmas[number + 1] - sigmas[number]) * velocity.double()


def test_a_preview_is_there_before_anybody_is_told_of_its_step(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_link = Store.record_link
    found: list[bool] = []

    def watched(self: Store, run_id: str, link: LinkRecord, **told: object) -> LinkRecord:
        if told["stage"] == "step":
            found.append(previews_of(self, [link.key]) != [None])
        return record_link(self, run_id, link, **told)

    monkeypatch.setattr(Store, "record_link", watched)
    finished(runner, spec(), tmp_path)
    assert found == [True] * 4


@pytest.mark.parametrize("keep", ["keep.every=0", "keep.every=2", "keep.budget_mb=0"])
def test_steps_that_are_not_kept_have_one_too(runner: Runner, tmp_path: Path, keep: str) -> None:
    run_id, _ = finished(runner, spec(keep), tmp_path)
    keys = step_keys(runner.store, run_id)
    assert len(keys) == 4
    assert None not in previews_of(runner.store, keys)


def test_a_replay_finds_them_where_the_run_left_them(runner: Runner, tmp_path: Path) -> None:
    wanted = spec()
    first, events = finished(runner, wanted, tmp_path)
    steps = [e for e in events if isinstance(e, StepFinished)]
    assert all(0 < e.change < 10 for e in steps)
    again, events = finished(runner, wanted, tmp_path)
    assert plan_in(events).reused_steps == 4
    steps = [e for e in events if isinstance(e, StepFinished)]
    assert [e.source for e in steps] == [REUSED] * 4
    assert all(np.isnan(e.change) for e in steps)
    keys = step_keys(runner.store, again)
    assert keys == step_keys(runner.store, first)
    assert None not in previews_of(runner.store, keys)


def test_a_step_tells_how_far_it_moved_the_latents(runner: Runner, tmp_path: Path) -> None:
    wanted = spec("scheduler.name=euler", "scheduler.steps=1")
    run_id, events = finished(runner, wanted, tmp_path)
    step = next(e for e in events if isinstance(e, StepFinished))
    links = [link for link in runner.store.links_of(run_id) if link.stage == "step"]
    latents = get_tensors(runner.store.root, links[0].latents)["latents"]
    before, after = noise_of(wanted).flatten(), latents.double().flatten()
    expected = float((after - before).square().sum().sqrt() / before.square().sum().sqrt())
    assert step.change == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, MemoryError, torch.OutOfMemoryError, AttributeError]
)
def test_a_preview_that_cannot_be_made_costs_nothing_else(
    runner: Runner, tmp_path: Path, monkeypatch, caplog, error: type[Exception]
) -> None:
    def failing(*_: object) -> Preview:
        raise error("no preview today")

    monkeypatch.setattr(previews, "decoded_preview", failing)
    run_id, events = finished(runner, spec(), tmp_path)
    keys = step_keys(runner.store, run_id)
    assert len(keys) == 4
    assert previews_of(runner.store, keys) == [None] * 4
    assert [e for e in events if isinstance(e, Message) and e.level != "info"] == []
    assert all(link.source == COMPUTED for link in runner.store.links_of(run_id)[:4])
    assert caplog.text.count("no preview today") == 1


def test_an_index_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with (
        open_store(root) as store,
        store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        (root / "locks" / "previews").mkdir()  # where its lock's file should be
        run_id, events = finished(Runner(store), spec(), tmp_path)
        keys = step_keys(store, run_id)
        assert len(keys) == 4
        assert previews_of(store, keys) == [None] * 4
        assert [e for e in events if isinstance(e, Message) and e.level != "info"] == []


def test_a_vae_that_nobody_can_show_gives_none(runner: Runner, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(previews, "previewer_of", lambda facts: None)
    run_id, _ = finished(runner, spec(), tmp_path)
    assert previews_of(runner.store, step_keys(runner.store, run_id)) == [None] * 4


def test_what_is_damaged_or_gone_is_none(runner: Runner, tmp_path: Path) -> None:
    run_id, _ = finished(runner, spec(), tmp_path)
    keys = step_keys(runner.store, run_id)
    with open_index(runner.store.root) as index:
        index.previews.put("preview/" + keys[0], b"damaged")
        index.previews.delete("preview/" + keys[1])
        put_preview(index, keys[2], Preview(1, 1, 1, b"RGB"))
    found = previews_of(runner.store, keys)
    assert found[:3] == [None, None, Preview(1, 1, 1, b"RGB")]
    assert found[3] is not None


def test_the_last_preview_of_the_micro_model_looks_like_the_video(
    runner: Runner, tmp_path: Path
) -> None:
    """Colours too. Of the video there is the video."""
    wanted = load_preset("micro", ['output.kinds=["video", "frames"]'])
    run_id, _ = finished(runner, wanted, tmp_path)
    files = sorted(next(path for path in tmp_path.iterdir() if path.is_dir()).iterdir())
    video = np.stack([np.asarray(Image.open(file)) for file in files]).astype(float)
    assert (colours(preview_of_video(runner.store, run_id)) == video).all()
    small = video.reshape(17, 32, 2, 32, 2, 3).mean((2, 4))
    parts = [small[:1], *(small[start : start + 4] for start in (1, 5, 9, 13))]
    shown = np.stack([part.mean(0) for part in parts])
    last = colours(previews_of(runner.store, step_keys(runner.store, run_id)[-1:])[0])
    assert np.abs(last - shown).mean() < 14


def test_a_video_has_one_before_anybody_is_told_of_it_and_a_copy_of_the_run_finds_it(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_link = Store.record_link
    found: list[bool] = []

    def watched(self: Store, run_id: str, link: LinkRecord, **told: object) -> LinkRecord:
        if told["stage"] == "video":
            found.append(previews_of(self, [link.key]) != [None])
        return record_link(self, run_id, link, **told)

    monkeypatch.setattr(Store, "record_link", watched)
    wanted = spec("scheduler.steps=1", 'output.kinds=["video"]')
    first, _ = finished(runner, wanted, tmp_path)
    again, events = finished(runner, wanted, tmp_path)
    assert found == [True, True]
    assert plan_in(events).stages["decode"] == "stored"
    preview = preview_of_video(runner.store, first)
    assert preview is not None
    assert (preview.num_frames, preview.height, preview.width) == (5, 32, 32)
    assert preview_of_video(runner.store, again) == preview


def test_a_video_whose_preview_cannot_be_made_is_there_all_the_same(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def failing(_: object) -> Preview:
        raise MemoryError("no preview today")

    monkeypatch.setattr(Thumbnails, "preview", failing)
    wanted = spec("scheduler.steps=1", 'output.kinds=["video"]')
    run_id, events = finished(runner, wanted, tmp_path)
    assert preview_of_video(runner.store, run_id) is None
    assert Path(runner.store.run(run_id).output).stat().st_size > 0
    assert [e for e in events if isinstance(e, Message) and e.level != "info"] == []
    assert caplog.text.count("no preview today") == 1
