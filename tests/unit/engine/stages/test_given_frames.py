"""What a denoiser is conditioned on of given frames, against the published formulas, in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from torch.nn import functional as F

from engine.inputs.pictures.reading import read_picture
from engine.inputs.sizes import published_size
from engine.stages.given import fitted, given_mask, read_picture_file, to_floats
from engine.tasks.wan import picture_node
from presets.library.loading import load_preset
from presets.spec.pictures import PictureSpec


@pytest.mark.parametrize("frames", [1, 5, 17, 81])
@pytest.mark.parametrize("has_last", [False, True])
def test_mask_is_the_published_one(frames: int, has_last: bool) -> None:
    rows, columns = 3, 5
    # wan/image2video.py; wan/first_last_frame2video.py has 81 written into it
    mask = torch.ones(1, frames, rows, columns)
    mask[:, 1 : frames - 1 if has_last else frames] = 0
    mask = torch.concat(
        [torch.repeat_interleave(mask[:, 0:1], repeats=4, dim=1), mask[:, 1:]], dim=1
    )
    expected = mask.view(1, mask.shape[1] // 4, 4, rows, columns).transpose(1, 2)[0]
    latent_frames = 1 + (frames - 1) // 4
    actual = given_mask(frames, latent_frames, rows, columns, has_last=has_last)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("picture", [(333, 517), (1001, 999), (480, 832)])
def test_a_picture_at_the_size_that_it_decides_is_stretched_as_published(
    picture: tuple[int, int],
) -> None:
    """The proportions change by what the rounding to 16 pixels leaves over. The published code is fp32 too; what its
    coordinates round to shows in noise, of which neighbours differ by 2."""
    width, height = published_size(picture[1], picture[0], 480 * 832)
    pixels = torch.rand(3, *picture, generator=torch.Generator().manual_seed(1)) * 2 - 1
    actual = fitted(pixels, height, width, 480 * 832)
    assert torch.equal(actual, F.interpolate(pixels[None], (height, width), mode="bicubic")[0])
    expected = F.interpolate(pixels.double()[None], (height, width), mode="bicubic")[0]
    assert (actual - expected).abs().max() < 5e-4


def test_a_picture_of_another_shape_covers_the_video_and_is_cut_in_the_middle() -> None:
    pixels = torch.zeros(3, 100, 400)
    pixels[:, :, 150:250] = 1  # the middle square
    square = fitted(pixels, 64, 64, 4096)
    assert square.shape == (3, 64, 64)
    assert (square[:, :, 2:-2] - 1).abs().max() < 1e-3
    exact = torch.rand(3, 64, 64)
    assert torch.equal(fitted(exact, 64, 64, 4096), exact)


def test_pixels_become_floats_as_published() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1).permute(1, 2, 0)
    expected = (pixels.permute(2, 0, 1).double() / 255 - 0.5) / 0.5
    floats = to_floats(pixels)
    assert floats.dtype == torch.float32
    assert (floats - expected).abs().max() < 2e-7
    assert floats.min() == -1
    assert floats.max() == 1


def test_a_picture_that_is_read_has_a_small_copy_for_people(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (200, 100), "#102030").save(path)
    digest = read_picture(path).digest
    spec = load_preset("micro-i2v")
    spec = replace(spec, image=PictureSpec(path=str(path), digest=digest))
    job = cast(Any, SimpleNamespace(nodes=(picture_node(spec, "image"),)))
    (made,) = read_picture_file(job)
    assert made.outputs["pixels"]["pixels"].shape == (100, 200, 3)
    assert made.preview is not None
    shown = made.preview()
    assert (shown.num_frames, shown.height, shown.width) == (1, 48, 96)
    assert shown.pixels == bytes.fromhex("102030") * (48 * 96)
