"""Makes the pictures of the README from real runs: `PYTHONPATH=. python docs/make_pictures.py`, from the root."""

from __future__ import annotations

from pathlib import Path

import torch

from engine.api import TextToVideo
from examples.micro.measures.sheets import write_sheet

FOLDER = Path(__file__).with_name("images")
PROMPTS = (
    "a large red circle moves left over a dark blue background",
    "a small yellow star moves up over a dark blue background",
    "a large purple triangle stands still over a light blue background",
    "a small white square moves diagonally down and right over a dark green background",
    "a large orange star shrinks over a black background",
    "a small green circle grows over a black background",
    "a large pink square moves right over a brown background",
    "a small red triangle moves diagonally up and left over a gray background",
    "a large blue star falls over a brown background",
    "a big yellow circle gets smaller over a dark green background",
    "a little orange triangle slides to the left over a dark blue background",
    "a huge white star moves diagonally up and right over a black background",
)


def main() -> None:
    pipeline = TextToVideo.from_preset("micro")
    clips = [pipeline(prompt, seed=seed).frames for seed, prompt in enumerate(PROMPTS)]
    pixels = torch.stack(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    write_sheet(FOLDER / "micro.png", pixels, PROMPTS)


if __name__ == "__main__":
    main()
