"""The VAE against diffusers' `AutoencoderKLWan` on random weights, fp32: 1e-5 relative (seen: 1e-7 to 2e-6)."""

from __future__ import annotations

import math
import weakref
from functools import cache
from itertools import pairwise

import pytest
import torch

from engine.components.providers import wan_vae
from engine.models.vae.layers import RMSNorm
from engine.models.vae.tiles import EXACT_OVERLAP, chunks_of, tiles_of
from engine.models.vae.wanvae import WanVAE, WanVAEConfig
from presets.spec.components import VAESpec
from tests.oracles.later import diffusers
from tests.oracles.parity import latent_statistics, randomise, relative_error, vae_pair


@cache
def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the deviation of latents, [1,16,1,1,1] each: theirs, as ours are under test."""
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan()
    return latent_statistics(theirs)


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
    mean, std = statistics()
    video = random_video(frames)
    with torch.no_grad():
        expected = (theirs.encode(video).latent_dist.mode() - mean) / std
    actual = ours.encode(video, chunk_frames=chunk_frames)
    assert actual.shape == (1, 16, 1 + frames // 4, 6, 8)
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize("chunk_frames", [0, 1, 3])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_decode_equals_diffusers(pair, frames: int, chunk_frames: int) -> None:
    ours, theirs = pair
    mean, std = statistics()
    latents = random_latents(frames)
    with torch.no_grad():
        expected = theirs.decode(latents * std + mean).sample
    actual = ours.decode(latents, chunk_frames=chunk_frames)
    assert actual.shape == (1, 3, 4 * frames - 3, 48, 64)
    assert float(actual.abs().max()) <= 1
    assert relative_error(actual, expected) < 1e-5


def test_batches_are_independent(pair) -> None:
    ours, _ = pair
    latents = torch.cat([random_latents(2), random_latents(2).flip(3)])
    both = ours.decode(latents)
    assert relative_error(both[1:], ours.decode(latents[1:])) < 1e-5


@pytest.mark.parametrize("overlap", [0, 8, 40, 56])
@pytest.mark.parametrize(("height", "width"), [(16, 20), (9, 30), (8, 9), (3, 10)])
def test_every_position_is_kept_of_one_tile_that_sees_around_it(
    height: int, width: int, overlap: int
) -> None:
    kept = torch.zeros(height, width)
    for tile in tiles_of(height, width, 64, overlap):
        kept[tile.kept(1)] += 1
        window = torch.zeros(height, width)
        window[tile.window(1)] = 1
        assert window.sum() == min(8, height) * min(8, width)
        part = window[tile.window(1)][tile.inner(1)]
        assert part.shape == kept[tile.kept(1)].shape
        for span, size in ((tile.rows, height), (tile.columns, width)):
            assert span.start == 0 or span.kept_start - span.start >= overlap // 16
            assert span.stop == size or span.stop - span.kept_stop >= overlap // 16
    assert torch.equal(kept, torch.ones(height, width))


def test_one_tile_that_has_all_is_none() -> None:
    assert tiles_of(8, 8, 64, 32) == tiles_of(5, 8, 72, 32) == tiles_of(90, 160, 0, 64) == []


EXACT = {"tile_size": EXACT_OVERLAP + 8, "tile_overlap": EXACT_OVERLAP, "chunk_frames": 1}


@pytest.fixture(scope="module")
def narrow_pair():
    return vae_pair(WanVAEConfig(dim=4))


def test_tiles_that_overlap_enough_decode_to_whole_frames(narrow_pair) -> None:
    """Against diffusers, which decodes whole frames: attention and all."""
    ours, theirs = narrow_pair
    mean, std = statistics()
    latents = random_latents(2, 16, 15)
    with torch.no_grad():
        expected = theirs.decode(latents * std + mean).sample
    assert relative_error(ours.decode(latents, **EXACT), expected) < 1e-5


def test_tiles_that_overlap_enough_encode_whole_frames(narrow_pair) -> None:
    ours, theirs = narrow_pair
    mean, std = statistics()
    video = random_video(5, 128, 120)
    with torch.no_grad():
        expected = (theirs.encode(video).latent_dist.mode() - mean) / std
    assert relative_error(ours.encode(video, **EXACT), expected) < 1e-5


def psnr(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """In dB, of numbers from -1 to 1."""
    return -10 * math.log10(float((actual - expected).square().mean()) / 4 + 1e-30)


def test_seams_of_a_trained_vae_are_invisible() -> None:
    """Seen: 80 dB and more. tests/benchmark/models/bench_tiles.py measures larger clips and tiles."""
    vae = wan_vae.load(VAESpec(checkpoint="builtin:micro", device="cpu"))
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 64), indexing="ij")
    disc = (x.square() + y.square()).lt(0.5) * 1.0
    picture = torch.stack([x * y, disc, torch.sin(40 * x + 9 * y)])[None, :, None]
    latents = vae.encode(picture)
    whole = vae.decode(latents)
    tiles = {"tile_size": 64, "tile_overlap": 32}
    assert psnr(vae.decode(latents, **tiles), whole) > 60
    assert psnr(vae.decode(vae.encode(picture, **tiles)), whole) > 60


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_norm_equals_diffusers_at_every_magnitude(scale: float) -> None:
    """A mean-square norm with an epsilon would pass at 1 and fail here."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

    theirs, ours = WanRMS_norm(8, images=False), RMSNorm(8, 3)
    x = torch.randn(1, 8, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * scale
    assert relative_error(ours(x).detach(), theirs(x).detach()) < 1e-6
    assert torch.equal(ours(torch.zeros_like(x)), torch.zeros_like(x))


def decoded_chunk_by_chunk(vae: WanVAE, latents: torch.Tensor, chunk_frames: int) -> torch.Tensor:
    mean, std = vae._statistics(latents.device)
    history: dict = {}
    chunks = [
        vae.decode_raw((latents.float() * std + mean)[:, :, frames], history)
        for frames in chunks_of(latents.shape[2], chunk_frames)
    ]
    return torch.cat(chunks, dim=2).float().clamp(-1, 1)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def narrow(request: pytest.FixtureRequest) -> WanVAE:
    """Two channels wide: convolutions in bf16 take minutes on a CPU that has no instruction for them."""
    return vae_pair(WanVAEConfig(dim=2))[0].to(request.param)


@pytest.mark.parametrize("tiling", [{}, {"tile_size": 16, "tile_overlap": 8}])
@pytest.mark.parametrize("chunk_frames", [1, 2, 0])
def test_chunks_are_the_video_in_order(narrow: WanVAE, chunk_frames: int, tiling) -> None:
    latents = random_latents(5, 2, 3)
    options = {"chunk_frames": chunk_frames, **tiling}
    chunks = list(narrow.decode_chunks(latents, **options))
    assert [chunk.shape[2] for chunk in chunks] == {
        1: [1, 4, 4, 4, 4], 2: [5, 8, 4], 0: [17],
    }[chunk_frames]  # fmt: skip
    assert all(chunk.dtype == torch.float32 and chunk.is_contiguous() for chunk in chunks)
    video = torch.cat(chunks, dim=2)
    assert torch.equal(narrow.decode(latents, **options), video)
    if tiling:
        assert relative_error(video, narrow.decode(latents, chunk_frames=0, **tiling)) < 2e-2
        return
    with torch.no_grad():
        assert torch.equal(video, decoded_chunk_by_chunk(narrow, latents, chunk_frames))


def test_a_clip_is_encoded_of_the_parts_that_it_is_given(pair) -> None:
    """No more than a chunk's frames are asked for at a time."""
    ours, _ = pair
    video = random_video(17)
    asked: list[tuple[int, int]] = []

    def part(start: int, stop: int) -> torch.Tensor:
        asked.append((start, stop))
        return video[:, :, start:stop].double()

    found = ours.encode_parts(part, video.shape, chunk_frames=2)
    assert torch.equal(found, ours.encode(video, chunk_frames=2))
    assert asked == [(0, 5), (5, 13), (13, 17)]
    tiles = {"tile_size": 48, "tile_overlap": 16, "chunk_frames": 2}
    asked.clear()
    assert torch.equal(ours.encode_parts(part, video.shape, **tiles), ours.encode(video, **tiles))
    assert asked == [(0, 5), (5, 13), (13, 17)] * 2


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
    assert told == [(done, 6) for done in range(1, 7)]

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
    middle, deviation = statistics()
    assert relative_error((mean.detach() - middle) / deviation, vae.encode(video)) < 1e-5
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
