"""The format of a video, from its name or its path, and the refusal of what does not fit."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.output.formats import AUTO, ENDINGS, FORMATS, named_by
from presets.output.rules import format_of, moved, of_branch
from presets.spec.output import OutputSpec


def test_every_format_can_be_chosen():
    assert get_args(get_type_hints(OutputSpec)["format"]) == (AUTO, *FORMATS)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "h264"),
        ("clip.mp4", "h264"),
        ("CLIP.MP4", "h264"),
        ("a.b/{run}.mkv", "ffv1"),
        ("clip.webm", "webm"),
        ("clip.gif", "gif"),
        ("clip.webp", "webp"),
        ("clip", "h264"),
        (".gif", "h264"),
    ],
)
def test_a_path_names_its_format(path, name):
    assert format_of(OutputSpec(path=path)) == name


def test_every_ending_stands_for_a_format():
    assert [FORMATS[named_by(f"a{ending}")].ending for ending in ENDINGS] == list(ENDINGS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_takes_names_with_its_ending(name):
    ending = FORMATS[name].ending
    spec = load_preset("micro", [f"output.format={name}", f"output.path=clip{ending}"])
    assert format_of(spec.output) == name
    assert format_of(load_preset("micro", [f"output.format={name}"]).output) == name


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("gif", "a/clip.mp4", ".gif, got clip.mp4; rename it, or take another format (auto, h264, h265, av1, x264rgb)"),
        ("h265", "clip.webm", ".mp4, got clip.webm; rename it, or take another format (auto, webm)"),
        ("ffv1", "clip.avi", ".mkv, got clip.avi; rename it"),
        ("h264", "clip", ".mp4, got clip; rename it"),
    ],
)  # fmt: skip
def test_a_format_that_contradicts_the_name_is_refused(name, path, words):
    with pytest.raises(PresetError) as caught:
        load_preset("micro", [f"output.format={name}", f"output.path={path}"])
    assert str(caught.value) == f"output.format: {name} needs a name that ends in {words}"


def test_without_a_video_there_is_no_format_to_fit():
    load_preset("micro", ["output.format=gif", "output.kinds=['frames']", "output.path=shots"])


def test_a_gif_is_no_faster_than_players_show_it():
    load_preset("micro", ["output.path=a.gif", "fps=50"])
    for output in ("output.path=a.gif", "output.format=gif"):
        with pytest.raises(PresetError, match=r"^fps: expected at most 50 in a gif, got 60; take"):
            load_preset("micro", [output, "fps=60"])


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ({"path": "a.gif"}, "", ("", "gif")),
        ({"path": "a.mp4"}, "", ("", "auto")),
        ({"path": "a.gif"}, "b.mkv", ("b.mkv", "auto")),
        ({"format": "h265"}, "b.mp4", ("b.mp4", "h265")),
        ({"format": "h265"}, "b.gif", ("b.gif", "auto")),
        ({"format": "h265", "path": "a.mp4"}, "", ("", "h265")),
    ],
)
def test_an_output_that_is_moved_keeps_its_format_where_it_can(before, path, after):
    found = moved(OutputSpec(**before), path)
    assert (found.path, found.format) == after


@pytest.mark.parametrize(
    ("after", "path", "expected"),
    [
        ({"path": "a.gif"}, "", ("", "gif")),
        ({"path": "a.gif"}, "b.mp4", ("b.mp4", "auto")),
        ({"path": "a.gif", "format": "webp"}, "", ("", "webp")),
        ({"path": "b.mp4"}, "", ("b.mp4", "auto")),
        ({"path": "b.mp4"}, "c.mkv", ("c.mkv", "auto")),
    ],
)
def test_a_branch_has_a_path_of_its_own(after, path, expected):
    found = of_branch(OutputSpec(path="a.gif"), OutputSpec(**after), path)
    assert (found.path, found.format) == expected


@pytest.mark.parametrize(
    ("width", "scale", "words"),
    [
        (48, 1, "got 48; take another format, or output.scale=2"),
        (16, 2, "got 32; take another format, or output.scale=4"),
    ],
)
def test_a_video_too_narrow_for_its_encoder_is_refused(width, scale, words):
    narrow = [f"width={width}", "height=32", f"output.scale={scale}"]
    with pytest.raises(PresetError) as caught:
        load_preset("micro", [*narrow, "output.format=h265"])
    expected = "output.format: h265 needs frames of at least 64 pixels in width"
    assert str(caught.value) == f"{expected}, {words}"
    load_preset("micro", [*narrow, "output.format=h265", "output.scale=4"])
    load_preset("micro", [*narrow, "output.format=av1"])
    load_preset("micro", [*narrow, "output.format=h265", "output.kinds=['latents']"])


def test_nothing_is_written_larger_than_encoders_take():
    load_preset("micro", ["width=512", "output.scale=16"])
    with pytest.raises(PresetError, match=r"^output.scale: expected at most 12, as 640 pixels"):
        load_preset("micro", ["height=640", "output.scale=13"])
    load_preset("micro", ["height=640", "output.scale=13", "output.kinds=['latents']"])
