"""What a set of names is: which component, in which naming, behind which prefix."""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.checkpoints.names.lora import is_lora
from engine.checkpoints.names.renaming import NAMINGS, find

# What files put in front of every name, where they do: ComfyUI's whole checkpoints and what was cut out of them,
# Kijai's, trainers' (of DiffSynth, PEFT, distillation). Longer ones before those they begin with.
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
    "dit.",
    "pipe.dit.",
    "base_model.model.",
    "state_dict.",
    "ema_model.",
    "model_ema.",
    "generator_ema.",
    "generator.",
)
# What torch's parallel, sharded, compiled and checkpointing wrappers put before any part of a name.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_MAX_PREFIXES = 4
# One tensor that a node or a trainer added hides no prefix; a file with more of them is of several parts.
_MAX_STRAYS = 3
_NAMES_A_STRAY = 20
# What follows from the configuration and is saved with the weights by some: never read.
_BUFFERS = re.compile(
    r"(rope\.|rotary_emb\.|rope_embedder\.)?freqs(_cos|_sin|_cis|_[0-9])?|(.+\.)?rotary_emb\.inv_freq|"
    r"model_sampling\.[a-z_]+|log_sigmas|logit_scale|(.+\.)?position_ids"
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
        # TAEHV
        r"(en|de)coder\.[0-9]+\.conv\.[024]\.weight",
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


def components_in(names: Collection[str]) -> list[str]:
    """The components of which a file has parts, whatever is before their names."""
    found = set()
    for name in names:
        bare = unwrapped(name)
        for _ in range(_MAX_PREFIXES):
            found |= {each for each, pattern in _PATTERNS.items() if pattern.fullmatch(bare)}
            prefix = next((prefix for prefix in PREFIXES if bare.startswith(prefix)), None)
            if prefix is None:
                break
            bare = bare.removeprefix(prefix)
    return [component for component in _PATTERNS if component in found]


def unwrapped(name: str) -> str:
    """A name without what wrappers of modules put into it, wherever and however often."""
    return _WRAPPERS.sub("", name)


def is_buffer(name: str) -> bool:
    """Whether a bare name is that of a buffer that follows from the configuration, no weight."""
    return _BUFFERS.fullmatch(name) is not None


def prefix_of(names: Collection[str]) -> str:
    """What the names begin with without its being part of the published name, of several the one after the other;
    empty where there is none. One name that lacks it changes nothing. A LoRA keeps its prefix: there it tells the
    family."""
    weights = [name for name in names if name.rpartition(".")[2] not in MARKERS]
    if not weights or is_lora(weights):
        return ""
    whole = ""
    for _ in range(_MAX_PREFIXES):
        prefix = next((prefix for prefix in PREFIXES if _most_have(weights, whole + prefix)), "")
        if not prefix:
            break
        whole += prefix
    return whole


def _most_have(names: Collection[str], prefix: str) -> bool:
    strays = sum(not name.startswith(prefix) for name in names)
    return strays <= min(_MAX_STRAYS, len(names) // _NAMES_A_STRAY)
