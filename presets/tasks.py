"""What the task of a run says of the run."""

from __future__ import annotations

from presets.spec import RunSpec


def has_pictures(spec: RunSpec) -> bool:
    """Whether a run is given pictures that its image encoder looks at."""
    return spec.task != "t2v"
