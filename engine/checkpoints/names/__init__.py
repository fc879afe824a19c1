"""Tensor names: the published original ones, and how every other published layout spells them. Torch-free.

Inside the engine a tensor has its original name. The other namings are tables of pairs, one file a component,
read in both directions.
"""

from engine.checkpoints.names.lora import is_lora, lora_family
from engine.checkpoints.names.recognition import (
    MARKERS,
    component_of,
    components_in,
    is_buffer,
    naming_of,
    prefix_of,
    unwrapped,
)
from engine.checkpoints.names.renaming import from_original, to_original

__all__ = [
    "MARKERS",
    "component_of",
    "components_in",
    "from_original",
    "is_buffer",
    "is_lora",
    "lora_family",
    "naming_of",
    "prefix_of",
    "to_original",
    "unwrapped",
]
