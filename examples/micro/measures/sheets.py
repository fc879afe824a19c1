"""Contact sheets: rows of frames under their captions, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FRAMES_PER_CLIP = 6
CLIPS_PER_ROW = 2
FRAME_PIXELS = 96
GAP = 12
FONT_SIZE, LINE_HEIGHT, CAPTION_LINES = 14, 17, 2

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_sheet(path: Path, clips: Tensor, captions: Sequence[str]) -> None:
    """Writes a PNG of clips [N, 3, T, S, S] in [-1, 1], two clips to a row."""
    font = ImageFont.load_default(FONT_SIZE)
    caption_height = LINE_HEIGHT * CAPTION_LINES + 4
    width, height = FRAMES_PER_CLIP * FRAME_PIXELS, FRAME_PIXELS + caption_height + GAP
    rows = max(1, -(-len(clips) // CLIPS_PER_ROW))
    sheet = Image.new("RGB", (CLIPS_PER_ROW * (width + GAP) - GAP, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (clip, caption) in enumerate(zip(clips, captions, strict=True)):
        left, top = index % CLIPS_PER_ROW * (width + GAP), index // CLIPS_PER_ROW * height
        lines = _lines(draw, caption, font, width - 4)
        for number, line in enumerate(lines, CAPTION_LINES - len(lines)):
            draw.text((left + 2, top + number * LINE_HEIGHT), line, fill="black", font=font)
        moments = torch.linspace(0, clip.shape[1] - 1, FRAMES_PER_CLIP).round().long()
        for column, moment in enumerate(moments.tolist()):
            pixels = ((clip[:, moment].clamp(-1, 1) + 1) * 127.5).round().byte()
            frame = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
            sheet.paste(
                frame.resize((FRAME_PIXELS, FRAME_PIXELS), Image.Resampling.BILINEAR),
                (left + column * FRAME_PIXELS, top + caption_height),
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _lines(draw: ImageDraw.ImageDraw, caption: str, font: Font, width: int) -> list[str]:
    """The caption broken between words to fit; what is too long for the last line is cut off."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or draw.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:CAPTION_LINES]
