"""A run as a chain of content keys: what each link is made from, and nothing else. Torch-free.

A key says what a result depends on, so that equal work has equal keys wherever and whenever it is asked for. What
changes numbers is in it; where and when it is computed is not (docs/keys.md has the whole table). The version of each
kind is part of its keys: it goes up with every change of code that changes numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.schedulers.course import Course, make_course, redirected
from engine.schedulers.schedule import to_float32
from engine.schedulers.update import Update
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.guidance import constant_scale
from presets.spec import RunSpec
from store.keys import derive_key
from store.lineage.records import RunRecord, Segment

VERSIONS = {"text": 1, "noise": 1, "step": 1, "video": 1}

Identity = Mapping[str, Any]
"""What a component's numbers depend on: its name, the fingerprint of its weights, its dtype and options."""


@dataclass(frozen=True)
class Part:
    """The steps from `start` to before `stop`, which follow `spec`."""

    start: int
    stop: int
    spec: RunSpec


@dataclass(frozen=True)
class Route:
    """What a run does, step by step: its course, and whose settings hold where."""

    course: Course
    parts: tuple[Part, ...]

    @property
    def num_steps(self) -> int:
        return self.course.num_steps

    def spec_at(self, index: int) -> RunSpec:
        return next(part.spec for part in self.parts if index < part.stop)


def latent_size(spec: RunSpec) -> tuple[int, int, int]:
    """Frames, rows and columns of a run's latents: the VAE's stride is 4 in time and 8 in space."""
    return 1 + (spec.frames - 1) // 4, spec.height // 8, spec.width // 8


def num_tokens(spec: RunSpec) -> int:
    """How many tokens of 2x2 latents the denoiser sees at each step."""
    frames, rows, columns = latent_size(spec)
    return frames * (rows // 2) * (columns // 2)


def course_of(spec: RunSpec) -> Course:
    """The course of a run that was never branched."""
    wanted = spec.scheduler
    return make_course(
        wanted.name,
        num_steps=wanted.steps,
        shift=wanted.shift,
        grid=wanted.grid,
        sigmas=wanted.sigmas or None,
    )


def route_of(spec: RunSpec, segments: Sequence[Segment] = ()) -> Route:
    """The route of a run: each segment's spec up to its stop, then its own.

    Raises PresetError where a segment stops where its course has no step, guidance changes between steps, or the
    solver is stochastic.
    """
    specs = [*(decode_spec(segment.spec_json) for segment in segments), spec]
    stops = [segment.stop for segment in segments]
    for each in specs:
        constant_scale(each.guidance)
    course = course_of(specs[0])
    parts = []
    for start, stop, before, after in zip([0, *stops], stops, specs, specs[1:], strict=False):
        try:
            course = redirected(course, stop, course_of(after))
        except ValueError as error:
            raise PresetError(f"cannot branch there: {error}") from None
        parts.append(Part(start, stop, before))
    if any(update.noise for update in course.updates):
        raise PresetError(
            "expected a solver that adds no noise: a stochastic one cannot be run yet",
            key="scheduler.name",
        )
    start = stops[-1] if stops else 0
    parts.append(Part(start, course.num_steps, specs[-1]))
    return Route(course, tuple(part for part in parts if part.stop > part.start))


def route_of_run(run: RunRecord) -> Route:
    """The route of a recorded run. Raises PresetError where its spec cannot be read."""
    return route_of(decode_spec(run.spec_json), run.segments)


def prompts_of(spec: RunSpec) -> tuple[str, ...]:
    """What is encoded for a step of this spec: the prompt and, where guidance needs it, the negative one."""
    is_guided = constant_scale(spec.guidance) != 1
    return (spec.prompt, spec.negative_prompt) if is_guided else (spec.prompt,)


def text_key(encoder: Identity, cleaned_prompt: str) -> str:
    """The key of a prompt's token states."""
    return derive_key(
        "text", {"version": VERSIONS["text"], "encoder": dict(encoder), "prompt": cleaned_prompt}
    )


def noise_key(spec: RunSpec, latent_channels: int, device_type: str) -> str:
    """The key of the initial noise, the root of a chain. device_type: where `wan` noise is drawn; each type of
    device has a generator of its own."""
    source = spec.noise if spec.noise == "cpu" else f"{spec.noise}/{device_type}"
    return derive_key(
        "noise",
        {
            "version": VERSIONS["noise"],
            "seed": spec.seed,
            "source": source,
            "shape": [1, latent_channels, *latent_size(spec)],
        },
    )


def step_facts(
    parent: str,
    course: Course,
    index: int,
    spec: RunSpec,
    denoiser: Identity,
    conditioning: Sequence[str],
) -> dict[str, Any]:
    """What the step `index` (from 0) depends on, as the value that its key is derived from.

    conditioning: digests of the token states of `prompts_of(spec)`. The solver is there as the weights of its
    step, which is all that it does to the latents.
    """
    return {
        "version": VERSIONS["step"],
        "parent": parent,
        "timestep": course.timesteps[index],
        "update": _weights(course.updates[index]),
        "guidance": constant_scale(spec.guidance),
        "conditioning": list(conditioning),
        "denoiser": dict(denoiser),
        "extensions": [[extension.name, dict(extension.options)] for extension in spec.extensions],
    }


def step_key(facts: Mapping[str, Any]) -> str:
    return derive_key("step", dict(facts))


def video_key(vae: Identity, latents: str, fps: int) -> str:
    """The key of the encoded video of latents with this digest."""
    return derive_key(
        "video", {"version": VERSIONS["video"], "vae": dict(vae), "latents": latents, "fps": fps}
    )


def _weights(update: Update) -> list[float]:
    # as float32 has them, which is how they meet the latents: the last bits of float64 are each C library's own
    weights = (update.sigma, update.latents, update.velocity, *update.x0)
    return [to_float32(weight) for weight in weights]


def identity_of(kind: str, part: Any, fingerprint: str) -> dict[str, Any]:
    """The identity of a component: all of its settings but where it runs and where its files lie.

    fingerprint: of its weights and whatever else its numbers depend on.
    """
    settings = msgspec.to_builtins(part)
    for field in ("device", "checkpoint", "tokenizer"):
        settings.pop(field, None)
    if not settings.get("options"):
        settings.pop("options", None)  # as before there were any
    return {"kind": kind, "weights": fingerprint, **settings}
