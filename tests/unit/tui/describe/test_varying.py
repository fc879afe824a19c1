"""What tells runs of a set from each other: which settings, in which order, in which words."""

from __future__ import annotations

import json

import pytest

from presets.encoding import encode_spec
from presets.library import load_preset
from tui.describe.varying import label, varying


def spec(*overrides: str) -> dict[str, object]:
    return json.loads(encode_spec(load_preset("micro", overrides)))


def test_only_what_varies_is_told_in_the_order_of_a_spec():
    specs = [spec("seed=1"), spec("seed=2", "guidance.scale=4"), spec("seed=2")]
    found = varying(specs)
    assert [each["seed"] for each in found] == [1, 2, 2]
    assert [each["guidance.scale"] for each in found] == [2.5, 4.0, 2.5]
    order = [key for key in specs[0] if key in ("seed", "guidance")]
    assert [key.partition(".")[0] for key in found[0]] == order


def test_where_a_run_writes_is_no_difference():
    assert varying([spec('output.path="a.mp4"'), spec('output.path="b.mp4"')]) == [{}, {}]


@pytest.mark.parametrize("specs", [[], [spec()], [spec(), spec()]])
def test_a_single_run_and_equal_ones_do_not_vary(specs):
    assert varying(specs) == [{}] * len(specs)


def test_true_is_not_one_and_a_setting_may_be_missing():
    found = varying([{"x": True, "y": 1}, {"x": 1}])
    assert found == [{"x": True, "y": 1}, {"x": 1, "y": None}]


def test_a_scale_that_changes_is_one_value():
    found = varying([spec(), spec("guidance.scale=[{from=0.0, to=0.4, scale=6.0}]")])
    assert [list(each) for each in found] == [["guidance.scale"]] * 2
    assert label(found[1]) == "scale 6 in 0–0.4"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, ""),
        ({"seed": 7, "scheduler.steps": 400}, "seed 7, steps 400"),
        ({"prompt": "a star", "guidance.scale": 2.5}, 'scale 2.5, prompt a star'),
        ({"components.vae.dtype": "fp32", "components.denoiser.dtype": "bf16"},
         "vae.dtype fp32, denoiser.dtype bf16"),
        ({"negative_prompt": "", "seed": 0}, 'seed 0, negative_prompt ""'),
        ({"prompt": "a\x1b[31m " + "very " * 20}, "prompt a\\x1b[31m very very ver…"),
        ({"seed": None}, "seed -"),
    ],
)  # fmt: skip
def test_labels(values, told):
    assert label(values) == told
