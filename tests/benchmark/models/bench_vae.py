"""VAE decode and encode against diffusers' `AutoencoderKLWan`, the published width: time and peak memory.

Same random weights; both stream, diffusers frame by frame, ours in chunks of `--chunk` latent frames (1 is the
published way). Default size 9x128x128.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLWan

from engine.models.vae.wanvae import LATENTS_MEAN, LATENTS_STD, WanVAE, WanVAEConfig
from tests.benchmark import timing
from tests.oracles.parity import vae_pair

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def run(
    side: str, way: str, dtype_name: str, dim: int, frames: int, size: int, chunk: int, device: str
) -> Callable[[], torch.Tensor]:
    """The callable that decodes or encodes one clip on `side`: ours or diffusers."""
    dtype = DTYPES[dtype_name]
    ours, theirs = vae_pair(WanVAEConfig(dim=dim))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 1 + frames // 4, size // 8, size // 8, generator=generator).to(
        device
    )
    video = (torch.rand(1, 3, frames, size, size, generator=generator) * 2 - 1).to(device)
    if side == "ours":
        return _ours(ours.to(device, dtype), latents if way == "decode" else video, way, chunk)
    mean, std = (
        torch.tensor(v, device=device).view(1, -1, 1, 1, 1) for v in (LATENTS_MEAN, LATENTS_STD)
    )
    source = latents * std + mean if way == "decode" else video
    return _diffusers(theirs.to(device, dtype), source.to(dtype), way)


def _ours(vae: WanVAE, source: torch.Tensor, way: str, chunk: int) -> Callable[[], torch.Tensor]:
    call = vae.decode if way == "decode" else vae.encode
    return lambda: call(source, chunk_frames=chunk)


def _diffusers(vae: AutoencoderKLWan, source: torch.Tensor, way: str) -> Callable[[], torch.Tensor]:
    if way == "decode":
        return torch.no_grad()(lambda: vae.decode(source).sample)
    return torch.no_grad()(lambda: vae.encode(source).latent_dist.mode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--way", choices=["decode", "encode"], default="decode")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--memory", action="store_true", help="also peak memory, one process each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rest = (options.dim, options.frames, options.size, options.chunk, options.device)
    names = [(side, dtype) for dtype in options.dtypes for side in ("ours", "diffusers")]
    runs = {f"{side} {dtype}": run(side, options.way, dtype, *rest) for side, dtype in names}
    spent = timing.seconds(runs, rounds=options.rounds, device=options.device)
    result = {
        "way": options.way,
        "clip": [options.frames, options.size, options.size],
        "dim": options.dim,
        "chunk": options.chunk,
        "device": options.device,
        **timing.settings(options.threads),
        "seconds": timing.medians(spent),
        "ratio": {d: timing.ratio(spent, f"ours {d}", f"diffusers {d}") for d in options.dtypes},
    }
    if options.memory:
        result["peak_mib"] = {
            f"{side} {dtype}": timing.peak_mib(run, side, options.way, dtype, *rest)
            for side, dtype in names
        }
    timing.show(result)


if __name__ == "__main__":
    main()
