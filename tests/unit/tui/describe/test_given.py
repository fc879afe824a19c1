"""What somebody gives, as people see it: what a file is, what becomes of it, which setting it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from engine.errors import InputError
from engine.graph import key_of
from engine.inputs.pictures.reading import read_picture
from engine.output import media
from engine.tasks.wan import picture_node
from presets.library.loading import load_preset
from presets.spec.pictures import PictureSpec
from presets.spec.run import RunSpec
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.store import open_store
from tui.describe.given import (
    about_given,
    continued,
    field_for,
    is_shown,
    kind_of,
    look_at,
    look_at_file,
    picture_preset,
)

WAN = "wan2.1-i2v-14b-480p"


def png(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    Image.new(mode, (width, height)).save(path)
    return path


def given(path: Path | str, preset: str = "micro-i2v", **changes: object) -> RunSpec:
    return load_preset(preset, values={"image.path": str(path), **changes})


@pytest.mark.parametrize(
    ("size", "preset", "told"),
    [
        ((64, 64), "micro-i2v", ("64x64",)),
        ((640, 400), "micro-i2v", ("640x400", "scaled to 102x64, 38 columns cut at the sides")),
        ((64, 80), "micro-i2v", ("64x80", "16 rows cut above and below")),
        ((832, 480), WAN, ("832x480", "the video gets 832x464", "scaled to 832x464")),
    ],
)
def test_a_picture_and_what_becomes_of_it(tmp_path, size, preset, told):
    look = look_at(given(png(tmp_path / "a.png", *size), preset), "image")
    assert look.lines == told
    assert max(look.pixels.width, look.pixels.height) <= 384
    assert look.fps == 0


def test_what_the_reader_did_is_told(tmp_path):
    look = look_at(given(png(tmp_path / "a.png", 64, 64, "RGBA")), "image")
    assert look.lines == ("64x64", "transparent parts over #000000")


def test_a_file_that_changes_is_looked_at_anew(tmp_path):
    spec = given(png(tmp_path / "a.png", 64, 64))
    assert look_at(spec, "image").lines == ("64x64",)
    png(tmp_path / "a.png", 16, 16)
    assert look_at(spec, "image").lines[0] == "16x16"


def test_a_clip_and_what_becomes_of_it(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, torch.zeros(16, 64, 96, 3, dtype=torch.uint8), fps=16, comment="")
    spec = load_preset("micro", values={"video.path": str(path)})
    look = look_at(spec, "video")
    assert look.lines[0] == "96x64, 16 frames a second, 1.0 s"
    assert look.lines[1] == "5 frames of it at 8 a second"
    assert look.lines[-2:] == ("32 columns cut at the sides", "12 of 20 steps, from sigma 0.82")
    assert (look.pixels.num_frames, look.fps) == (5, 8)
    assert look_at_file(path, "clip").lines[0] == look.lines[0]


def test_nothing_and_no_picture(tmp_path):
    assert look_at(load_preset("micro"), "video").lines == ()
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert look_at(given(tmp_path / "a.png"), "image").lines == ()
    with pytest.raises(InputError, match="is text"):
        look_at_file(tmp_path / "a.png", "picture")


def test_a_picture_whose_file_is_gone_is_the_stored_one(tmp_path):
    path = png(tmp_path / "a.png", 8, 8)
    digest = read_picture(path).digest
    path.unlink()
    spec = replace(given(path), image=PictureSpec(path=str(path), digest=digest))
    with open_store(tmp_path / "store") as store, open_index(store.root) as index:
        assert look_at(spec, "image", index).lines == ()
        key = key_of(picture_node(spec, "image"), {}, None)
        put_preview(index, key, Preview(1, 8, 8, bytes(192)))
        look = look_at(spec, "image", index)
    assert look.lines == ("its file is gone; the store has the picture",)
    assert look.pixels.pixels == bytes(192)


def test_which_fields_matter():
    words, picture = load_preset("micro"), given("/a.png")
    assert [is_shown(words, key) for key in ("image.path", "video.path", "video.strength")] == [
        False,
        True,
        False,
    ]
    assert is_shown(picture, "image.background")
    assert not is_shown(picture, "last_image.path")
    assert "presets of image to video" in about_given(words)
    assert about_given(picture) == ""


def test_which_field_a_file_is_for():
    assert field_for(load_preset("micro"), "picture") == ""
    assert field_for(load_preset("micro"), "clip") == "video"
    assert field_for(given("/a.png"), "picture") == "image"
    ends = load_preset("micro-flf2v")
    assert field_for(ends, "picture") == "image"
    assert field_for(replace(ends, image=PictureSpec(path="/a.png")), "picture") == "last_image"
    kinds = [kind_of(Path(name)) for name in ("a.JPG", "a.mkv", "a.gif", "a.webp", "a.safetensors")]
    assert kinds == ["picture", "clip", "clip", "picture", ""]


def test_which_preset_begins_with_a_picture():
    assert picture_preset(load_preset("micro")) == "micro-i2v"
    assert picture_preset(load_preset("wan2.1-t2v-1.3b")) == WAN
    large = load_preset("wan2.1-t2v-14b", values={"width": 1280, "height": 720})
    assert picture_preset(large) == "wan2.1-i2v-14b-720p"


def test_what_continues_a_run():
    """With its own preset where that takes a picture; nothing of what it was given itself, nor its file, stays."""
    words = load_preset("micro", values={"prompt": "a", "seed": 7, "video.path": "/v.mp4"})
    spec, preset = continued(words, "micro", Path("/last.png"))
    assert (preset, spec.task, spec.image.path, spec.video.path) == (
        "micro-i2v",
        "i2v",
        "/last.png",
        "",
    )
    assert (spec.prompt, spec.seed, spec.width, spec.frames) == ("a", 7, 64, 17)
    own = {"negative_prompt": "b", "scheduler.steps": 30, "guidance.scale": 9.0}
    spec, _ = continued(load_preset("micro", values=own), "micro", Path("/last.png"))
    assert spec == load_preset("micro-i2v", values={**own, "image.path": "/last.png"})
    spec, _ = continued(load_preset("micro", values=own), "gone", Path("/last.png"))
    assert (spec.scheduler.steps, spec.guidance.scale) == (20, 2.5)
    before = given("/a.png", **{"output.path": "/out.mp4"})
    spec, preset = continued(before, "mine", Path("/last.png"))
    assert (preset, spec.image, spec.output.path) == ("mine", PictureSpec(path="/last.png"), "")
