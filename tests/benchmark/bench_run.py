"""A whole micro run (encode, denoise, decode) against the same weights in diffusers' and transformers' parts.

Both warm and in this process: what a second run costs. Ours keeps its steps in a store, and each round has a prompt
of its own, so that nothing is found there.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from engine.api import TextToVideo
from tests.benchmark import timing
from tests.oracles.loaded import load
from tests.oracles.peers import make_peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = TemporaryDirectory()
    ours = TextToVideo.from_preset("micro", store=Path(folder.name))
    rounds = itertools.count()
    peer, spec = make_peer(load("micro")), ours.spec
    noise = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(spec.seed))

    def our_run() -> None:
        ours(f"{spec.prompt} {next(rounds)}")

    @torch.no_grad()
    def their_run() -> None:
        *_, latents = peer.denoise(spec, noise)
        peer.decode(latents)

    spent = timing.seconds({"ours": our_run, "diffusers": their_run}, rounds=options.rounds)
    timing.show(
        {
            "run": "micro, 20 steps, guidance 2.5",
            **timing.settings(options.threads),
            "seconds": timing.medians(spent),
            "ratio": timing.ratio(spent, "ours", "diffusers"),
        }
    )


if __name__ == "__main__":
    main()
