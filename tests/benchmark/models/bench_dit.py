"""One denoising step (one model call) against diffusers' `WanTransformer3DModel`: time and peak memory.

Same random weights, text of 64 real tokens; ours gets the prompt prepared once, as a run does, diffusers gets it
padded to 512 at every step, as its pipeline does. Sizes: tiny 320 tokens, preview 8190 tokens (both dim 384, 6
layers), large 780 tokens through 2 of the 30 blocks of t2v-1.3B.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from diffusers import WanTransformer3DModel

from engine.models.diffusion.config import WanDiTConfig, keeps_fp32
from engine.models.diffusion.wandit import WanDiT
from tests.benchmark import timing
from tests.oracles.parity import dit_pair

SMALL = {"dim": 384, "num_heads": 6, "ffn_dim": 1024, "num_layers": 6}
CASES = {
    "tiny": (SMALL, (5, 16, 16)),
    "preview": (SMALL, (21, 30, 52)),
    "large": ({"num_layers": 2}, (2, 30, 52)),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def step(case: str, side: str, dtype_name: str, device: str) -> Callable[[], torch.Tensor]:
    """The callable that makes one model call of `side`: ours or diffusers."""
    shape, size = CASES[case]
    dtype = DTYPES[dtype_name]
    ours, theirs = dit_pair(WanDiTConfig(**shape))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, *size, generator=generator).to(device)
    text = torch.randn(1, 64, 4096, generator=generator).to(device)
    timestep = torch.tensor([500], device=device)
    if side == "ours":
        return _ours(ours, latents, timestep, text, dtype)
    padded = torch.nn.functional.pad(text, (0, 0, 0, 448))
    return _diffusers(theirs.to(device), latents, timestep, padded, dtype)


def _ours(
    model: WanDiT,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    dtype: torch.dtype,
) -> Callable[[], torch.Tensor]:
    for name, parameter in model.named_parameters():
        kept = torch.float32 if keeps_fp32(name) else dtype
        parameter.data = parameter.data.to(latents.device, kept)
    conditioning = model.prepare({"text": text})
    return torch.no_grad()(lambda: model(latents, timestep, conditioning))


def _diffusers(
    model: WanTransformer3DModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    dtype: torch.dtype,
) -> Callable[[], torch.Tensor]:
    for name, parameter in model.named_parameters():
        if not any(part in name for part in model._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)
    low, text = latents.to(dtype), text.to(dtype)
    return torch.no_grad()(lambda: model(low, timestep, text).sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="tiny")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="also peak memory, one process each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [(side, dtype) for dtype in DTYPES for side in ("ours", "diffusers")]
    runs = {
        f"{side} {dtype}": step(options.case, side, dtype, options.device) for side, dtype in names
    }
    spent = timing.seconds(runs, rounds=options.rounds, device=options.device)
    result = {
        "case": options.case,
        "device": options.device,
        **timing.settings(options.threads),
        "seconds": timing.medians(spent),
        "ratio": {d: timing.ratio(spent, f"ours {d}", f"diffusers {d}") for d in DTYPES},
    }
    if options.memory:
        result["peak_mib"] = {
            f"{side} {dtype}": timing.peak_mib(step, options.case, side, dtype, options.device)
            for side, dtype in names
        }
    timing.show(result)


if __name__ == "__main__":
    main()
