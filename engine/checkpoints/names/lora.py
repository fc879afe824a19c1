"""LoRA files: that one is one, and in whose names. Nothing here applies them.

Source: the key lists that diffusers (`lora_conversion_utils.py`), ComfyUI (`comfy/lora.py`, `comfy/weight_adapter`)
and LightX2V (`lora_loader.py`) accept.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

# The longest of these endings is half as long; more of a stranger's name is not worth searching.
_TAIL = 64

# method -> how the names of its tensors end
_METHODS = {
    "LoRA": r"[._]lora(_linear_layer)?[._](A|B|up|down)(\.[A-Za-z]\w*)?(\.(weight|bias))?",
    "LoHa": r"\.hada_[a-z0-9_]+",
    "LoKr": r"\.lokr_[a-z0-9_]+",
    "DoRA": r"\.(dora_scale|lora_magnitude_vector(\.weight)?)",
    "weight differences": r"\.(diff|diff_b|diff_m|set_weight)",
}
_ENDINGS = {method: re.compile(f"{ending}$") for method, ending in _METHODS.items()}
_COMPANIONS = r"\.(alpha|reshape_weight)"  # of any of them
_ANY = re.compile(f"(?:{'|'.join((*_METHODS.values(), _COMPANIONS))})$")

# whose names -> how they begin; the first that the most names have
_FAMILIES = {
    "Wan-Fun": r"lora_unet__",
    "kohya": r"lora_unet_(?!_)",
    "LyCORIS": r"lycoris_",
    "PEFT": r"base_model\.model\.",
    "DiffSynth": r"pipe\.dit\.|blocks\.[0-9]+\..+\.lora_[AB]\.default\b",
    "diffusers": r"transformer(_2)?\.|(diffusion_model\.)?(vace_)?blocks\.[0-9]+\.(attn[12]|ffn\.net)\.",
    "original": r"(diffusion_model\.)?((vace_)?blocks|(text|time|patch)_embedding|time_projection|head|img_emb)\.",
}
_BEGINNINGS = {family: re.compile(beginning) for family, beginning in _FAMILIES.items()}


def is_lora(names: Collection[str]) -> bool:
    """Whether most of the names are of changes to weights instead of weights."""
    return 2 * sum(map(_is_change, names)) > len(names)


@lru_cache(maxsize=16_384)
def _is_change(name: str) -> bool:
    return _ANY.search(name[-_TAIL:]) is not None


def lora_family(names: Collection[str]) -> str:
    """What kind of change a LoRA file holds and in whose names, in a few words: "LoRA in kohya's names"."""
    methods = [
        method
        for method, ending in _ENDINGS.items()
        if any(ending.search(name[-_TAIL:]) for name in names)
    ]
    counts = {
        family: sum(beginning.match(name) is not None for name in names)
        for family, beginning in _BEGINNINGS.items()
    }
    family = max(counts, key=lambda family: counts[family])
    what = " and ".join(methods) or "changes to weights"
    if not counts[family]:
        return f"{what} in names that modiff does not know"
    return f"{what} in the {family} names" if family == "original" else f"{what} in {family} names"
