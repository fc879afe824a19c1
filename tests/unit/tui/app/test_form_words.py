"""Refusals of the command line, told of the fields and keys of the form."""

from __future__ import annotations

import pytest

from presets.errors import PresetError
from presets.library.listing import list_presets
from presets.library.loading import load_preset
from tui.app.compose.draft import Draft, check, refusals
from tui.app.form_words import form_words


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "image.path: is empty; give a file with --image, beside the video",
            "image.path: is empty; name a file in image, beside the video",
        ),
        (
            "at decode only fps may change; name a step with --at to change the rest",
            "at decode only fps may change; untick it to change the rest",
        ),
        ("choose another name or add --overwrite", "choose another name or switch overwrite on"),
        ("with --set components.vae.dtype=float32", "with components.vae.dtype=float32"),
        (
            "(a bundle brings it along for `modiff store import --trust`)",
            "(a bundle brings it along for `modiff store import --trust`)",
        ),
        (
            "a first picture; give --image and --last-image",
            "a first picture; give image and last image",
        ),
    ],
)
def test_options_become_fields(line, told):
    assert form_words(line) == told


def test_a_seed_that_is_none_names_the_key_that_draws_one():
    checked = check(Draft("micro", load_preset("micro")).typed("seed", "one"))
    assert "(r draws one)" in checked.errors["seed"]
    assert "--seed" not in checked.errors["seed"]


def test_a_plan_that_is_refused_names_fields():
    error = PresetError("is empty; give a file with --last-image", key="last_image.path")
    assert refusals(error, str(error)) == (
        ("last_image.path", "last_image.path: is empty; name a file in last image"),
    )


def test_no_preset_that_comes_along_is_told_by_options():
    assert not [info.name for info in list_presets() if "--" in form_words(info.description)]
