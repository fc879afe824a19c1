"""The size of a video from that of its picture, against the published formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.inputs.sizes import published_size, size_of

P480, P720 = 480 * 832, 720 * 1280


@pytest.mark.parametrize(
    ("picture", "area", "video"),
    [
        ((832, 480), P480, (832, 464)),  # 480/832*399360 is a hair below 230400
        ((480, 832), P480, (480, 832)),
        ((1280, 720), P720, (1280, 720)),
        ((1024, 1024), P480, (624, 624)),
        ((1024, 1024), P720, (960, 960)),
        ((64, 64), 64 * 64, (64, 64)),
    ],
)
def test_published_sizes(picture: tuple[int, int], area: int, video: tuple[int, int]) -> None:
    assert published_size(*picture, area) == video


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.sampled_from([P480, P720]))
def test_equals_the_published_code(width: int, height: int, area: int) -> None:
    # wan/image2video.py, with vae_stride (4, 8, 8) and patch_size (1, 2, 2)
    aspect_ratio = height / width
    lat_h = round(np.sqrt(area * aspect_ratio) // 8 // 2 * 2)
    lat_w = round(np.sqrt(area / aspect_ratio) // 8 // 2 * 2)
    assert published_size(width, height, area) == (lat_w * 8, lat_h * 8)


@pytest.mark.parametrize(
    ("asked", "video"),
    [((0, 0), (832, 464)), ((416, 0), (416, 240)), ((0, 240), (416, 240)), ((64, 48), (64, 48))],
)
def test_what_is_given_stays_and_the_other_side_follows(
    asked: tuple[int, int], video: tuple[int, int]
) -> None:
    assert size_of(*asked, (832, 480), P480, key="image.path") == video


@pytest.mark.parametrize("picture", [(20_000, 4), (4, 20_000)])
def test_a_picture_that_no_video_can_have_is_refused(picture: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^image\.path: of .* would make a video of .*expected"):
        size_of(0, 0, picture, P480, key="image.path")
