"""The renderer: shapes of the right area, colours of the palette, and things that move as they should."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor

from engine.micro.grammar import BACKGROUNDS, DIRECTIONS, FOREGROUNDS, MOTIONS, SHAPES, Attributes
from examples.micro.world import (
    COLOUR_JITTER,
    RADII,
    SHAPE_DISTANCES,
    STAR_INNER,
    STAR_SCALE,
    pixel_centres,
    render,
)

# Of radius 1, in closed form.
AREAS = {
    "circle": math.pi,
    "square": (2 * 0.86) ** 2,
    "triangle": math.sqrt(3),
    "star": 5 * STAR_SCALE**2 * STAR_INNER * math.sin(math.pi / 5),
}


def clip(seed: int = 0, **changes: str) -> Tensor:
    attributes = Attributes(
        **{
            "foreground": "white",
            "background": "black",
            "shape": "circle",
            "size": "large",
            "motion": "still",
        }
        | changes
    )
    return render([attributes], random.Random(seed))[0]


def coverage(video: Tensor) -> Tensor:
    """How much of each pixel the object covers, [T, S, S]; the middle frame's middle is inside it."""
    background = video[:, :1, :1, :1]
    foreground = video[:, 8:9, 32:33, 32:33]
    return ((video - background) / (foreground - background)).mean(0)


def centroids(video: Tensor) -> tuple[Tensor, Tensor]:
    mass = coverage(video)
    centres = pixel_centres(64)
    area = mass.sum((1, 2))
    return (mass.sum(1) * centres).sum(1) / area, (mass.sum(2) * centres).sum(1) / area


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [0.3, 0.7])
def test_areas_in_closed_form(shape: str, radius: float) -> None:
    centres = pixel_centres(1000)
    distance = SHAPE_DISTANCES[shape](centres[None, :], centres[:, None], torch.tensor(radius))
    area = float((distance < 0).float().mean()) * 4
    assert area == pytest.approx(AREAS[shape] * radius**2, rel=5e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_grow_by_one_per_unit(shape: str) -> None:
    centres = pixel_centres(400)
    distance = SHAPE_DISTANCES[shape](centres[None, :], centres[:, None], torch.tensor(0.5))
    step = 2 / 400
    slope_x, slope_y = distance.diff(dim=1)[:-1] / step, distance.diff(dim=0)[:, :-1] / step
    slope = (slope_x**2 + slope_y**2).sqrt()
    assert float(slope.median()) == pytest.approx(1, abs=1e-3)
    assert float((slope - 1).abs().quantile(0.95)) < 0.05


@pytest.mark.parametrize("size", list(RADII))
@pytest.mark.parametrize("shape", SHAPES)
def test_rendered_objects_have_the_area_of_their_size(shape: str, size: str) -> None:
    area = float(coverage(clip(shape=shape, size=size)).mean((1, 2))[0]) * 4
    radius = math.sqrt(area / AREAS[shape])
    assert 0.94 <= radius / RADII[size] <= 1.06


@pytest.mark.parametrize("foreground", list(FOREGROUNDS))
def test_foregrounds_are_the_palettes(foreground: str) -> None:
    middle = (clip(foreground=foreground)[:, 0, 32, 32] + 1) * 127.5
    wanted = torch.tensor(FOREGROUNDS[foreground])
    assert float((middle - wanted).abs().max()) <= COLOUR_JITTER * 127.5 + 0.01


@pytest.mark.parametrize("background", list(BACKGROUNDS))
def test_backgrounds_are_flat_and_the_palettes(background: str) -> None:
    video = clip(background=background, foreground="yellow", motion="left")
    corner = (video[:, :, 0, 0] + 1) * 127.5
    wanted = torch.tensor(BACKGROUNDS[background])[:, None]
    assert float((corner - wanted).abs().max()) <= COLOUR_JITTER * 127.5 + 0.01
    assert torch.equal(video[:, :, 0, :], video[:, :, -1, :])


@pytest.mark.parametrize("motion", list(DIRECTIONS))
def test_objects_travel_where_they_are_told(motion: str) -> None:
    x, y = centroids(clip(motion=motion, foreground="yellow", size="small", shape="square"))
    step_x, step_y = DIRECTIONS[motion]
    for positions, step in ((x, step_x), (y, step_y)):
        moves = positions.diff()
        if step:
            assert bool((moves * step > 0).all())
            assert 0.63 <= float(moves.sum()) * step <= 0.85
        else:
            assert float(moves.abs().max()) < 1e-3


def test_still_clips_stand_still() -> None:
    video = clip(motion="still")
    assert torch.equal(video, video[:, :1].expand_as(video))


@pytest.mark.parametrize(
    ("motion", "ratio"), [("grow", (1.3 / 0.7) ** 2), ("shrink", (0.7 / 1.3) ** 2)]
)
def test_sizes_change_as_they_should(motion: str, ratio: float) -> None:
    area = coverage(clip(motion=motion, size="small")).sum((1, 2))
    assert float(area[-1] / area[0]) == pytest.approx(ratio, rel=0.02)
    assert bool((area.diff() * (ratio - 1) > 0).all())


def test_spinning_turns_in_place() -> None:
    video = clip(motion="spin", shape="square")
    x, y = centroids(video)
    assert float(x.std() + y.std()) < 5e-3
    area = coverage(video).sum((1, 2))
    assert float(area.std() / area.mean()) < 5e-3
    # a square looks the same after a quarter turn and nowhere before
    changes = (video - video[:, :1]).abs().mean((0, 2, 3))
    assert float(changes[8]) > 0.05


@pytest.mark.parametrize("motion", MOTIONS)
def test_clips_are_what_the_model_takes(motion: str) -> None:
    video = clip(motion=motion, shape="star")
    assert video.shape == (3, 17, 64, 64)
    assert video.dtype == torch.float32
    assert float(video.min()) >= -1
    assert float(video.max()) <= 1


def test_randomness_comes_from_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = clip(seed=3)
    torch.manual_seed(2)
    assert torch.equal(first, clip(seed=3))
    assert not torch.equal(first, clip(seed=4))


def test_a_window_is_a_part_of_the_frame_near_the_object() -> None:
    attributes = [Attributes("red", "black", "star", "small", "down right")]
    whole = render(attributes, random.Random(7))[0]
    part = render(attributes, random.Random(7), window=32)[0]
    assert part.shape == (3, 17, 32, 32)
    windows = whole.unfold(2, 32, 1).unfold(3, 32, 1)  # [3, 17, 33, 33, 32, 32]
    distances = (windows - part[:, :, None, None]).abs().amax((0, 1, 4, 5))
    assert float(distances.min()) < 1e-6
    assert float(part.std((2, 3)).amax()) > 0.1
