"""Prompts of known words that the micro model was never trained on are told; those of its training are not."""

from __future__ import annotations

import random

import pytest

from engine.micro.grammar import sample_training_attributes, training_caption
from presets.library.loading import load_preset
from tui.describe.prompts.micro_world import combination_warning, named_in, random_sentence
from tui.describe.prompts.warnings import prompt_warnings, random_prompt


def test_no_sentence_of_the_training_is_warned_of():
    rng = random.Random(0)
    for _ in range(2000):
        attributes = sample_training_attributes(rng)
        text = training_caption(attributes, rng)
        assert combination_warning(text) == "", text
        named = named_in(text)
        assert named.foregrounds == (attributes.foreground,), text
        assert named.backgrounds in ((), (attributes.background,)), text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a small star moves up over a white background", "needs a colour"),
        (
            "a red small star moves up over a white background",
            "no white background; it knows black",
        ),
        ("a small red star on a dark red background", "no dark red background"),
        ("small green triangle spins on a gray background", "green on gray, which are too much"),
        ("a large blue circle rises, dark blue background", "blue on dark blue"),
        ("a red star and a blue star move up", "one colour, and this names red and blue"),
        ("a red star and a circle moves up", "one shape, and this names star and circle"),
        ("a small large red star", "one size, and this names small and large"),
        ("red moves left", "needs a shape: circle, square, triangle, star"),
        ("a large red circle spins", "a circle that spins"),
    ],
)
def test_what_is_told(text, told):
    assert told in combination_warning(text)


@pytest.mark.parametrize("preset", ["micro-i2v", "micro-flf2v"])
def test_its_siblings_know_the_same_world(preset):
    (warning,) = prompt_warnings(load_preset(preset, values={"prompt": "a cat moves left"}))
    assert warning.endswith("these words mean nothing to it: cat")
    assert random_prompt(load_preset(preset))


def test_with_a_run():
    spec = load_preset("micro", values={"prompt": "a small red star over a white background"})
    assert len(prompt_warnings(spec)) == 1
    assert "white" in prompt_warnings(spec)[0]
    assert prompt_warnings(load_preset("micro", values={"prompt": random_prompt(spec)})) == []
    assert random_sentence() != random_sentence() or random_sentence() != random_sentence()
    assert random_prompt(load_preset("wan2.1-t2v-1.3b")) == ""


def test_a_prompt_that_is_too_long():
    spec = load_preset("micro", values={"prompt": "a small red circle moves up " * 100})
    told = "the prompt has 601 tokens, the text encoder reads 512; its last 89 words are cut off"
    assert prompt_warnings(spec)[0].startswith(told)
