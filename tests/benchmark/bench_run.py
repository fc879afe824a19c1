"""A whole micro run (encode, denoise, decode) against the same weights in diffusers' and transformers' parts.

Both warm and in this process: what a second run costs. Prompts differ from round to round on neither side.
"""

from __future__ import annotations

import argparse

import torch
from engine.pipelines import stages

from engine.api import TextToVideo
from tests.benchmark import timing
from tests.peers import make_peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours = TextToVideo.from_preset("micro")
    peer, spec = make_peer(ours), ours.spec
    noise = stages.initial_noise(spec, ours.denoiser)

    def our_run() -> None:
        contexts = stages.encode_prompts(ours.text_encoder, spec)
        *_, last = stages.denoise(ours.denoiser, spec, contexts, noise)
        stages.decode(ours.vae, last.state.latents)

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
