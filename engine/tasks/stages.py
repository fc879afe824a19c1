"""The stages that a run tells of, in its log, its plan, its estimates and on screens: one row each.

A stage that is not here is told of under its own name, without progress.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ToldStage:
    """name: in events and plans. label: for people. unit: what its progress counts: denoising steps, chunks of latent
    frames, or nothing. component: the kind that it runs on, empty for none."""

    name: str
    label: str
    unit: Literal["", "step", "chunk"] = ""
    component: str = ""


LOAD = ToldStage("load", "load")
EXPAND = ToldStage("expand", "expand", component="prompt_expander")
TEXT_ENCODE = ToldStage("text_encode", "text", component="text_encoder")
READ = ToldStage("read", "read")
IMAGE_ENCODE = ToldStage("image_encode", "image", component="image_encoder")
ENCODE = ToldStage("encode", "encode", component="vae")
DENOISE = ToldStage("denoise", "denoise", "step", "denoiser")
DECODE = ToldStage("decode", "decode", "chunk", "vae")
MUX = ToldStage("mux", "mux")

TOLD = {
    stage.name: stage
    for stage in (LOAD, EXPAND, TEXT_ENCODE, READ, IMAGE_ENCODE, ENCODE, DENOISE, DECODE, MUX)
}


def told(name: str) -> ToldStage:
    """The stage of a name in a log or a plan."""
    return TOLD.get(name) or ToldStage(name, name)
