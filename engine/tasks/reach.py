"""From where on a setting matters in a run. Torch-free.

The graph of a run says so itself: what is here by name is what the first node that differs says, without having to
know the files of either run. A test holds the names against graphs.
"""

from __future__ import annotations

from typing import Literal

Reach = Literal["noise", "steps", "end"]

# What the initial latents and their size are made from; and what the video and the files alone are made from.
_NOISE = ("task", "width", "height", "max_area", "frames", "seed", "noise", "video")
_END = ("fps", "components.vae", "output", "keep")

ORDER: tuple[Reach, ...] = ("noise", "steps", "end")


def reach(key: str) -> Reach:
    """Where a setting, by its dotted key, first matters: at the initial noise, at a step, or after the last one."""
    if _is_of(key, _NOISE):
        return "noise"
    return "end" if _is_of(key, _END) else "steps"


def _is_of(key: str, tables: tuple[str, ...]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)
