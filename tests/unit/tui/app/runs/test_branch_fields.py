"""The form of a branch: values as they are typed, and what differs as overrides."""

from __future__ import annotations

import json

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset, override
from tui.app.runs.branch_fields import FIELDS, first_step, overrides_of, shares, values_of

SPEC = load_preset("micro", ['prompt="a red circle"', "guidance.scale=2.5"])
BEFORE = values_of(json.loads(encode_spec(SPEC)))


def test_the_values_of_the_parent():
    assert list(BEFORE) == list(FIELDS)
    assert BEFORE["guidance.scale"] == "2.5"
    assert BEFORE["scheduler.name"] == "unipc"
    assert BEFORE["prompt"] == "a red circle"


def test_nothing_changed_is_no_override():
    assert overrides_of(BEFORE, BEFORE, "") == []
    assert overrides_of(BEFORE, {**BEFORE, "guidance.scale": " "}, " ") == []


@pytest.mark.parametrize("prompt", ["", "true", "4", 'a "red" = circle\\', "[x]"])
def test_prompts_are_taken_as_they_are(prompt):
    changes = overrides_of(BEFORE, {**BEFORE, "prompt": prompt}, "")
    assert override(SPEC, changes).prompt == prompt


def test_every_field_and_the_free_line():
    typed = {**BEFORE, "guidance.scale": "4", "scheduler.name": "euler"}
    changes = overrides_of(BEFORE, typed, "seed=3 'output.path=a b.mp4'")
    spec = override(SPEC, changes)
    assert (spec.guidance.scale, spec.scheduler.name, spec.seed) == (4, "euler", 3)
    assert spec.output.path == "a b.mp4"


def test_a_quotation_that_is_not_closed():
    with pytest.raises(ValueError, match="No closing quotation"):
        overrides_of(BEFORE, BEFORE, "prompt='a b")


def test_what_is_shared():
    assert shares(0, 20) == "shares no step"
    assert shares(1, 20) == "shares step 1 of 20"
    assert shares(8, 20) == "shares steps 1-8 of 20"
    assert shares("decode", 20) == "shares all 20 steps"


@pytest.mark.parametrize(
    "scale", ["[5.0, 1.0]", "[{from = 0.0, scale = 6.0, to = 0.4}]", "4.0", "1.5"]
)
def test_guidance_that_changes_between_steps_is_shown_as_it_is_typed(scale):
    spec = override(SPEC, ["scheduler.steps=2", f"guidance.scale={scale}"])
    before = values_of(json.loads(encode_spec(spec)))
    assert before["guidance.scale"] == scale
    changes = overrides_of(values_of(json.loads(encode_spec(SPEC))), before, "")
    assert override(SPEC, changes) == spec


@pytest.mark.parametrize(
    ("points", "total", "step"),
    [(range(20), 20, 10), (range(4), 20, 3), ((0, 8, 16), 20, 8), ((), 900, 0), ((0,), 1, 0)],
)
def test_a_branch_begins_where_something_is_stored(points, total, step):
    assert first_step(points, total) == step
