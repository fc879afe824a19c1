"""Which runs are alike, so that the times of one say what another will take."""

from __future__ import annotations

import json

from engine.runs.estimates import _likeness, _stages, likeness
from presets.encoding import encode_spec
from presets.library.loading import load_preset


def of(*overrides: str) -> str:
    return likeness(load_preset("micro", overrides))


def test_runs_of_before_there_were_options_are_like_those_without_any():
    old = json.loads(encode_spec(load_preset("micro")))
    for part in old["components"].values():
        del part["options"]
    assert _likeness(old) == of()
    assert of("components.vae.options={a = 1}") != of()


def test_how_many_steps_are_guided_counts():
    assert of("guidance.scale=5") == of("guidance.scale=3")
    assert of("guidance.scale=[{from=0,to=1,scale=6}]") == of()
    half = "guidance.scale=[{from=0,to=0.5,scale=6}]"
    assert of(half) == of("guidance.scale=[" + "4," * 10 + "1," * 10 + "]")
    assert len({of(), of(half), of("guidance.scale=1")}) == 3


def test_what_a_run_begins_from_has_stages_that_take_time():
    on_words = ["load", "text_encode", "denoise", "decode"]
    assert _stages(load_preset("micro")) == on_words
    assert _stages(load_preset("micro", ["video.path=a.mp4"])) == [*on_words, "encode"]
    assert _stages(load_preset("micro-i2v")) == [*on_words, "read", "image_encode", "encode"]


def test_an_image_encoder_that_no_picture_goes_through_makes_no_difference():
    on = "components.image_encoder.dtype=bf16"
    assert of(on) == of()
    assert likeness(load_preset("micro-i2v", [on])) != likeness(load_preset("micro-i2v"))
