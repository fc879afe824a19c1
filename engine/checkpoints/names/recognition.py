"""What a set of names is: which component, in which naming, behind which prefix."""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.checkpoints.names.lora import is_lora
from engine.checkpoints.names.renaming import NAMINGS, find

# What files put in front of every name, where they do: ComfyUI's whole checkpoints and what was cut out of them,
# Kijai's, trainers' (of torch's parallel and compiled modules, of DiffSynth). Longer ones before those they begin with.
PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "model.",
    "net.",
    "text_encoders.umt5xxl.transformer.",
    "text_encoders.umt5xxl.",
    "transformer.",
    "conditioner.embedders.0.transformer.",
    "first_stage_model.",
    "clip_vision.",
    "model_state.",
    "vae.",
    "module.",
    "_orig_mod.",
    "dit.",
    "pipe.dit.",
)
# Not weights, and in some files without the prefix that all else has: the mark of scaled fp8, the tokenizer.
MARKERS = ("scaled_fp8", "spiece_model")

# Names that no other published model has, in every naming. Several each: one that is missing hides nothing.
_CHARACTERISTIC = {
    "denoiser": (
        r"head\.modulation",
        r"blocks\.[0-9]+\.modulation",
        r"vace_patch_embedding\.weight",
        r"condition_embedder\.time_proj\.weight",
        r"blocks\.[0-9]+\.scale_shift_table",
    ),
    "vae": (
        r"(en|de)coder\.middle\.[02]\.residual\.[03]\.gamma",
        r"(en|de)coder\.mid_block\.resnets\.[01]\.norm[12]\.gamma",
    ),
    "text_encoder": (
        r"blocks\.[0-9]+\.pos_embedding\.embedding\.weight",
        r"blocks\.[0-9]+\.ffn\.gate\.0\.weight",
        r"encoder\.block\.[0-9]+\.layer\.0\.SelfAttention\.[qkvo]\.weight",
        r"enc\.blk\.[0-9]+\.attn_[qkvo]\.weight",
    ),
    "image_encoder": (
        r"visual\.cls_embedding",
        r"visual\.transformer\.[0-9]+\.attn\.to_qkv\.weight",
        r"(vision_model\.)?embeddings\.class_embedding",
        r"(vision_model\.)?pre_layrnorm\.weight",
    ),
}
_PATTERNS = {component: re.compile("|".join(names)) for component, names in _CHARACTERISTIC.items()}


def component_of(names: Collection[str]) -> str:
    """`denoiser`, `vae`, `text_encoder`, `image_encoder`, `lora`, or `unknown`, which several in one file are
    too. names: without prefix, in any naming."""
    if is_lora(names):
        return "lora"
    found = [
        component
        for component, pattern in _PATTERNS.items()
        if any(pattern.fullmatch(name) for name in names)
    ]
    return found[0] if len(found) == 1 else "unknown"


def naming_of(component: str, names: Collection[str]) -> str:
    """The naming of a component (`original`, `diffusers`, `diffusers-2.2`, `huggingface` or `llama.cpp`) that
    knows the most of the names, `original` in doubt; empty for a component without namings."""
    namings = NAMINGS.get(component)
    if namings is None:
        return ""
    known = {
        naming: sum(find(component, naming, name) is not None for name in names)
        for naming in namings
    }
    return max(known, key=lambda naming: known[naming])


def prefix_of(names: Collection[str]) -> str:
    """What every name begins with without its being part of the published name; empty where there is no such
    prefix. A LoRA keeps its prefix: there it tells the family."""
    weights = [name for name in names if name.rpartition(".")[2] not in MARKERS]
    if not weights or is_lora(weights):
        return ""
    return next(
        (prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in weights)), ""
    )
