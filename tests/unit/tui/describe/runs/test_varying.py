"""What tells runs of a set from each other: which settings, in which order, in which words."""

from __future__ import annotations

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import Store
from tui.describe.extensions import extensions_told
from tui.describe.runs.changes import (
    branch_changes,
    change_told,
    preset_changes,
    settings_in,
    values_told,
    varying,
    varying_in,
)


def spec(*overrides: str) -> bytes:
    return encode_spec(load_preset("micro", overrides))


def test_only_what_varies_is_told():
    specs = [spec("seed=1"), spec("seed=2", "guidance.scale=4"), spec("seed=2")]
    found = varying_in(specs)
    assert [each["seed"] for each in found] == [1, 2, 2]
    assert [each["guidance.scale"] for each in found] == [2.5, 4.0, 2.5]


def test_where_a_run_writes_is_no_difference():
    assert varying_in([spec('output.path="a.mp4"'), spec('output.path="b.mp4"')]) == [{}, {}]


@pytest.mark.parametrize("specs", [[], [spec()], [spec(), spec()]])
def test_a_single_run_and_equal_ones_do_not_vary(specs):
    assert varying_in(specs) == [{}] * len(specs)


def test_true_is_not_one_and_a_setting_may_be_missing():
    found = varying_in([b'{"x": true, "y": 1}', b'{"x": 1}'])
    assert found == [{"x": True, "y": 1}, {"x": 1, "y": None}]


def test_a_scale_that_changes_is_one_value():
    found = varying_in([spec(), spec("guidance.scale=[{from=0.0, to=0.4, scale=6.0}]")])
    assert [list(each) for each in found] == [["guidance.scale"]] * 2
    assert values_told(found[1]) == "guidance 6 in 0–0.4"


TEACACHE, SLOWER = (
    f'extensions=[{{name="teacache", options={{threshold={threshold}}}}}]'
    for threshold in (0.3, 0.1)
)
OFF = 'extensions=[{name="teacache", enabled=false}, {name="nag"}]'


def test_other_extensions_are_one_difference():
    without, one, off = varying_in([spec("seed=1"), spec("seed=2", TEACACHE), spec("seed=3", OFF)])
    assert values_told(without) == "seed 1, extensions none"
    assert values_told(one) == "seed 2, extensions teacache(threshold 0.3)"
    assert extensions_told(off["extensions"]) == "teacache(off) nag"
    assert without["extensions"] == []
    assert [each["name"] for each in off["extensions"]] == ["teacache", "nag"]


def test_of_the_same_extensions_the_options_differ():
    assert [values_told(each) for each in varying_in([spec(TEACACHE), spec(SLOWER)])] == [
        "threshold 0.3",
        "threshold 0.1",
    ]


def test_an_extension_is_one_change_of_a_preset_and_of_a_parent(store: Store):
    plain, changed = (
        store.run(store.enqueue(spec(*each), preset="micro", output="x.mp4"))
        for each in ([], [TEACACHE])
    )
    assert values_told(preset_changes(changed, settings_in(plain.spec_json))) == (
        "extensions teacache(threshold 0.3)"
    )
    (change,) = branch_changes(plain, changed)
    assert change_told(change) == "extensions none→teacache(thresh…"


def test_what_nearly_all_have_is_told_of_the_others_alone(store: Store):
    settings = [[f"seed={number}"] for number in range(7)] + [["seed=7", "guidance.scale=4"]]
    runs = [store.enqueue(spec(*each), preset="micro", output="x.mp4") for each in settings]
    found = varying([store.run(run_id) for run_id in runs])
    assert found[runs[3]] == {"seed": 3}
    assert found[runs[7]] == {"guidance.scale": 4.0, "seed": 7}


def test_what_looks_at_pictures_is_not_told_of_a_run_without():
    with_picture = encode_spec(load_preset("micro-i2v", ["image.path=a.png"]))
    of_words, of_picture = varying_in([spec("seed=7"), with_picture])
    assert not any("image_encoder" in key for key in of_words)
    assert any("image_encoder" in key for key in of_picture)


def test_the_file_that_a_run_begins_from_is_told_before_its_seed():
    found = varying_in([spec(f"seed={seed}", f"video.path={seed % 2}.mp4") for seed in range(4)])
    assert values_told(found[3]) == "video 1.mp4, seed 3"


def test_what_is_of_a_clip_that_a_run_has_not_is_not_told(store: Store):
    settings = [["video.strength=0.3"], ["video.strength=0.9", "video.path=a.mp4"]]
    runs = [store.enqueue(spec(*each), preset="micro", output="x.mp4") for each in settings]
    found = varying([store.run(run_id) for run_id in runs])
    assert found == {runs[0]: {}, runs[1]: {"video.path": "a.mp4", "video.strength": 0.9}}
    assert varying_in([spec(*each) for each in settings]) == [found[run_id] for run_id in runs]
