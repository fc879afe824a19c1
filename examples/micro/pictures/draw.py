"""Draws the pictures of `examples/pictures`: what the micro model's image-to-video siblings know to begin from."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

from engine.micro.grammar import Attributes
from examples.micro.world import render

# name -> what it shows; with a motion, `-to` is what it has come to at the end of it
PICTURES = {
    "red-circle": Attributes("red", "dark blue", "circle", "large", "left"),
    "yellow-star": Attributes("yellow", "black", "star", "large", "still"),
    "white-square": Attributes("white", "dark green", "square", "small", "down right"),
    "green-triangle": Attributes("green", "black", "triangle", "large", "grow"),
    "purple-square": Attributes("purple", "light blue", "square", "small", "up"),
}
SEED = 4


def draw_pictures(folder: Path) -> list[Path]:
    """Writes NAME.png and, of what moves, NAME-to.png, each 64x64."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, shown in PICTURES.items():
        clip = render([shown], random.Random(SEED))[0]
        ends = {name: 0} if shown.motion == "still" else {name: 0, f"{name}-to": -1}
        for stem, at in ends.items():
            pixels = clip[:, at].movedim(0, -1).add(1).mul(127.5).round().byte()
            path = folder / f"{stem}.png"
            Image.fromarray(pixels.numpy()).save(path, optimize=True)
            written.append(path)
    return written
