"""The meter: right on rendered truth, and not to be talked into calling a wrong clip right."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.micro.grammar import Attributes, sample_attributes
from examples.micro.measures.meter import FIELDS, judge, read_clip, scores, unit_area
from examples.micro.world import render

RED_CIRCLE = Attributes("red", "dark blue", "circle", "large", "left")


def rendered(attributes: Attributes, seed: int = 0) -> Tensor:
    return render([attributes], random.Random(seed))[0]


def test_rendered_truth_is_read_right() -> None:
    rng = random.Random(5)
    wanted = [sample_attributes(rng) for _ in range(120)]
    readings = [read_clip(clip) for clip in render(wanted, rng)]
    table = scores(judge(a, r) for a, r in zip(wanted, readings, strict=True))
    assert min(table.values()) >= 0.98, table
    assert sum(r.fit for r in readings) / len(readings) > 0.9


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("foreground", "orange"),
        ("background", "black"),
        ("shape", "square"),
        ("size", "small"),
        ("motion", "up left"),
        ("motion", "still"),
    ],
)
def test_one_wrong_attribute_is_that_one_wrong_answer(field: str, word: str) -> None:
    other = replace(RED_CIRCLE, **{field: word})
    for wanted, shown in ((RED_CIRCLE, other), (other, RED_CIRCLE)):
        verdict = judge(wanted, read_clip(rendered(shown)))
        assert [name for name in FIELDS if not getattr(verdict, name)] == [field]
        assert verdict.all_four == (field == "size")


@pytest.mark.parametrize(
    ("motion", "backwards"),
    [("left", "right"), ("up", "down"), ("up right", "down left"), ("grow", "shrink")],
)
def test_a_clip_played_backwards_moves_the_other_way(motion: str, backwards: str) -> None:
    clip = rendered(replace(RED_CIRCLE, motion=motion))
    assert read_clip(clip).motion == motion
    assert read_clip(clip.flip(1)).motion == backwards


def test_a_frozen_clip_stands_still() -> None:
    clip = rendered(RED_CIRCLE)
    assert read_clip(clip[:, :1].expand_as(clip)).motion == "still"


def test_a_mirrored_clip_goes_the_other_way() -> None:
    assert read_clip(rendered(RED_CIRCLE).flip(3)).motion == "right"


def test_swapped_colour_channels_change_the_colour() -> None:
    reading = read_clip(rendered(RED_CIRCLE)[[2, 1, 0]])
    assert reading.foreground != "red"
    assert reading.background != "dark blue"


def test_an_empty_clip_shows_nothing() -> None:
    clip = torch.tensor([-0.86, -0.78, -0.29])[:, None, None, None].expand(3, 17, 64, 64)
    reading = read_clip(clip)
    assert (reading.foreground, reading.shape, reading.size, reading.motion) == ("", "", "", "")
    assert reading.background == "dark blue"
    verdict = judge(RED_CIRCLE, reading)
    assert not any((verdict.foreground, verdict.shape, verdict.size, verdict.motion))
    assert not verdict.all_four


def test_noise_fits_no_template() -> None:
    noise = torch.rand(3, 17, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert read_clip(noise).fit < 0.7
    assert read_clip(rendered(RED_CIRCLE)).fit > 0.9


def test_numbers_that_are_not_finite_show_nothing() -> None:
    clip = rendered(RED_CIRCLE)
    clip[:, 3] = math.nan
    assert not judge(RED_CIRCLE, read_clip(clip)).all_four


def test_a_damaged_first_frame_is_seen() -> None:
    clip = rendered(RED_CIRCLE)
    whole = read_clip(clip)
    clip[:, 0] = clip[:, 0, :1, :1]
    damaged = read_clip(clip)
    assert whole.first_fit > 0.9 * whole.fit
    assert damaged.first_fit == 0
    assert damaged.shape == "circle"


def test_a_smear_is_not_a_spin() -> None:
    spinning = rendered(Attributes("white", "black", "star", "large", "spin"))
    assert read_clip(spinning).motion == "spin"
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(64, generator=generator)
    smeared = spinning.clone()
    smeared[:, 5:12] = smeared[:, 5:12, rows]
    assert read_clip(smeared).motion != "spin"


def test_growing_and_shrinking_clips_are_not_asked_for_their_size() -> None:
    attributes = replace(RED_CIRCLE, motion="grow")
    verdict = judge(attributes, read_clip(rendered(attributes)))
    assert verdict.size is None
    assert math.isnan(scores([verdict])["size"])
    assert scores([verdict])["all_four"] == 1


def test_areas_of_the_templates() -> None:
    assert unit_area("circle") == pytest.approx(math.pi, rel=0.01)
    assert unit_area("triangle") == pytest.approx(math.sqrt(3), rel=0.01)


@pytest.mark.parametrize("shape", [(3, 17, 64, 48), (1, 3, 17, 64, 64), (4, 17, 64, 64)])
def test_only_square_clips_are_read(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a clip is \[3, T, S, S\]"):
        read_clip(torch.zeros(shape))
