"""What is given beside words, said in words: the same on the command line and in the app."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presets.spec import RunSpec


def strength_line(spec: RunSpec) -> str:
    """`12 of 20 steps, from sigma 0.82`: what a clip's strength, or its sigma, means for a run; "" where it begins
    from no clip. Raises PresetError where it leaves no step."""
    from engine.tasks.route import course_of, whole_course

    if not spec.video.path:
        return ""
    course = course_of(spec)
    total = whole_course(spec).num_steps
    return f"{course.num_steps} of {total} steps, from sigma {course.sigmas[0]:.2f}"
