"""Which picture of a run is shown, what is said of it, and how fast it plays."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from store.index.previews import Preview
from store.lineage.records import RunLink, RunRecord
from tui.describe.runs.detail import Detail
from tui.describe.runs.previews import VIDEO, keys_of, playing_rate, shown, step_told, video_fps

RECORD = RunRecord(
    id="k3f",
    status="done",
    preset="micro",
    spec_json=b'{"frames": 81, "fps": 16}',
    output="/v/a.mp4",
    engine="e",
    error="",
    cancel_requested=False,
    pause_requested=False,
    created_ns=0,
    started_ns=0,
    ended_ns=1,
    parent="",
    parent_step=None,
    segments=(),
    stop_at=None,
    note="",
    pinned=False,
    latents="",
    environment="",
    origin="local",
)


def link(stage: str, index: int, key: str) -> RunLink:
    return RunLink("k3f", stage, index, key, "", "", None, None, "computed", 0.1)


DETAIL = Detail(
    record=RECORD,
    tags=(),
    spec={},
    children=(),
    stages=(),
    links=(link("step", 0, "one"), link("step", 1, "two"), link("video", 0, "clip")),
    points=(),
    has_latents=True,
    has_output=True,
    has_video=True,
)
CLIP = Preview(17, 1, 1, bytes(51))
STEP = Preview(1, 1, 1, b"RGB")


def test_the_video_of_a_run_that_is_done_and_the_latents_of_its_steps():
    found = {"two": STEP, "clip": CLIP}
    assert keys_of(DETAIL, None) == ["clip", "two"]
    assert keys_of(DETAIL, 1) == ["one"]
    assert keys_of(DETAIL, 0) == keys_of(DETAIL, 3) == []
    video = shown(DETAIL, None, found)
    assert (video.preview, video.told) == (CLIP, VIDEO)
    assert video.fps == pytest.approx(17 * 16 / 81)
    step = shown(DETAIL, 2, found)
    assert (step.preview, step.told, step.fps) == (STEP, step_told(2), None)
    assert "latents" in step.told
    assert shown(DETAIL, 1, found).told == "step 1: no preview"
    assert shown(DETAIL, 0, found).told == "the noise"
    assert shown(DETAIL, 3, found).told == "not computed"


def test_a_video_that_is_not_known_in_small_leaves_the_last_step():
    assert shown(DETAIL, None, {"two": STEP}).told == step_told(2)
    assert shown(DETAIL, None, {}).told == "step 2: no preview"
    assert shown(replace(DETAIL, links=()), None, {}).told == "the noise"


def test_a_run_that_is_gone_on_with_has_no_video_yet():
    going = replace(DETAIL, record=replace(RECORD, status="paused"))
    assert keys_of(going, None) == ["two"]
    assert shown(going, None, {"two": STEP, "clip": CLIP}).preview is STEP


@pytest.mark.parametrize(
    ("spec", "num_frames", "rate"),
    [
        ({"frames": 17, "fps": 8}, 17, 8.0),
        ({"frames": 17, "fps": 24}, 17, 12.0),
        ({"frames": 161, "fps": 16}, 17, 17 * 16 / 161),
        ({"frames": 1, "fps": 16}, 1, 12.0),
        ({"frames": "x", "fps": 16}, 17, None),
        ({"frames": 0, "fps": 16}, 17, None),
        ({}, 17, None),
    ],
)
def test_it_lasts_as_long_as_the_video(spec, num_frames, rate):
    found = playing_rate(json.dumps(spec).encode(), num_frames)
    assert found == (None if rate is None else pytest.approx(rate))


def test_a_file_plays_at_the_rate_that_it_was_written_with():
    assert video_fps(b'{"fps": 8}') == 8.0
    assert video_fps(b"{}") == video_fps(b'{"fps": "x"}') == 16.0
