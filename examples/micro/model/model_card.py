"""The model card that ships beside the weights: what the model is, what it knows, how it was made, how well it does.

World and sizes come from the code and the weights, training and gates from records of what was done.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.micro.grammar import (
    BACKGROUNDS,
    FOREGROUNDS,
    MOTION_PHRASES,
    SHAPES,
    SIZE_WORDS,
    TEMPLATES,
    is_visible,
)
from examples.micro.world import FRAME_SIZE, NUM_FRAMES

WIDTH = 118
TEMPLATE = """\
---
license: apache-2.0
pipeline_tag: text-to-video
language: en
---

# The micro model

A text-to-video model with the architecture of Wan 2.1 (causal VAE, UMT5 text encoder, diffusion transformer) at
{parameters_in_all} parameters. It makes a clip of {size}x{size} pixels and {frames} frames in seconds on a CPU and
follows prompts about a small world of coloured shapes. It exists so that the engine, its tests and its tools have
something real to run, everywhere, with nothing to download. It was trained from random weights; it holds no weights
of the published Wan models.

## Its world

One shape that moves over a plain background, described in one sentence:
`a large red circle moves left over a dark blue background`.

{world}

{invisible}

About one (foreground, shape, motion) triple in nine was held out from the training of text encoder and transformer;
the held-out prompts below are those.
It also knows {paraphrases} ways to put a sentence together and several words for most motions and sizes. Any
other word means nothing to it.

## Architecture

The published original tensor names, bf16.

| file | network | parameters |
|---|---|---|
{files}

`config.json` is the transformer's configuration in the published field names. The statistics of the VAE's latents are
folded into its two 1x1x1 convolutions, so that the published normalisation constants serve this model too.
`tokenizer.json` is a Unigram tokenizer with one token per word of the world.
`tiny_decoder.safetensors`, where it is there, shows latents as colours without the VAE, for previews
(`python -m examples.micro tiny-decoder`); its metadata say what share of the colours' variance it explains.
`python -m examples.micro pictures` trains two siblings from it, which begin from pictures: an image encoder
(`image_encoder.safetensors`) and a transformer each (`i2v`, `flf2v`); they use its text encoder and its VAE
(docs/micro.md has how well they do).

Settings it was made for: {size}x{size}, {frames} frames, UniPC, 20 steps, guidance 2.5, shift 3, empty negative prompt.

## How it was trained

On clips that a program renders as they are needed (no collected data), with the recipe in `examples/micro`
(`python -m examples.micro all`, from the root of a clone, runs all of it). VAE: from nothing on single images, then
on ever longer clips; then both halves for sharp edges; then the decoder alone on noisy latents. Text encoder and
transformer: together, by flow matching on encoded clips. Muon for the matrices, AdamW for the rest, averaged
weights.{history}

## How well it does

{measured}

## Limits

- Nothing outside its world: any other prompt gives some coloured shape.
- {size}x{size} pixels, {frames} frames and one object only; other sizes were not trained.
- Edges are soft, and small stars are its weakest shape. Spinning shapes warp: it knows the word, do not count on it.
- It takes "travels from right to left" for the opposite now and then: "moves left" is safe. Guidance above
  3 distorts colours.
- The scores come from a program that reads pixels (`examples/micro/measures/meter.py`); it accepts some clips that a
  person would not.

## Licence

Apache-2.0, as the rest of this repository.
"""


def model_card(
    *,
    config: Mapping[str, Any],
    vae_dim: int,
    parameters: Mapping[str, int],
    history: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
    notes: str,
) -> str:
    """The card as Markdown. `parameters` counts by file, `history` lists trainings with phase and
    progress, `evaluation` is what `Evaluation.as_dict` gives, `notes` is added to the training."""
    networks = {
        "dit.safetensors": f"diffusion transformer, width {config['dim']}, {config['num_layers']} "
        f"layers, {config['num_heads']} heads, feed-forward {config['ffn_dim']}",
        "text_encoder.safetensors": f"UMT5 encoder, width {config['text_dim']}",
        "vae.safetensors": f"causal video VAE, width {vae_dim}, 16 latent channels",
    }
    invisible = [f"{f} on {b}" for f in FOREGROUNDS for b in BACKGROUNDS if not is_visible(f, b)]
    world = {
        "foreground": FOREGROUNDS,
        "background": BACKGROUNDS,
        "shape": SHAPES,
        "size": SIZE_WORDS,
        "motion": [phrases[0] for phrases in MOTION_PHRASES.values()],
    }
    return TEMPLATE.format(
        parameters_in_all=f"{sum(parameters.values()) / 1e6:.2f} M",
        size=FRAME_SIZE,
        frames=NUM_FRAMES,
        world="\n".join(_bullet(name, words) for name, words in world.items()),
        invisible=textwrap.fill(
            f"Not in the world, for lack of contrast: {', '.join(invisible)}; and circles that spin, "
            "which nobody could see.",
            width=WIDTH,
        ),
        paraphrases=len(TEMPLATES),
        files="\n".join(f"| `{n}` | {networks[n]} | {c:,} |" for n, c in parameters.items()),
        history="".join(f"\n\n{part}" for part in (_history(history), notes.strip()) if part),
        measured=_measured(evaluation) if evaluation else "Not measured yet.",
    )


def _bullet(name: str, words: Iterable[str]) -> str:
    return textwrap.fill(f"- {name}: {', '.join(words)}", width=WIDTH, subsequent_indent="  ")


def _history(history: Sequence[Mapping[str, Any]]) -> str:
    if not history:
        return ""
    rows = [
        f"| {h['phase']} | {h['step']:,} | {h['samples']:,} | {h['seconds'] / 60:.0f} |"
        for h in history
    ]
    return "\n".join(["| phase | steps | clips | minutes |", "|---|---|---|---|", *rows])


def _measured(evaluation: Mapping[str, Any]) -> str:
    gates = [
        f"| {g['name']} | {_score(g['value'])} | {g['least']:.2f} | {'yes' if g['holds'] else 'no'} |"
        for g in evaluation["gates"]
    ]
    parts = ["\n".join(["| gate | measured | at least | holds |", "|---|---|---|---|", *gates])]
    measurements = evaluation["measurements"]
    if measurements:
        names = list(measurements[0]["scores"])
        rows = [
            f"| {m['name']} | {m['clips']} | "
            + " | ".join(_score(m["scores"][name]) for name in names)
            + " |"
            for m in measurements
        ]
        header = f"| clips | n | {' | '.join(names)} |"
        parts.append("\n".join([header, "|---" * (len(names) + 2) + "|", *rows]))
    parts.append(
        "`all_four` leaves the size out. With n clips a share has a standard error of at most "
        "0.5 / sqrt(n)."
    )
    return "\n\n".join(parts)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
