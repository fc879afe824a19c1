"""The VAE against diffusers' `AutoencoderKLWan` on random weights, fp32: 1e-5 relative (seen: 1e-7 to 2e-6)."""

from __future__ import annotations

import weakref
from itertools import pairwise

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

from engine.models.vae import wanvae
from engine.models.vae.wanvae import (
    RMSNorm,
    WanVAE,
    WanVAEConfig,
    _tiles,
)
from tests.parity import latent_statistics, randomise, relative_error, vae_pair

MEAN, STD = latent_statistics(AutoencoderKLWan())  # theirs: ours are under test


@pytest.fixture(scope="module")
def pair():
    return vae_pair(WanVAEConfig(dim=8))


def random_video(frames: int, height: int = 48, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(1, 3, frames, height, width, generator=generator) * 2 - 1


def random_latents(frames: int, height: int = 6, width: int = 8) -> torch.Tensor:
    return torch.randn(
        1, 16, frames, height, width, generator=torch.Generator().manual_seed(frames)
    )


@pytest.mark.parametrize("chunk_frames", [0, 1, 3])
@pytest.mark.parametrize("frames", [1, 5, 17])
def test_encode_equals_diffusers(pair, frames: int, chunk_frames: int) -> None:
    ours, theirs = pair
    video = random_video(frames)
    with torch.no_grad():
        expected = (theirs.encode(video).latent_dist.mode() - MEAN) / STD
    actual = ours.encode(video, chunk_frames=chunk_frames)
    assert actual.shape == (1, 16, 1 + frames // 4, 6, 8)
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("chunk_frames", [0, 1, 3])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_decode_equals_diffusers(pair, frames: int, chunk_frames: int) -> None:
    ours, theirs = pair
    latents = random_latents(frames)
    with torch.no_grad():
        expected = theirs.decode(latents * STD + MEAN).sample
    actual = ours.decode(latents, chunk_frames=chunk_frames)
    assert actual.shape == (1, 3, 4 * frames - 3, 48, 64)
    assert float(actual.abs().max()) <= 1
    assert relative_error(actual, expected) < 1e-5


def test_batches_are_independent(pair) -> None:
    ours, _ = pair
    latents = torch.cat([random_latents(2), random_latents(2).flip(3)])
    both = ours.decode(latents)
    assert relative_error(both[1:], ours.decode(latents[1:])) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(16, 20), (9, 30), (8, 8)])
def test_shares_of_tiles_add_up_to_one(height: int, width: int) -> None:
    total = torch.zeros(height * 8, width * 8)
    for tile in _tiles(height, width, 64, 40, scale=8):
        total[tile.window(8)] += tile.rows[:, None] * tile.columns
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_tiled_decode_is_diffusers_decode_of_the_tile_where_tiles_do_not_overlap(pair) -> None:
    """Whole frames are no yardstick: the attention in the middle sees all of what it is given."""
    ours, theirs = pair
    latents = random_latents(2, 12, 12)
    tiled = ours.decode(latents, tile_size=64, tile_overlap=32)
    with torch.no_grad():
        for top in (0, 4):
            for left in (0, 4):
                part = latents[..., top : top + 8, left : left + 8]
                expected = theirs.decode(part * STD + MEAN).sample
                rows = slice(0, 32) if top == 0 else slice(32, 64)
                columns = slice(0, 32) if left == 0 else slice(32, 64)
                y, x = (0 if top == 0 else 64), (0 if left == 0 else 64)
                actual = tiled[..., y : y + 32, x : x + 32]
                assert relative_error(actual, expected[..., rows, columns]) < 1e-5


def test_tiled_encode_is_the_encode_of_the_tile_where_tiles_do_not_overlap(pair) -> None:
    ours, _ = pair
    video = random_video(5, 96, 96)
    tiled = ours.encode(video, tile_size=64, tile_overlap=32)
    corner = ours.encode(video[..., :64, :64])
    assert relative_error(tiled[..., :4, :4], corner[..., :4, :4]) < 1e-5


def test_tiles_are_cross_faded(pair) -> None:
    """Over an overlap the result goes from one tile's decode to the next one's in equal steps."""
    ours, _ = pair
    latents = random_latents(1, 8, 12)
    left, right = ours.decode(latents[..., :8]), ours.decode(latents[..., 4:])
    tiled = ours.decode(latents, tile_size=64, tile_overlap=32)
    share = torch.arange(1, 33) / 33
    expected = left[..., 32:] * (1 - share) + right[..., :32] * share
    assert (left[..., 32:] - right[..., :32]).abs().max() > 0.01
    assert relative_error(tiled[..., 32:64], expected) < 1e-5
    assert relative_error(tiled[..., :32], left[..., :32]) < 1e-5
    assert relative_error(tiled[..., 64:], right[..., 32:]) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_norm_equals_diffusers_at_every_magnitude(scale: float) -> None:
    """A mean-square norm with an epsilon would pass at 1 and fail here."""
    theirs, ours = WanRMS_norm(8, images=False), RMSNorm(8, 3)
    x = torch.randn(1, 8, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * scale
    assert relative_error(ours(x).detach(), theirs(x).detach()) < 1e-6
    assert torch.equal(ours(torch.zeros_like(x)), torch.zeros_like(x))


def decoded_tile_by_tile(vae: WanVAE, latents: torch.Tensor, chunk_frames: int, **tiling: int):
    """The whole video in one tensor, every tile decoded to its end before the next one."""
    mean, std = vae._statistics(latents.device)
    batch, _, num_frames, height, width = latents.shape
    video = torch.zeros(batch, 3, 4 * num_frames - 3, height * 8, width * 8)
    for tile in wanvae._tiles(height, width, **tiling, scale=8):
        history: dict = {}
        start = 0
        for frames in wanvae._chunks(num_frames, chunk_frames):
            window = (latents.float() * std + mean)[:, :, frames, *tile.window(1)]
            part = vae.decode_raw(window, history)
            tile.add(video[:, :, start : start + part.shape[2]], part.float().clamp_(-1, 1))
            start += part.shape[2]
    return video


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def narrow(request: pytest.FixtureRequest) -> WanVAE:
    """Two channels wide: convolutions in bf16 take minutes on a CPU that has no instruction for them."""
    return vae_pair(WanVAEConfig(dim=2))[0].to(request.param)


@pytest.mark.parametrize("tiling", [{"size": 0, "overlap": 64}, {"size": 16, "overlap": 8}])
@pytest.mark.parametrize("chunk_frames", [1, 2, 0])
def test_chunks_are_the_video_in_order(narrow: WanVAE, chunk_frames: int, tiling) -> None:
    latents = random_latents(5, 2, 3)
    options = {
        "chunk_frames": chunk_frames,
        "tile_size": tiling["size"],
        "tile_overlap": tiling["overlap"],
    }
    chunks = list(narrow.decode_chunks(latents, **options))
    assert [chunk.shape[2] for chunk in chunks] == {
        1: [1, 4, 4, 4, 4], 2: [5, 8, 4], 0: [17],
    }[chunk_frames]  # fmt: skip
    assert all(chunk.dtype == torch.float32 and chunk.is_contiguous() for chunk in chunks)
    with torch.no_grad():
        expected = decoded_tile_by_tile(narrow, latents, chunk_frames, **tiling)
    assert torch.equal(torch.cat(chunks, dim=2), expected)
    assert torch.equal(narrow.decode(latents, **options), expected)


def test_no_earlier_chunk_is_held(pair) -> None:
    ours, _ = pair
    alive: list[weakref.ref] = []
    for chunk in ours.decode_chunks(random_latents(4)):
        assert [ref for ref in alive if ref() is not None] == []
        alive.append(weakref.ref(chunk))
        del chunk


def test_a_shape_that_does_not_fit_is_refused_before_the_first_chunk(pair) -> None:
    ours, _ = pair
    with pytest.raises(ValueError, match="expected \\[B,16,T,h,w\\]"):
        ours.decode_chunks(torch.zeros(1, 4, 1, 8, 8))


def test_progress_is_told_per_chunk_and_may_stop_it(pair) -> None:
    ours, _ = pair
    told: list[tuple[int, int]] = []
    ours.decode(
        random_latents(3, 8, 12),
        tile_size=64,
        tile_overlap=32,
        chunk_frames=2,
        on_chunk=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.decode(random_latents(1), on_chunk=stop)


def test_working_memory_does_not_grow_with_the_clip(pair) -> None:
    """What a chunk leaves behind is the two last frames of each convolution, however long the clip."""
    ours, _ = pair
    sizes = []
    history: dict = {}
    for chunk in random_latents(6).split(1, dim=2):
        with torch.no_grad():
            ours.decode_raw(chunk, history)
        sizes.append(sum(t.untyped_storage().nbytes() for t in history.values()))
    assert sizes[1] == sizes[-1]
    assert all(a <= b for a, b in pairwise(sizes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_stay_close_to_fp32(dtype: torch.dtype) -> None:
    """The published range on [-1,1] for real weights in bf16 is 1.4e-2 relative."""
    ours, _ = vae_pair(WanVAEConfig(dim=16), seed=4)
    latents = random_latents(2, 2, 3)
    exact = ours.decode(latents)
    assert relative_error(ours.to(dtype).decode(latents), exact) < 4e-2


def test_training_kernels_are_differentiable_and_equal_to_inference(pair) -> None:
    vae = WanVAE(WanVAEConfig(dim=8))
    randomise(vae, 0)
    video = random_video(5)
    mean, logvar = vae.encode_moments(video)
    assert relative_error((mean.detach() - MEAN) / STD, vae.encode(video)) < 1e-5
    (vae.decode_raw(mean).square().mean() + logvar.square().mean()).backward()
    silent = [n for n, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_published_size() -> None:
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig())
    assert sum(p.numel() for p in vae.parameters()) == 126_892_531
    assert len(vae.state_dict()) == 194


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 4, 5, 16, 16)])
def test_refuses_videos_that_do_not_fit(pair, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[B,3,4n\+1,H,W\]"):
        pair[0].encode(torch.zeros(shape))


def test_refuses_latents_and_options_that_do_not_fit(pair) -> None:
    vae = pair[0]
    with pytest.raises(ValueError, match=r"expected \[B,16,T,h,w\]"):
        vae.decode(torch.zeros(1, 4, 1, 8, 8))
    with pytest.raises(ValueError, match="chunk_frames is -1"):
        vae.decode(torch.zeros(1, 16, 1, 8, 8), chunk_frames=-1)
    with pytest.raises(ValueError, match="multiples of 8 pixels"):
        vae.decode(torch.zeros(1, 16, 1, 8, 8), tile_size=60)
    with pytest.raises(ValueError, match="expected z_dim"):
        WanVAEConfig(z_dim=8)
