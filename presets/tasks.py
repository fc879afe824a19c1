"""What the tasks are given beside words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presets.spec.run import RunSpec

# task -> the settings of its pictures, in the order of the models' inputs
PICTURES: Mapping[str, tuple[str, ...]] = {
    "t2v": (),
    "i2v": ("image",),
    "flf2v": ("image", "last_image"),
}


def has_pictures(spec: RunSpec) -> bool:
    """Whether a run is given pictures that its image encoder looks at."""
    return bool(PICTURES[spec.task])
