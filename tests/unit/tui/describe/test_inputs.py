"""Pictures and clips in the words about runs: called by the names of their files, and never by their digests."""

from __future__ import annotations

from dataclasses import replace as with_fields

import pytest
from msgspec.structs import replace

from engine.compare.settings import spec_differences
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset
from tui.describe.inputs import inputs_told, strength_told
from tui.describe.runs.changes import branch_changes, change_told, preset_changes, settings_in
from tui.describe.runs.command_line import run_command
from tui.describe.runs.detail import detail, lines
from tui.describe.runs.finding.columns import cell, columns_of, titles
from tui.describe.runs.finding.filter import search_of
from tui.describe.runs.finding.setting_keys import setting, short_name
from tui.describe.runs.run import num_steps, run_rows


def on_clip(path="/clips/walk on.mp4", digest="0", **settings):
    """The settings of a queued run on a clip."""
    base = load_preset("micro")
    clip = replace(base.video, path=path, digest=f"sha256:{digest * 64}", **settings)
    return replace(base, video=clip)


def queued(store, spec, preset="micro"):
    return store.run(store.enqueue(encode_spec(spec), preset=preset, output="/v.mp4"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "strength 0.6 at shift 3: 12 of 20 steps, from sigma 0.82"),
        ({"strength": 1.0}, "strength 1 at shift 3: 20 of 20 steps, from sigma 1.00"),
        ({"sigma": 0.5}, "sigma 0.5 at shift 3: 5 of 20 steps, from sigma 0.50"),
    ],
)
def test_what_a_strength_means(settings, told):
    assert strength_told(on_clip(**settings)) == told


def test_of_own_sigmas_there_is_no_shift():
    sigmas = replace(load_preset("micro").scheduler, sigmas=(0.9, 0.6, 0.3), steps=3)
    told = strength_told(replace(on_clip(), scheduler=sigmas))
    assert told == "strength 0.6 at own sigmas: 1 of 3 steps, from sigma 0.30"
    with pytest.raises(PresetError, match="leaves none of the 20 steps"):
        strength_told(on_clip(strength=0.01))


@pytest.mark.parametrize("key", ["strength", "sigma"])
@pytest.mark.parametrize("steps", [7, 20, 30, 50])
def test_the_least_that_is_told_is_enough(key, steps):
    scheduler = replace(load_preset("micro").scheduler, steps=steps)
    with pytest.raises(PresetError, match="leaves none") as told:
        strength_told(replace(on_clip(**{key: 0.001}), scheduler=scheduler))
    least = float(told.value.problem.rsplit("at least ", 1)[1])
    found = strength_told(replace(on_clip(**{key: least}), scheduler=scheduler))
    assert f": 1 of {steps} steps" in found


def test_inputs_are_called_by_their_tables():
    assert short_name("image.path") == "image"
    assert short_name("last_image.path") == "last_image"
    assert short_name("video.strength") == "strength"
    assert short_name("last_image.background") == "last_image.background"
    assert setting("image").key == "image.path"
    assert setting("video").key == "video.path"
    assert setting("strength").key == "video.strength"


def test_a_digest_is_no_setting_of_a_run(store):
    assert "video.digest" not in settings_in(encode_spec(on_clip()))
    run = queued(store, on_clip())
    changes = preset_changes(run, settings_in(encode_spec(load_preset("micro"))))
    assert changes == {"video.path": "/clips/walk on.mp4"}


def test_a_run_of_before_there_were_inputs_has_none(store):
    old = b'{"components":{"denoiser":{"name":"wan-dit"}},"prompt":"x"}'
    found = settings_in(old)
    assert (found["image.path"], found["video.path"], found["max_area"]) == ("", "", 399360)


def test_runs_are_told_apart_by_the_names_of_their_files(store):
    for spec in (on_clip(), on_clip("/elsewhere/run.mp4", "1", strength=0.4)):
        queued(store, spec)
    second, first = run_rows(store, store.runs(limit=2))
    assert cell(first, "differs", 0) == 'video "walk on.mp4", strength 0.6'
    assert cell(second, "differs", 0) == "video run.mp4, strength 0.4"
    names = columns_of("video,strength")
    assert titles(names) == ("VIDEO", "STRENGTH")
    assert [cell(second, name, 0) for name in names] == ["run.mp4", "0.4"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("video:run.mp4", 1),
        ("video:RUN.mp4", 1),
        ("video:*.mp4", 2),
        ("video:/elsewhere/run.mp4", 1),
        ("video:*", 2),
        ("image:*", 0),
        ("video.path:n.mp4", 0),
        ("strength:0.4", 1),
        ("video:* strength:<1", 2),
    ],
)
def test_a_filter_takes_the_name_of_a_file(store, wanted, found):
    for spec in (on_clip(), on_clip("/elsewhere/run.mp4", "1", strength=0.4)):
        queued(store, spec)
    store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
    assert len(search_of(wanted.split()).find(store, 9)) == found


def test_a_branch_tells_what_it_changes(store):
    before = queued(store, on_clip())
    after = with_fields(before, spec_json=encode_spec(on_clip("/clips/b.mp4", "2")))
    (change,) = branch_changes(before, after)
    assert change_told(change) == 'video "walk on.mp4"→b.mp4'


def test_a_comparison_tells_a_digest_only_where_the_path_says_nothing(store):
    one, other = queued(store, on_clip()), queued(store, on_clip("/b.mp4", "1"))
    assert [each.key for each in spec_differences(one, other)] == ["video.path"]
    changed = queued(store, on_clip(digest="1"))
    assert [each.key for each in spec_differences(one, changed)] == ["video.digest"]


def test_show_says_where_they_are_and_what_a_strength_means(store, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.touch()
    means = "strength 0.6 at shift 3: 12 of 20 steps, from sigma 0.82"
    run = queued(store, on_clip(str(clip)))
    assert dict(lines(detail(store, run.id)))["video"] == f"{clip}, {means}"
    clip.unlink()
    assert inputs_told(on_clip(str(clip))) == [("video", f"{clip} (no longer there), {means}")]
    assert num_steps(run) == 12


def test_a_copied_command_line_names_them():
    base = load_preset("micro")
    assert run_command(on_clip(strength=0.5), "micro", base) == (
        "modiff run micro --video '/clips/walk on.mp4' --strength 0.5"
    )
    assert run_command(on_clip(sigma=0.8, strength=0.5), "micro", base) == (
        "modiff run micro --video '/clips/walk on.mp4' --set video.strength=0.5 --sigma 0.8"
    )
    by_sigma = replace(base, video=replace(base.video, sigma=0.8))
    assert run_command(on_clip(), "micro", by_sigma) == (
        "modiff run micro --video '/clips/walk on.mp4' --set video.sigma=0.0"
    )
