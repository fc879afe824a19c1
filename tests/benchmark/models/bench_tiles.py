"""How near tiles of the VAE come to whole frames, and temporal chunks to a whole clip: PSNR in dB, of colours.

    PYTHONPATH=. python -m tests.benchmark.models.bench_tiles [--clip FILE]

With the micro model's VAE, the only trained one that is at hand. The table of docs/fit.md is this script's. Encoding is
measured in colours too: what whole frames decode its latents to.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.components.providers import wan_vae
from engine.inputs.clips.reading import read_clip
from engine.micro.grammar import Attributes
from engine.models.vae.wanvae import WanVAE
from examples.micro.world import render
from presets.spec.components import VAESpec
from tests.benchmark import timing

TILES = ((64, 0), (64, 16), (64, 32), (128, 64))


def clips(num_frames: int, height: int, width: int) -> dict[str, Tensor]:
    """[1,3,T,H,W] in [-1,1] each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, num_frames, height, width, generator=generator) * 2 - 1
    return {
        "gradients": _gradients(num_frames, height, width),
        "textures": _textures(num_frames, height, width, generator),
        "moving edges": _edges(num_frames, height, width),
        "micro world": _world(num_frames, height, width),
        "noise": noise,
    }


def _gradients(num_frames: int, height: int, width: int) -> Tensor:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    y, x = y.expand(height, width), x.expand(height, width)
    frames = [torch.stack([x * math.cos(t / 9), 0.8 * y, x * y]) for t in range(num_frames)]
    return torch.stack(frames, 1)[None]


def _textures(num_frames: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Clouds of six sizes, each drifting at its own speed."""
    whole = torch.zeros(1, 3, num_frames, height, width)
    for octave in range(1, 7):
        cell = 2**octave
        rows, columns = (side // cell + num_frames + 2 for side in (height, width))
        cloud = (
            torch.randn(1, 3, rows, columns, generator=generator) * 0.45 / 2 ** (6 - octave) ** 0.7
        )
        large = F.interpolate(cloud, scale_factor=cell, mode="bicubic")
        for t in range(num_frames):
            whole[:, :, t] += large[..., t : t + height, octave * t : octave * t + width]
    return whole.clamp(-1, 1)


def _edges(num_frames: int, height: int, width: int) -> Tensor:
    """Discs that move over a checkerboard."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = []
    for t in range(num_frames):
        frame = torch.where(((x + 2 * t) // 24 + y // 24) % 2 == 0, -0.4, 0.1).expand(3, -1, -1)
        for i in range(12):
            along = 3 * t * torch.tensor([math.sin(i), math.cos(i)])
            row, column = (
                height * (i * 59 % 89) / 89 + along[0],
                width * (i * 37 % 97) / 97 + along[1],
            )
            inside = (12.5 + 3 * i - ((y - row) ** 2 + (x - column) ** 2).sqrt()).clamp(0, 1)
            colour = torch.tensor([math.sin(i), math.cos(2 * i), math.sin(3 * i + 1)])
            frame = torch.lerp(frame, colour[:, None, None], inside)
        frames.append(frame)
    return torch.stack(frames, 1)[None]


def _world(num_frames: int, height: int, width: int) -> Tensor:
    star = Attributes("yellow", "dark blue", "star", "large", "spin")
    size = max(height, width)
    clip = render([star], random.Random(0), num_frames=num_frames, size=size)
    return clip[..., (size - height) // 2 :, (size - width) // 2 :][..., :height, :width]


def psnr(actual: Tensor, expected: Tensor) -> float:
    return 10 * math.log10(4 / max(float((actual - expected).square().mean()), 1e-16))


def worst(actual: Tensor, expected: Tensor) -> float:
    """PSNR of the worst 8x8 pixels of all frames together."""
    errors = (actual - expected).square().mean((0, 1, 2))
    return 10 * math.log10(4 / max(float(F.avg_pool2d(errors[None], 8).max()), 1e-16))


def measured(vae: WanVAE, clip: Tensor) -> dict[str, list[float]]:
    latents = vae.encode(clip)
    whole = vae.decode(latents)
    found = {
        "whole clip": [
            psnr(vae.decode(latents, chunk_frames=0), whole),
            psnr(vae.decode(vae.encode(clip, chunk_frames=0)), whole),
        ]
    }
    for size, overlap in TILES:
        tiles = {"tile_size": size, "tile_overlap": overlap}
        tiled = vae.decode(latents, **tiles)
        encoded = psnr(vae.decode(vae.encode(clip, **tiles)), whole)
        found[f"{size} / {overlap}"] = [psnr(tiled, whole), worst(tiled, whole), encoded]
    return {name: [round(each) for each in values] for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--clip", type=Path, help="a video, measured beside the others")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.frames, options.height, options.width
    all_clips = clips(*size)
    if options.clip:
        frames, _ = read_clip(options.clip, fps=16, frames=size[0], width=size[2], height=size[1])
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)
        all_clips[options.clip.name] = pixels.float().div(127.5).sub(1)[None]
    vae = wan_vae.load(VAESpec(checkpoint="builtin:micro", device="cpu"))
    print(
        "of each: decoding, its worst 8x8 pixels, encoding; of the whole clip: decoding, encoding"
    )
    for name, clip in all_clips.items():
        print(name, measured(vae, clip), flush=True)
    timing.show({"clip": list(size), **timing.settings(options.threads)})


if __name__ == "__main__":
    main()
