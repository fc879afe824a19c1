"""Renders the micro world: one coloured shape that moves over a plain background.

Signed distances with one pixel of anti-aliasing. Coordinates are in half frames: the frame is [-1, 1] in x and y,
y downwards. Every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.micro.grammar import BACKGROUNDS, DIRECTIONS, FOREGROUNDS, RGB, Attributes

if TYPE_CHECKING:
    import random

NUM_FRAMES = 17
FRAME_SIZE = 64
RADII: Mapping[str, float] = MappingProxyType({"small": 0.38, "large": 0.55})
SPIN_ANGLE = 0.6 * math.pi
COLOUR_JITTER = 0.04
STAR_SCALE = 1.25  # thin arms need more pixels than the other shapes to survive the VAE
STAR_INNER = 0.45
# of clips that begin anywhere, in half frames: of a centre, of radii, and how much larger what grows gets
FARTHEST, LARGEST, SMALLEST, GROWTH = 0.85, 0.9, 0.25, 1.86

SignedDistance = Callable[[Tensor, Tensor, Tensor], Tensor]


def circle_distance(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a circle; negative inside. All arguments broadcast."""
    return (x * x + y * y).sqrt() - radius


def square_distance(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to an upright square whose half side is 0.86 of the radius."""
    qx, qy = x.abs() - 0.86 * radius, y.abs() - 0.86 * radius
    outside = (qx.clamp(min=0) ** 2 + qy.clamp(min=0) ** 2 + 1e-12).sqrt()
    return outside + torch.maximum(qx, qy).clamp(max=0)


def triangle_distance(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to an equilateral triangle of half side `radius` that points up."""
    k = math.sqrt(3.0)
    px, py = x.abs() - radius, -(y - 0.1 * radius) + radius / k
    reflect = (px + k * py) > 0
    nx = torch.where(reflect, (px - k * py) / 2, px)
    ny = torch.where(reflect, (-k * px - py) / 2, py)
    nx = nx - torch.minimum(torch.maximum(nx, -2 * radius), torch.zeros_like(nx))
    return -(nx * nx + ny * ny + 1e-12).sqrt() * torch.sign(ny)


def star_distance(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to a five-pointed star that points up."""
    outer = radius * STAR_SCALE
    ax, ay = math.cos(math.pi / 5), -math.sin(math.pi / 5)
    px, py = x.abs(), -y
    for mirror_x, mirror_y in ((ax, ay), (-ax, ay)):
        beyond = 2 * (mirror_x * px + mirror_y * py).clamp(min=0)
        px, py = px - beyond * mirror_x, py - beyond * mirror_y
    px, py = px.abs(), py - outer
    edge_x, edge_y = -STAR_INNER * ay, STAR_INNER * ax - 1.0
    along = (px * edge_x + py * edge_y) / (edge_x**2 + edge_y**2)
    along = torch.minimum(along.clamp(min=0), outer)
    side = torch.sign(py * edge_x - px * edge_y)
    return ((px - edge_x * along) ** 2 + (py - edge_y * along) ** 2 + 1e-12).sqrt() * side


SHAPE_DISTANCES: Mapping[str, SignedDistance] = MappingProxyType(
    {
        "circle": circle_distance,
        "square": square_distance,
        "triangle": triangle_distance,
        "star": star_distance,
    }
)


def pixel_centres(size: int) -> Tensor:
    """Coordinates of the pixel centres of one axis, [size] in (-1, 1)."""
    return (torch.arange(size) + 0.5) / size * 2 - 1


def render(
    clips: Sequence[Attributes],
    rng: random.Random,
    *,
    num_frames: int = NUM_FRAMES,
    size: int = FRAME_SIZE,
    window: int = 0,
    anywhere: float = 0.0,
) -> Tensor:
    """Clips of the given attributes with random offsets, speeds and colour shades.

    Returns [len(clips), 3, num_frames, size, size] in [-1, 1]. With `window`, only a square of
    that many pixels near the object is rendered, for training on crops. `anywhere` is the share of
    clips whose object begins anywhere and not where it has room, as it does in somebody's picture.
    """
    return torch.stack(
        [
            _render_clip(
                clip,
                rng,
                _somewhere if rng.random() < anywhere else _track,
                num_frames,
                size,
                window,
            )
            for clip in clips
        ]
    )


def _render_clip(
    clip: Attributes,
    rng: random.Random,
    track: Callable[[Attributes, random.Random, int], tuple[Tensor, Tensor, Tensor, Tensor]],
    num_frames: int,
    size: int,
    window: int,
) -> Tensor:
    centre_x, centre_y, radius, angle = track(clip, rng, num_frames)
    foreground = _shade(FOREGROUNDS[clip.foreground], rng)
    background = _shade(BACKGROUNDS[clip.background], rng)
    x, y = _grid(size, window, centre_x, centre_y, rng)
    dx, dy = x - centre_x[:, None, None], y - centre_y[:, None, None]
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    distance = SHAPE_DISTANCES[clip.shape](
        cos * dx + sin * dy, -sin * dx + cos * dy, radius[:, None, None]
    )
    coverage = (0.5 - distance * size / 2).clamp(0, 1)
    return torch.lerp(background, foreground, coverage).clamp(-1, 1)


def _track(
    clip: Attributes, rng: random.Random, num_frames: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, radius and angle of every frame, [num_frames] each."""
    time = torch.linspace(0, 1, num_frames)
    scale = RADII[clip.size] * rng.uniform(0.95, 1.05)
    centre_x = torch.full_like(time, rng.uniform(-0.12, 0.12))
    centre_y = torch.full_like(time, rng.uniform(-0.12, 0.12))
    radius, angle = torch.full_like(time, scale), torch.zeros_like(time)
    if clip.motion in DIRECTIONS:
        step_x, step_y = DIRECTIONS[clip.motion]
        reach = rng.uniform(0.32, 0.42)
        if step_x:
            centre_x = step_x * reach * (2 * time - 1) + rng.uniform(-0.04, 0.04)
        if step_y:
            centre_y = step_y * reach * (2 * time - 1) + rng.uniform(-0.04, 0.04)
    elif clip.motion == "grow":
        radius = scale * (0.7 + 0.6 * time)
    elif clip.motion == "shrink":
        radius = scale * (1.3 - 0.6 * time)
    elif clip.motion == "spin":
        angle = time * SPIN_ANGLE * rng.uniform(0.9, 1.1)
    return centre_x, centre_y, radius, angle


def _somewhere(
    clip: Attributes, rng: random.Random, num_frames: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_track`, from any place on: what moves stops near the edge, what grows fills the frame at most."""
    time = torch.linspace(0, 1, num_frames)
    scale = RADII[clip.size] * rng.uniform(0.85, 1.1)
    starts = [rng.uniform(-0.5, 0.5) for _ in range(2)]
    radius, angle = torch.full_like(time, scale), torch.zeros_like(time)
    steps = DIRECTIONS.get(clip.motion, (0, 0))
    reach = rng.uniform(0.64, 0.84)
    ends = [
        min(max(start + step * reach, -FARTHEST), FARTHEST) if step else start
        for start, step in zip(starts, steps, strict=True)
    ]
    if clip.motion == "grow":
        radius = torch.lerp(radius, (radius * GROWTH).clamp(max=LARGEST), time)
    elif clip.motion == "shrink":
        radius = torch.lerp(radius, (radius / GROWTH).clamp(min=SMALLEST), time)
    elif clip.motion == "spin":
        angle = time * SPIN_ANGLE * rng.uniform(0.9, 1.1)
    centre_x, centre_y = (
        start + (end - start) * time for start, end in zip(starts, ends, strict=True)
    )
    return centre_x, centre_y, radius, angle


def _shade(colour: RGB, rng: random.Random) -> Tensor:
    """The colour a little off, [3, 1, 1, 1] in [-1, 1]."""
    jitter = [rng.uniform(-COLOUR_JITTER, COLOUR_JITTER) for _ in colour]
    shade = (torch.tensor(colour) / 127.5 - 1 + torch.tensor(jitter)).clamp(-1, 1)
    return shade[:, None, None, None]


def _grid(
    size: int, window: int, centre_x: Tensor, centre_y: Tensor, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Pixel coordinates [1, 1, W] and [1, H, 1] of the frame, or of a window near the object."""
    centres = pixel_centres(size)
    if not window or window >= size:
        return centres[None, None, :], centres[None, :, None]
    frame = rng.randrange(len(centre_x))
    corners = []
    for centre in (centre_x, centre_y):
        middle = (float(centre[frame]) + 1) / 2 * size
        corner = middle + rng.uniform(-0.65, 0.65) * window - window / 2
        corners.append(min(max(int(corner), 0), size - window))
    left, top = corners
    return centres[None, None, left : left + window], centres[None, top : top + window, None]
