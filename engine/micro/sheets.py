"""Contact sheets: rows of frames under their captions, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

FRAMES_PER_CLIP = 6
CLIPS_PER_ROW = 2
GAP = 8
CAPTION_HEIGHT = 14
SCALE = 1.5


def write_sheet(path: Path, clips: Tensor, captions: Sequence[str]) -> None:
    """Writes a PNG of clips [N, 3, T, S, S] in [-1, 1], two clips to a row."""
    side = round(clips.shape[-1] * SCALE)
    width, height = FRAMES_PER_CLIP * side, side + CAPTION_HEIGHT
    rows = -(-len(clips) // CLIPS_PER_ROW)
    sheet = Image.new(
        "RGB", (CLIPS_PER_ROW * (width + GAP) - GAP, max(1, rows) * height), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    for index, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        left, top = index % CLIPS_PER_ROW * (width + GAP), index // CLIPS_PER_ROW * height
        draw.text((left + 2, top + 1), caption[:100], fill=(0, 0, 0))
        moments = torch.linspace(0, clip.shape[1] - 1, FRAMES_PER_CLIP).round().long()
        for column, moment in enumerate(moments.tolist()):
            pixels = ((clip[:, moment].clamp(-1, 1) + 1) * 127.5).round().byte()
            frame = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
            sheet.paste(
                frame.resize((side, side), Image.Resampling.BILINEAR),
                (left + column * side, top + CAPTION_HEIGHT),
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
