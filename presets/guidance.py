"""Guidance over the steps of a run: one number, one for each step, or pieces."""

from __future__ import annotations

from presets.errors import PresetError
from presets.spec.sampling import GuidancePiece, GuidanceSpec

# No guidance: uncond + 1 * (cond - uncond) is cond.
NONE = 1.0


def scales(guidance: GuidanceSpec, num_steps: int) -> tuple[float, ...]:
    """The guidance scale of each of `num_steps` steps, at least 1.

    Step i, from 0, is in a piece where `from <= i / num_steps < to`; outside of all pieces the scale is 1.
    Raises PresetError where a list has another length, or holds numbers and pieces.
    """
    scale = guidance.scale
    if not isinstance(scale, tuple):
        return (float(scale),) * num_steps
    pieces = tuple(part for part in scale if isinstance(part, GuidancePiece))
    each = tuple(float(part) for part in scale if not isinstance(part, GuidancePiece))
    if pieces and each:
        raise PresetError("expected numbers or pieces, got both", key="guidance.scale")
    if pieces:
        return tuple(_scale_at(index / num_steps, pieces) for index in range(num_steps))
    if len(each) != num_steps:
        raise PresetError(
            f"expected {num_steps} numbers, one for each step, got {len(each)}",
            key="guidance.scale",
        )
    return each


def _scale_at(share: float, pieces: tuple[GuidancePiece, ...]) -> float:
    return next((piece.scale for piece in pieces if piece.start <= share < piece.stop), NONE)
