"""A comparison in words: where chains part, what is known of steps and frames, and why not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tui.describe.comparison import (
    chain_line,
    sections,
    settings_section,
    step_curves,
    step_line,
)


def side(**other: Any) -> dict[str, Any]:
    return {
        "run": "a",
        "status": "done",
        "stages": [],
        "step_seconds": None,
        "seconds": None,
        "computed_steps": 5,
        "reused_steps": 0,
        **other,
    }


def comparison(**other: Any) -> dict[str, Any]:
    return {
        "a": side(),
        "b": side(),
        "settings": [],
        "environment": [],
        "chain": {"shared_steps": 5, "steps_a": 5, "steps_b": 5, "same_key_other_bytes": []},
        "steps": None,
        "latents": None,
        "frames": None,
        "reasons": {"steps": "not stored", "latents": "a has none", "frames": "no video"},
        **other,
    }


@pytest.mark.parametrize(
    ("shared", "a", "b", "strays", "told"),
    [
        (5, 5, 5, [], "all 5 steps have the same keys"),
        (2, 5, 5, [], "the same keys for the first 2 steps of 5, then they part"),
        (2, 5, 9, [], "the same keys for the first 2 steps of 5 and 9, then they part"),
        (0, 5, 5, [], "no step of 5 has the same key: they part at the start"),
        (0, 0, 5, [], "no steps to compare"),
        (5, 5, 5, [3], "all 5 steps have the same keys; the same keys gave other bytes at step 4"),
    ],
)
def test_where_chains_part(shared, a, b, strays, told):
    chain = {"shared_steps": shared, "steps_a": a, "steps_b": b, "same_key_other_bytes": strays}
    assert chain_line(chain) == told


def test_settings():
    rows = settings_section(
        [
            {"key": "guidance.scale", "a": 2.5, "b": 4.0, "start": 8, "stop": None},
            {"key": "seed", "a": 1, "b": None, "start": 0, "stop": 3},
        ]
    ).rows
    assert rows == (
        ("guidance.scale", "2.5", "4.0", "from step 9"),
        ("seed", "1", "–", "to step 3"),
    )
    assert settings_section([]).sentence == "the same"


def test_what_could_not_be_compared_says_why():
    told = {section.title: section.sentence for section in sections(comparison())}
    assert (told["latents"], told["frames"]) == ("a has none", "no video")
    assert step_curves(comparison()) == {}
    assert step_line(comparison(), 3) == "not stored"
    assert step_line(comparison(), 0) == ""


def test_steps_that_are_not_finite_are_gaps():
    compared = [
        {"index": 0, "relative_l2": 0.0, "cosine": 1.0},
        {"index": 1, "relative_l2": None, "cosine": None},
    ]
    data = comparison(steps={"of": "latents", "compared": compared, "absent": []})
    (steps, l2), (_, cosine) = step_curves(data).values()
    assert (steps, l2[0]) == ((1.0, 2.0), 0.0)
    assert math.isnan(l2[1])
    assert math.isnan(cosine[1])
    assert step_line(data, 1) == "relative L2 0, cosine 1.000000"
    assert step_line(data, 2) == "relative L2 not finite, cosine not finite"


def test_frames_some_of_which_are_equal():
    frames = {
        "count": 2,
        "width": 64,
        "height": 48,
        "equal": 1,
        "psnr": 33.0,
        "psnr_by_frame": [None, 30.0],
        "ssim": 0.9,
        "ssim_by_frame": [1.0, 0.8],
    }
    told = {s.title: s.sentence for s in sections(comparison(frames=frames))}["frames"]
    assert told == (
        "2 of 64x48, 1 of them equal; PSNR 33.00 dB, worst 30.00 dB in frame 2, of RGB; "
        "SSIM 0.9000, worst 0.8000 in frame 2, of luma"
    )
    equal = {**frames, "equal": 2}
    assert sections(comparison(frames=equal))[4].sentence == "2 of 64x48, all equal"
