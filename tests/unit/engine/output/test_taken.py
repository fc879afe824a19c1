"""What a run may write, and what it must not write over."""

from __future__ import annotations

import pytest

from engine.output.taken import check_output
from presets.errors import PresetError
from presets.library.loading import load_preset
from store.store import open_store


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def spec(path, *kinds, overwrite=False):
    values = {"output.path": str(path), "output.kinds": kinds, "output.overwrite": overwrite}
    return load_preset("micro", values=values)


@pytest.mark.parametrize(
    ("kinds", "name", "taken"),
    [
        (["video"], "clip.mp4", "clip.mp4"),
        (["video", "latents"], "clip.mp4", "clip.safetensors"),
        (["latents"], "clip.safetensors", "clip.safetensors"),
    ],
)
def test_what_is_there_is_kept_unless_told_otherwise(store, tmp_path, kinds, name, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(PresetError, match=f"{taken} is already there; .*--overwrite"):
        check_output(store, spec(tmp_path / name, *kinds))
    check_output(store, spec(tmp_path / name, *kinds, overwrite=True))


def test_a_folder_of_frames_is_kept_too(store, tmp_path):
    (tmp_path / "clip-frames").mkdir()
    with pytest.raises(PresetError, match="clip-frames is already there"):
        check_output(store, spec(tmp_path / "clip.mp4", "video", "frames"))


@pytest.mark.parametrize(
    ("kinds", "name", "suffix"),
    [(["video"], "clip.avi", ".mp4"), (["video"], "clip", ".mp4"), (["latents"], "l.mp4", ".saf")],
)
def test_an_ending_that_does_not_fit_is_refused_whatever_the_flags(
    store, tmp_path, kinds, name, suffix
):
    with pytest.raises(PresetError, match=rf"output.path: expected .* \{suffix}.*, got {name}"):
        check_output(store, spec(tmp_path / name, *kinds, overwrite=True))


def test_two_waiting_runs_do_not_write_one_file(store, tmp_path):
    path = tmp_path / "clip.mp4"
    first = store.enqueue(b"{}", preset="micro", output=str(path))
    with pytest.raises(PresetError, match=rf"run {first} \(queued\) will write"):
        check_output(store, spec(path, "video"))
    check_output(store, spec(path, "video", overwrite=True))
    store.request_cancel(first)
    check_output(store, spec(path, "video"))


def test_a_name_with_the_runs_id_is_always_free(store, tmp_path):
    check_output(store, spec(tmp_path / "{run}.mp4", "video"))
    check_output(store, spec("", "video"))


@pytest.mark.parametrize("name", ["other.mp4", "x.txt", "nowhere/clip.mp4"])
def test_a_plan_and_a_branch_are_held_to_the_same_rules_as_a_run(
    store, tmp_path, monkeypatch, name
):
    from engine import client
    from tests.stores.recorded_runs import micro, record_run
    from tui.describe.plan import planned

    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.mp4").write_text("mine")
    wanted = spec(tmp_path / name, "video")
    run_id = record_run(store, micro()).id
    for ask in (
        lambda: client.submit(store, wanted),
        lambda: planned(store, wanted),
        lambda: client.branch(store, run_id, at=2, overrides=[f'output.path="{name}"']),
    ):
        with pytest.raises(PresetError, match=r"output\.path: "):
            ask()
    assert store.num_queued() == 0
