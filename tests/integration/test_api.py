"""The Python face: its runs are runs of the store."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from engine.api import TextToVideo
from engine.components.memory.residents import Residents
from engine.errors import RunCancelled
from presets.errors import PresetError
from store.errors import StoreFull
from store.lineage.events import PlanMade
from store.store import Store, open_store
from tests.executing import SMALL

SHORT = ["scheduler.steps=3", *SMALL]


def plan_of(store: Store, run_id: str) -> PlanMade:
    [plan] = [event for _, event in store.events(run_id) if isinstance(event, PlanMade)]
    return plan


def test_a_run_is_on_record_and_its_steps_are_not_computed_again(tmp_path: Path) -> None:
    pipeline = TextToVideo.from_preset("micro", SHORT, store=tmp_path)
    first = pipeline("a red circle", seed=4)
    again = pipeline("a red circle", seed=4)
    other = pipeline("a red circle", seed=5)
    assert torch.equal(first.latents, again.latents)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.latents, other.latents)
    with open_store(tmp_path) as store:
        assert [run.id for run in store.runs(limit=9)] == [other.run, again.run, first.run]
        assert {run.status for run in store.runs(limit=9)} == {"done"}
        stored = [plan_of(store, video.run).reused_steps for video in (first, again, other)]
        assert stored == [0, 3, 0]
        assert store.engines() == []
    path = again.save(tmp_path / "circle.mp4")
    assert path.read_bytes()[4:8] == b"ftyp"
    assert again.save(tmp_path / "circle.gif").read_bytes()[:6] == b"GIF89a"
    with pytest.raises(
        PresetError, match=r"expected a name that ends in \.mp4, .*, got circle\.avi"
    ):
        again.save(tmp_path / "circle.avi")


def test_a_prompt_that_is_cut_is_warned_of(tmp_path: Path) -> None:
    pipeline = TextToVideo.from_preset("micro", ["scheduler.steps=1", *SMALL], store=tmp_path)
    long = "a red circle " * 200 + "that\x1b[31m is not read"
    with pytest.warns(UserWarning, match=r"^the prompt has \d+ tokens, .* cut off: ") as told:
        pipeline(long)
    assert [Path(each.filename).name for each in told] == ["test_api.py"]
    assert "\x1b" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline("a red circle")


def test_a_run_can_be_cancelled_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = TextToVideo.from_preset("micro", SHORT, store=tmp_path)
    use = Residents.use

    def cancelled_meanwhile(self, *arguments, **named):
        with open_store(tmp_path) as other:
            [run] = other.runs(limit=9)
            assert run.status == "running"
            other.request_cancel(run.id)
        return use(self, *arguments, **named)

    monkeypatch.setattr(Residents, "use", cancelled_meanwhile)
    with pytest.raises(RunCancelled):
        pipeline()
    with open_store(tmp_path) as store:
        assert [run.status for run in store.runs(limit=9)] == ["cancelled"]


def test_a_run_that_fails_is_recorded_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = TextToVideo.from_preset("micro", SHORT, store=tmp_path)

    def broken(self, *arguments, **named):
        raise OSError(5, "Input/output error", "weights")

    monkeypatch.setattr(Residents, "use", broken)
    with pytest.raises(OSError, match="Input/output"):
        pipeline()
    with open_store(tmp_path) as store:
        [run] = store.runs(limit=9)
        assert (run.status, run.error) == ("failed", "weights: Input/output error")


def test_a_video_is_not_lost_where_its_end_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = TextToVideo.from_preset("micro", SHORT, store=tmp_path)

    def full(self, *arguments, **named):
        raise StoreFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", full)
        video = pipeline()
    assert len(video.frames) == 5
    with open_store(tmp_path) as store:
        assert store.recover() == [video.run]
        assert store.run(video.run).status == "interrupted"
