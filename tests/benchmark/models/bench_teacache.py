"""TeaCache on the micro model: what each threshold saves and costs; with --fit, the polynomial for it.

The table: per threshold how many of the steps leave the blocks out, the relative L2 distance of the final latents to
those without (mean over the clips), and how much sooner the denoising is done. Clips are of the held-out prompts.

The fit is the one of TeaCache's authors: over consecutive steps of whole runs, x = relative L1 change of the time
embedding, y = relative L1 change of the blocks' residual (output - input), of both branches; numpy.polyfit of degree
4. Here over 70 prompts that are not held out, in runs of 10, 20, 30 and 50 steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.components.providers import umt5, wan_dit
from engine.extensions.caching.teacache import TeaCache
from engine.extensions.extension import Extension
from engine.micro.grammar import heldout_prompts
from engine.schedulers.scheduler import create_scheduler
from presets.spec.components import DenoiserSpec, TextEncoderSpec
from tests.benchmark import timing
from tests.sampling_loop import Loop

MICRO = {"num_blocks": 6, "dim": 128, "model": "micro"}
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


class Micro:
    """The shipped micro model in fp32 and its prompts as token states."""

    def __init__(self) -> None:
        files = {"checkpoint": "builtin:micro", "device": "cpu", "dtype": "fp32"}
        self.dit = wan_dit.load(DenoiserSpec(**files))
        self.text = umt5.load(TextEncoderSpec(**files))

    def loop(self, prompt: str, seed: int, steps: int, extensions: Sequence[Extension]) -> Loop:
        noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(seed))
        scheduler = create_scheduler("unipc", num_steps=steps, shift=3.0)
        states = [self.text.encode(p)[None].clone() for p in (prompt, "")]
        return Loop(self.dit, *states, scheduler, noise, extensions=extensions)


class Watch:
    """Collects (x, y) of every step and branch."""

    exact, version = False, 1  # inexact, so that each branch is a call of its own

    def __init__(self) -> None:
        self.before: dict[str, tuple[Tensor, Tensor]] = {}
        self.pairs: list[tuple[float, float]] = []

    def is_active(self, step: int, total: int) -> bool:
        return True

    def blocks(self, next, tokens, at):
        x = next(tokens, at)
        now = (tokens.signal, x - tokens.x)
        if at.step:
            change, moved = map(_relative, now, self.before[at.branch])
            self.pairs.append((change, moved))
        self.before[at.branch] = now
        return x


def _relative(now: Tensor, before: Tensor) -> float:
    return float((now - before).abs().mean() / before.abs().mean())


def fit(micro: Micro, prompts: int = 70) -> dict[str, object]:
    pairs: list[tuple[float, float]] = []
    for number, (_, prompt) in enumerate(heldout_prompts(prompts, seed=0, heldout=False)):
        for steps in (10, 20, 30, 50):
            watch = Watch()
            micro.loop(prompt, number, steps, [watch]).run()
            pairs += watch.pairs
    x, y = np.array(pairs).T
    coefficients = np.polyfit(x, y, 4)
    residual = y - np.polyval(coefficients, x)
    return {
        "coefficients": [float(f"{c:.9g}") for c in coefficients],
        "pairs": len(pairs),
        "x": [float(x.min()), float(x.max())],
        "r_squared": round(float(1 - residual.var() / y.var()), 4),
        "predicted": {
            f"{v:.3f}": round(float(np.polyval(coefficients, v)), 4)
            for v in np.linspace(x.min(), x.max(), 9)
        },
    }


def table(micro: Micro, steps: int, clips: int, rounds: int) -> list[dict[str, object]]:
    prompts = [prompt for _, prompt in heldout_prompts(clips, seed=1)]

    def runs(*threshold: float) -> tuple[list[Tensor], float, int]:
        """(final latents, seconds, steps left out of one run)"""
        latents, seconds, skipped = [], 0.0, 0
        for seed, prompt in enumerate(prompts):
            caches = [TeaCache(TeaCache.Options(threshold=t), MICRO) for t in threshold]
            loop = micro.loop(prompt, seed, steps, caches)
            begun = time.process_time()
            latents.append(loop.run().latents)
            seconds += time.process_time() - begun
            skipped = len(caches[0].skipped) if caches else 0
        return latents, seconds, skipped

    rows = []
    for threshold in THRESHOLDS:
        ratios = []
        for _ in range(rounds):
            # threshold 0 leaves nothing out: the same calls, so that batching is not what is measured
            exact, plain, _ = runs(0.0)
            close, cached, skipped = runs(threshold)
            ratios.append(plain / cached)
        distances = [float((a - b).norm() / b.norm()) for a, b in zip(close, exact, strict=True)]
        rows.append(
            {
                "threshold": threshold,
                "skipped": f"{skipped} of {steps}",
                "relative_l2": round(sum(distances) / len(distances), 4),
                "speed_up": round(sorted(ratios)[len(ratios) // 2], 2),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--prompts", type=int, default=70)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    micro = Micro()
    result: dict[str, object] = timing.settings(options.threads)
    if options.fit:
        result["fit"] = fit(micro, options.prompts)
    else:
        result["table"] = table(micro, options.steps, options.clips, options.rounds)
    timing.show(result)


if __name__ == "__main__":
    main()
