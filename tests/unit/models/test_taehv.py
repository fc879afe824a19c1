"""TAEHV against what the published code makes of the same random weights: 1e-5 relative (seen: 0 to 2e-6).

tests/data/taehv_outputs.safetensors holds its `encode_video` and `decode_video`, and under "small" `decode_video` with
`decoder_time_upscale=(False, False)` and `decoder_space_upscale=(False, False, False)` (github.com/madebyollin/taehv,
taehv.py of commit 1f14a56, torch 2.13); frames before channels, colours from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoints.known import expected
from engine.models.vae.taehv import TAEHV
from tests.oracles.parity import randomise, relative_error

PUBLISHED = load_file(Path(__file__).parents[2] / "data" / "taehv_outputs.safetensors")


def colours(frames: torch.Tensor) -> torch.Tensor:
    return frames.movedim(1, 2) * 2 - 1


@pytest.fixture(scope="module")
def model() -> TAEHV:
    found = TAEHV().eval().requires_grad_(False)
    randomise(found, 0)
    found.decoder[22].bias += 0.5  # or most colours would be below 0
    return found


@pytest.mark.parametrize("chunk_frames", [0, 1, 2])
def test_decodes_as_published_in_chunks_of_any_length(model: TAEHV, chunk_frames: int) -> None:
    chunks = list(model.decode_chunks(PUBLISHED["latents"], chunk_frames=chunk_frames))
    assert [chunk.shape[2] for chunk in chunks] == {0: [9], 1: [1, 4, 4], 2: [5, 4]}[chunk_frames]
    assert all(chunk.is_contiguous() and chunk.dtype == torch.float32 for chunk in chunks)
    assert relative_error(torch.cat(chunks, 2), colours(PUBLISHED["decoded"])) < 1e-5


@pytest.mark.parametrize("chunk_frames", [0, 1, 2])
def test_encodes_as_published_in_chunks_of_any_length(model: TAEHV, chunk_frames: int) -> None:
    video = PUBLISHED["video"]
    asked: list[int] = []

    def part(start: int, stop: int) -> torch.Tensor:
        asked.append(stop - start)
        return video[:, :, start:stop]

    found = model.encode_parts(part, video.shape, chunk_frames=chunk_frames)
    assert relative_error(found, PUBLISHED["encoded"].movedim(1, 2)) < 1e-5
    assert asked == {0: [9], 1: [4, 4, 1], 2: [8, 1]}[chunk_frames]


def test_thumbnails_are_the_published_decoding_without_growing(model: TAEHV) -> None:
    found = model.thumbnails(PUBLISHED["latents"], chunk_frames=2)
    assert relative_error(found, colours(PUBLISHED["small"])) < 1e-5


def test_clips_of_a_batch_do_not_see_each_other(model: TAEHV) -> None:
    latents = PUBLISHED["latents"]
    both = torch.cat([latents.flip(2), latents])
    (alone,) = model.decode_chunks(latents, chunk_frames=0)
    (decoded,) = model.decode_chunks(both, chunk_frames=0)
    assert relative_error(decoded[1:], alone) < 1e-5


def test_progress_is_told_and_may_stop_it(model: TAEHV) -> None:
    told: list[tuple[int, int]] = []
    list(model.decode_chunks(PUBLISHED["latents"], on_chunk=lambda *each: told.append(each)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_shapes_that_do_not_fit_are_refused(model: TAEHV) -> None:
    with pytest.raises(ValueError, match=r"expected \[B,16,T,h,w\]"):
        model.decode_chunks(torch.zeros(1, 48, 1, 2, 2))
    with pytest.raises(ValueError, match=r"expected \[B,3,4n\+1,H,W\]"):
        model.encode_parts(lambda start, stop: torch.zeros(0), (1, 3, 4, 16, 16))


def test_names_and_shapes_are_those_that_a_file_is_known_by() -> None:
    with torch.device("meta"):
        weights = TAEHV().state_dict()
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == expected.taehv()
