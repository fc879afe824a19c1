"""What a run begins from, in words: its pictures, its clip, and how much of that is made anew. Torch-free."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import TYPE_CHECKING

from presets.tasks import PICTURES

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store

GIVEN = {"image": "image", "last_image": "last image", "video": "video"}
"""By the setting what it is called."""


def looked_at(store: Store, spec: RunSpec) -> tuple[RunSpec, tuple[str, ...]]:
    """A run with what it begins from looked at, as `engine.client.settled` has it, and what there is to say of that, a
    line each. Raises as it does, and PresetError where a strength leaves no step."""
    from engine import client

    settled = client.settled(store, spec)
    return settled.spec, (*settled.notes, *strengths_told(settled.spec))


def strength_told(spec: RunSpec) -> str:
    """`strength 0.6 at shift 3: 12 of 20 steps, from sigma 0.82`. Raises PresetError where that leaves no step."""
    clip, scheduler = spec.video, spec.scheduler
    given = f"sigma {clip.sigma:g}" if clip.sigma else f"strength {clip.strength:g}"
    course = "own sigmas" if scheduler.sigmas else f"shift {scheduler.shift:g}"
    return f"{given} at {course}: {strength_line(spec)}"


def strengths_told(spec: RunSpec) -> list[str]:
    """The same, where a run begins from a clip."""
    return [strength_told(spec)] if spec.video.path else []


def inputs_of(spec: RunSpec) -> dict[str, str]:
    """By setting the paths of what a run begins from."""
    names = [*PICTURES[spec.task], "video"]
    return {name: path for name in names if (path := getattr(spec, name).path)}


def inputs_told(spec: RunSpec) -> list[tuple[str, str]]:
    """What each is called, and the words about it: where it is, and of a video how much of it is made anew."""
    told = []
    for name, path in inputs_of(spec).items():
        parts = [path if os.path.exists(path) else f"{path} (no longer there)"]
        if name == "video":
            parts.append(strength_told(spec))
        told.append((GIVEN[name], ", ".join(parts)))
    return told


def file_name(path: str) -> str:
    """The last part of a path, where there is little room."""
    return PurePath(path).name or path


def strength_line(spec: RunSpec) -> str:
    """`12 of 20 steps, from sigma 0.82`: what a clip's strength, or its sigma, means for a run; "" where it begins
    from no clip. Raises PresetError where it leaves no step."""
    from engine.tasks.route import course_of, whole_course

    if not spec.video.path:
        return ""
    course = course_of(spec)
    total = whole_course(spec).num_steps
    return f"{course.num_steps} of {total} steps, from sigma {course.sigmas[0]:.2f}"
