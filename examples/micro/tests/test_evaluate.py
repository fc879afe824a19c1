"""Gates, scores and their tables, from clips whose readings are known."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.micro.grammar import Attributes, sample_attributes
from examples.micro.measures.evaluate import (
    Evaluation,
    Gate,
    Measurement,
    evaluate,
    measure_round_trip,
    model_gates,
    vae_gates,
)
from examples.micro.measures.meter import Reading
from examples.micro.measures.report import confusion_table, evaluation_report, score_table
from examples.micro.measures.sampling import MicroModel
from examples.micro.measures.sheets import write_sheet
from examples.micro.model.architecture import build_vae
from examples.micro.tests import tiny


def reading(attributes: Attributes, **changes: object) -> Reading:
    return replace(
        Reading(
            foreground=attributes.foreground,
            background=attributes.background,
            shape=attributes.shape,
            size=attributes.size,
            motion=attributes.motion,
            fit=0.9,
            first_fit=0.9,
            travel=0.7,
            area_ratio=1.0,
            rotation=0.0,
        ),
        **changes,
    )


def measured(count: int, wrong: dict[int, dict[str, object]]) -> Measurement:
    """`count` moving clips, all read right but for the changes given by position."""
    rng = random.Random(1)
    wanted = []
    while len(wanted) < count:
        attributes = sample_attributes(rng)
        if attributes.motion not in ("grow", "shrink"):
            wanted.append(attributes)
    readings = [reading(a, **wrong.get(i, {})) for i, a in enumerate(wanted)]
    return Measurement("clips", wanted, readings)


def test_scores_count_right_answers() -> None:
    measurement = measured(10, {0: {"foreground": "?"}, 1: {"size": "?"}, 2: {"first_fit": 0.1}})
    scores = measurement.scores()
    assert scores["foreground"] == scores["size"] == scores["all_four"] == 0.9
    assert scores["shape"] == scores["motion"] == 1.0
    assert scores["first_frame"] == 0.9
    assert scores["fit"] == pytest.approx(0.9)


def test_shapes_are_counted_by_class() -> None:
    measurement = measured(40, {0: {"shape": "?"}})
    counts = measurement.shape_by_class()
    assert sum(n for _, n in counts.values()) == 40
    wrong = measurement.wanted[0].shape
    assert [shape for shape, (right, asked) in counts.items() if right != asked] == [wrong]


def test_the_gates_are_the_projects() -> None:
    gates = vae_gates(measured(96, {}))
    assert [(gate.name.removeprefix("round trip: "), gate.least) for gate in gates] == [
        ("shape", 0.93),
        ("circle", 0.80),
        ("square", 0.80),
        ("triangle", 0.80),
        ("star", 0.80),
        ("motion", 0.97),
    ]
    assert all(gate.holds for gate in gates)
    assert {g.name.removeprefix("prompts: "): g.least for g in model_gates(measured(64, {}))} == {
        "foreground": 0.97,
        "background": 0.97,
        "motion": 0.94,
        "size": 0.95,
        "shape": 0.90,
        "all_four": 0.85,
    }


def test_gates_hold_at_their_value_and_not_below() -> None:
    assert Gate("g", 0.93, 0.93).holds
    assert not Gate("g", 0.9299, 0.93).holds
    assert not Gate("a shape that was never asked for", math.nan, 0.8).holds


def test_one_weak_shape_fails_alone() -> None:
    wanted = [
        Attributes("red", "black", shape, "large", "left") for shape in ("circle", "star")
    ] * 20
    readings = [
        reading(a, shape="square" if a.shape == "star" and i < 10 else a.shape)
        for i, a in enumerate(wanted)
    ]
    gates = {gate.name: gate.holds for gate in vae_gates(Measurement("m", wanted, readings))}
    assert gates["round trip: circle"]
    assert not gates["round trip: star"]
    assert not gates["round trip: square"]  # not asked for


def test_a_weak_vae_ends_the_evaluation_before_the_prompts(tmp_path: Path) -> None:
    vae = build_vae(tiny.VAE)
    # neither transformer nor text encoder: touching them would raise
    model = MicroModel(None, None, vae)  # type: ignore[arg-type]
    evaluation = evaluate(model, clips=4, sheets=tmp_path)
    assert not evaluation.holds
    assert [m.name for m in evaluation.measurements] == ["VAE round trip"]
    assert {path.name for path in tmp_path.iterdir()} == {"round-trip.png"}


def test_round_trips_are_the_same_for_the_same_seed() -> None:
    vae = build_vae(tiny.VAE)
    first, again, other = (measure_round_trip(vae, clips=2, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first.wanted != other.wanted
    assert first.psnr is not None
    assert 0 < first.psnr < 20


def test_confusions_are_listed_by_what_was_asked() -> None:
    measurement = measured(30, {0: {"motion": "still"}, 1: {"motion": ""}})
    table = confusion_table(measurement, "motion")
    assert "nothing" in table.splitlines()[0]
    assert {line.split("  ")[2] for line in table.splitlines()[1:]} == {
        a.motion for a in measurement.wanted[:2]
    }
    assert confusion_table(measurement, "shape") == ""


def test_the_report_holds_table_gates_and_confusions() -> None:
    measurement = measured(20, {0: {"shape": "square"}, 1: {"shape": "square"}})
    evaluation = Evaluation(vae_gates(measurement), [measurement])
    report = evaluation_report(evaluation)
    assert "FAIL round trip: shape 0.9" in report
    assert "ok   round trip: motion 1.000 (at least 0.97)" in report
    assert "shape: asked, seen" in report
    header, row = score_table([measurement]).splitlines()
    assert header.split()[:3] == ["n", "foreground", "background"]
    assert row.split()[:4] == ["clips", "20", "1.000", "1.000"]


def test_figures_are_plain_json_values() -> None:
    growing = Attributes("red", "black", "star", "small", "grow")
    measurement = Measurement("m", [growing], [reading(growing)])
    figures = Evaluation([Gate("g", math.nan, 0.5)], [measurement]).as_dict()
    assert figures["gates"] == [{"name": "g", "value": None, "least": 0.5, "holds": False}]
    assert figures["measurements"][0]["scores"]["size"] is None
    assert figures["measurements"][0]["scores"]["motion"] == 1.0


def test_sheets_show_every_clip_under_its_caption(tmp_path: Path) -> None:
    clips = torch.full((3, 3, 17, 64, 64), -1.0)
    clips[2, 0] = 1  # the third clip is red
    path = tmp_path / "sheets" / "s.png"
    write_sheet(path, clips, ["one", "two words", "a very long caption " * 20])
    image = Image.open(path)
    assert image.width == 2 * 6 * 96 + 12
    bottom_left = image.getpixel((10, image.height - 20))
    assert bottom_left == (255, 0, 0)
    caption = image.crop((0, 0, 576, 36))
    assert caption.getextrema()[0] == (0, 255)  # black letters on white
