"""What runs from pictures and clips share: by their graphs, without a model or a file."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from engine.components.protocols import Description
from engine.graph import Node, ordered, structures
from engine.tasks.route import course_of, route_of
from engine.tasks.wan import graph_of
from presets.errors import PresetError
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
FACTS: Mapping[str, object] = {"latent_channels": 16, "latent_stride": [4, 8, 8]}


def described(kind: str, part: object) -> Description:
    return Description({"name": str(part)}, FACTS, "")


def given(spec: RunSpec, **digests: str) -> RunSpec:
    """A spec whose pictures and clip were looked at."""
    import msgspec

    for name, digest in digests.items():
        part = msgspec.structs.replace(getattr(spec, name), path=f"/{digest[7]}.png", digest=digest)
        spec = msgspec.structs.replace(spec, **{name: part})
    return spec


def names(spec: RunSpec) -> dict[str, set[str]]:
    """stage -> what its nodes are made from, by a name that is equal where they make the same of the same."""
    order = ordered(list(graph_of(route_of(spec), described, ("video",)).values()))
    found: dict[str, set[str]] = {}
    named: Mapping[Node, str] = structures(order)
    for node, name in named.items():
        found.setdefault(node.stage.name, set()).add(name)
    return found


def differing(one: RunSpec, other: RunSpec) -> set[str]:
    a, b = names(one), names(other)
    return {stage for stage in a.keys() | b.keys() if a.get(stage) != b.get(stage)}


I2V = given(load_preset("micro-i2v", ["scheduler.steps=4"]), image=A)
FLF2V = given(load_preset("micro-flf2v", ["scheduler.steps=4"]), image=A, last_image=B)
V2V = given(load_preset("micro", ["scheduler.steps=10"]), video=C)
STEPS = {"step", "video"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ("prompt=a blue star", {"text"} | STEPS),
        ("seed=3", {"noise"} | STEPS),
        ("scheduler.shift=4", STEPS),
        ("width=80", {"condition", "noise"} | STEPS),
        ("frames=21", {"condition", "noise"} | STEPS),
        ("max_area=6400", {"condition"} | STEPS),
        ("components.image_encoder.fit=crop", {"image"} | STEPS),
        ("components.vae.chunk_frames=1", {"condition"} | STEPS),
    ],
)
def test_what_a_setting_changes_of_image_to_video(change: str, stages: set[str]) -> None:
    assert differing(I2V, override(I2V, [change])) == stages


def test_the_same_picture_by_another_name_is_the_same() -> None:
    elsewhere = given(override(I2V, ["image.path=/elsewhere.jpg"]), image=A)
    assert differing(I2V, elsewhere) == set()
    other = given(I2V, image=B)
    assert differing(I2V, other) == {"picture", "image", "condition"} | STEPS


def test_a_last_picture_is_one_more_input() -> None:
    assert len(names(FLF2V)["picture"]) == 2
    other = given(FLF2V, last_image=C)
    assert differing(FLF2V, other) == {"picture", "image", "condition"} | STEPS


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ("prompt=a blue star", {"text"} | STEPS),
        ("seed=3", {"start"} | STEPS),
        ("video.strength=0.8", {"start"} | STEPS),
        ("scheduler.shift=4", {"start"} | STEPS),
        ("fps=4", {"clip", "start"} | STEPS),
        ("width=80", {"clip", "start"} | STEPS),
        ("components.vae.chunk_frames=1", {"clip", "start"} | STEPS),
    ],
)
def test_what_a_setting_changes_of_video_to_video(change: str, stages: set[str]) -> None:
    # of another rate, or number of frames, it is looked at again
    assert differing(V2V, given(override(V2V, [change]), video=C)) == stages


def test_text_to_video_has_none_of_it() -> None:
    assert names(load_preset("micro")).keys() == {"text", "noise", "step", "video"}


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.6, 6), (0.55, 5), (0.1, 1)])
def test_a_strength_is_a_share_of_the_steps_on_the_whole_grid(strength: float, steps: int) -> None:
    """As diffusers counts them: the last `int(N * strength)` levels of the same N."""
    spec = override(V2V, [f"video.strength={strength}"])
    whole = course_of(load_preset("micro", ["scheduler.steps=10"]))
    assert course_of(spec).num_steps == steps
    assert course_of(spec).sigmas == whole.sigmas[10 - steps :]


def test_a_sigma_begins_at_the_first_level_that_is_not_above_it() -> None:
    levels = course_of(load_preset("micro", ["scheduler.steps=10"])).sigmas
    between = (levels[3] + levels[4]) / 2
    for sigma, first in ((between, 4), (levels[4], 4), (1.0, 0)):
        course = course_of(override(V2V, [f"video.sigma={sigma}"]))
        assert course.sigmas[0] == pytest.approx(levels[first], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "key"),
    [("video.strength=0.05", "video.strength"), ("video.sigma=0.001", "video.sigma")],
)
def test_a_strength_that_leaves_no_step_is_refused(change: str, key: str) -> None:
    with pytest.raises(PresetError, match=f"{key}: .* none of the 10 steps"):
        course_of(override(V2V, [change]))


def test_guidance_of_each_step_is_that_of_the_whole_schedule() -> None:
    """A list has one scale for each step of the schedule, and those of the steps that are left out are left out."""
    scales = [1.0] * 4 + [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    spec = override(V2V, [f"guidance.scale={scales}"])
    order = ordered(list(graph_of(route_of(spec), described, ("video",)).values()))
    told = [node.params["guidance"] for node in order if node.stage.name == "step"]
    assert told == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("preset", "overrides", "line"),
    [
        ("micro", ["image.path=a.png"], "image.path: the task t2v takes no picture, got a.png"),
        ("micro-i2v", ["last_image.path=a.png"], "last_image.path: the task i2v takes a first picture alone"),
        ("micro", ["width=0"], "width: expected at least 16 pixels, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_task_is_refused(
    preset: str, overrides: list[str], line: str
) -> None:
    with pytest.raises(PresetError) as caught:
        load_preset(preset, overrides)
    assert str(caught.value).startswith(line)


def test_another_picture_is_not_taken_for_the_one_before_it() -> None:
    changed = override(I2V, ["image.path=/other.png"])
    assert (I2V.image.digest, changed.image.digest) == (A, "")
    assert override(I2V, ["seed=3"]).image.digest == A
