"""The shipped image-to-video models keep what they are given and do what they are told, read by the meter.

Few cases: all of them are measured by `python -m examples.micro pictures evaluate` (docs/micro.md). These are other
ones, with fixed seeds; the limits are the gates there, with room for what few cases leave to chance.
"""

from __future__ import annotations

import pytest
import torch

from engine.components.providers import clip
from examples.micro.measures.evaluate import Measurement
from examples.micro.measures.report import measurement_report
from examples.micro.measures.sampling import load_exported
from examples.micro.pictures.evaluate import (
    FIRST_PSNR,
    LAST_PSNR,
    conditions_of,
    heldout_pictures,
    measure_pictures,
)
from presets.spec.components import ImageEncoderSpec
from tests.weights.layouts import MICRO

CASES, SEED, MISTAKES = 8, 77, 3


@pytest.mark.parametrize("model", ["i2v", "flf2v"])
@torch.no_grad()
def test_given_frames_stay_and_the_prompt_comes_true(model: str) -> None:
    has_last = model == "flf2v"
    micro = load_exported(MICRO, dit=f"{model}/dit.safetensors")
    encoder = clip.load(ImageEncoderSpec(checkpoint="builtin:micro", device="cpu"))
    pictures = heldout_pictures(CASES, SEED)
    given = conditions_of(pictures.truth, micro.vae, encoder, has_last=has_last)
    measurement, first, last = measure_pictures(micro, pictures, given, name=model)
    told = measurement_report(measurement)
    assert first >= FIRST_PSNR, told
    assert not has_last or last >= LAST_PSNR, told
    assert mistakes(measurement) <= MISTAKES, told


def mistakes(measurement: Measurement) -> int:
    scores = measurement.scores()
    wrong = [1 - scores[name] for name in ("foreground", "background", "motion", "shape")]
    return round(sum(wrong) * CASES)
