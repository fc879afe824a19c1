"""What a run does, step by step: its course, and whose settings hold where. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.schedulers.course import Course, course_from, make_course, redirected
from engine.tasks.reach import reach
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.settings.by_key import changed_keys
from presets.spec.run import RunSpec
from store.lineage.records import RunRecord, Segment


@dataclass(frozen=True)
class Part:
    """The steps from `start` to before `stop`, which follow `spec`. total: how many steps the run was to have when
    they were made: shares of a run are shares of that, whatever a later branch makes of it."""

    start: int
    stop: int
    spec: RunSpec
    total: int


@dataclass(frozen=True)
class Route:
    """parts: of its steps. spec: of the run itself, whose settings hold for what comes after the steps too."""

    course: Course
    parts: tuple[Part, ...]
    spec: RunSpec

    @property
    def num_steps(self) -> int:
        return self.course.num_steps

    def spec_at(self, step: int) -> RunSpec:
        """What a step follows, from 0 to before `num_steps`."""
        return next(part.spec for part in self.parts if part.start <= step < part.stop)


def course_of(spec: RunSpec) -> Course:
    """The course of a run that was never branched; one from a clip on begins at a later step of it, on the same levels.

    Raises PresetError where that leaves no step.
    """
    whole = whole_course(spec)
    if not spec.video.path:
        return whole
    skipped = num_skipped(whole, spec)
    if skipped == whole.num_steps:
        levels = f"{whole.sigmas[0]:.4g} to {whole.sigmas[-2]:.4g}"
        key, value = (
            ("sigma", spec.video.sigma) if spec.video.sigma else ("strength", spec.video.strength)
        )
        raise PresetError(
            f"{value} leaves none of the {whole.num_steps} steps (sigmas from {levels}); expected at least "
            + _rounded_up(whole.sigmas[-2] if key == "sigma" else 1 / whole.num_steps),
            key=f"video.{key}",
        )
    return course_from(whole, skipped)


def _rounded_up(value: float) -> str:
    """To four decimals: what is told as the least must be enough."""
    return f"{math.ceil(round(value * 10_000, 6)) / 10_000:g}"


def whole_course(spec: RunSpec) -> Course:
    """The course of a run's scheduler, from pure noise on."""
    wanted = spec.scheduler
    return make_course(
        wanted.name,
        num_steps=wanted.steps,
        shift=wanted.shift,
        grid=wanted.grid,
        sigmas=wanted.sigmas or None,
    )


def num_skipped(whole: Course, spec: RunSpec) -> int:
    """How many steps of its scheduler a run from a clip leaves out: by strength as diffusers counts them
    (`pipeline_wan_video2video.py`), or those that begin above `video.sigma`."""
    clip = spec.video
    if clip.sigma:
        return sum(sigma > clip.sigma for sigma in whole.sigmas[:-1])
    return whole.num_steps - min(int(whole.num_steps * clip.strength), whole.num_steps)


def route_of(spec: RunSpec, segments: Sequence[Segment] = ()) -> Route:
    """The route of a run: each segment's spec up to its stop, then its own. A segment of all steps leaves to the run
    what comes after them, and nothing else may differ then.

    Raises PresetError where a segment stops where its course has no step.
    """
    specs = [*(decode_spec(segment.spec_json) for segment in segments), spec]
    stops = [segment.stop for segment in segments]
    course = course_of(specs[0])
    parts = []
    for start, stop, before, after in zip([0, *stops], stops, specs, specs[1:], strict=False):
        total = course.num_steps
        if stop != total or not _is_of_the_end(before, after):
            try:
                course = redirected(course, stop, course_of(after))
            except ValueError as error:
                raise PresetError(f"cannot branch there: {error}") from None
        parts.append(Part(start, stop, before, total))
    start = stops[-1] if stops else 0
    parts.append(Part(start, course.num_steps, specs[-1], course.num_steps))
    return Route(course, tuple(part for part in parts if part.stop > part.start), specs[-1])


def _is_of_the_end(before: RunSpec, after: RunSpec) -> bool:
    """Whether the two differ in nothing but what comes after the steps."""
    return all(reach(key) == "end" for key in changed_keys(before, after))


def route_of_run(run: RunRecord) -> Route:
    """The route of a recorded run. Raises PresetError where its spec cannot be read."""
    return route_of(decode_spec(run.spec_json), run.segments)
