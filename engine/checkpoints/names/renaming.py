"""One name into another: `to_original` and `from_original`, each the inverse of the other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from engine.checkpoints.names import denoiser, image_encoder, text_encoder, vae
from engine.checkpoints.names.templates import Naming, renamed

NAMINGS: Mapping[str, Mapping[str, Naming]] = {
    "denoiser": denoiser.NAMINGS,
    "vae": vae.NAMINGS,
    "text_encoder": text_encoder.NAMINGS,
    "image_encoder": image_encoder.NAMINGS,
}


def to_original(component: str, naming: str, name: str) -> tuple[str, int] | None:
    """(original name, index of the part) of a tensor that `naming` calls `name`. The index is 0 unless several
    tensors, joined along the first axis in the order of their indices, make the original one.

    None for a tensor that the component does without. A name that the naming does not have comes back as it is.
    """
    found = find(component, naming, name)
    if found is not None:
        return found
    return None if NAMINGS[component][naming].unused.fullmatch(name) else (name, 0)


def from_original(component: str, naming: str, name: str) -> tuple[str, ...]:
    """What `naming` calls an original tensor: one name, or those of its equal parts along the first axis, in
    order. A name that the original does not have comes back as it is."""
    found = renamed(NAMINGS[component][naming].from_original, name)
    return found[0] if found is not None else (name,)


# a folder of many models has the same names again and again; of the largest published one there are 1,331
@lru_cache(maxsize=16_384)
def find(component: str, naming: str, name: str) -> tuple[str, int] | None:
    """(original name, index of the part) where the naming has the name, else None."""
    table = NAMINGS[component][naming]
    found = renamed(table.to_original, name)
    if found is None and table.optional_prefix:
        found = renamed(table.to_original, table.optional_prefix + name)
    return None if found is None else (found[0][0], found[1])
