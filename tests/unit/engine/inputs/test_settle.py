"""What a run begins from is looked at once, and known by digest from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from engine.errors import InputError
from engine.inputs.settle import Settled, settle
from engine.output.encoders import encode
from presets.errors import PresetError
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec
from store.index.index import Index, open_index
from store.paths import prepare


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    prepare(tmp_path / "store")
    with open_index(tmp_path / "store") as opened:
        yield opened


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (64, 48)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def clip(path: Path, frames: int = 9) -> Path:
    pixels = (memoryview(bytes([20 * n]) * (64 * 48 * 3)) for n in range(frames))
    encode(path, pixels, format="ffv1", size=(48, 64), fps=8, comment="")
    return path


def settled(spec: RunSpec, index: Index, *, stored: bool = False) -> Settled:
    return settle(spec, index, lambda key: stored)


def test_a_picture_is_known_by_its_pixels_and_decides_the_size(
    tmp_path: Path, index: Index
) -> None:
    path = picture(tmp_path / "a.png", size=(640, 360))
    spec = load_preset("micro-i2v", [f"image.path={path}", "width=0", "height=0", "max_area=14400"])
    found = settled(spec, index)
    assert (found.spec.width, found.spec.height) == (160, 80)
    assert found.spec.image.digest.startswith("sha256:")
    assert "640x360" in found.notes[0]
    assert "160x80" in found.notes[0]
    other = picture(tmp_path / "b.bmp", size=(640, 360))
    again = settled(override(spec, [f"image.path={other}"]), index)
    assert again.spec.image.digest == found.spec.image.digest


def test_a_relative_path_becomes_absolute(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    spec = settled(load_preset("micro-i2v", ["image.path=a.png"]), index).spec
    assert spec.image.path == str(tmp_path / "a.png")


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path / "a.png")
    spec = load_preset("micro-i2v", [f"image.path={path}"])
    first = settled(spec, index).spec.image.digest

    def unread(*arguments: object, **keywords: object) -> None:
        raise AssertionError("it was read again")

    with monkeypatch.context() as patched:
        patched.setattr("engine.inputs.pictures.reading.read_picture", unread)
        assert settled(spec, index).spec.image.digest == first
    picture(path, "blue")
    assert settled(spec, index).spec.image.digest != first


def test_a_picture_of_a_run_is_not_asked_for_again_while_it_is_stored(
    tmp_path: Path, index: Index
) -> None:
    path = picture(tmp_path / "a.png")
    spec = settled(load_preset("micro-i2v", [f"image.path={path}"]), index).spec
    path.unlink()
    assert settled(spec, index, stored=True) == Settled(spec)
    with pytest.raises(InputError, match=r"^image\.path: "):
        settled(spec, index)
    picture(path, "blue")
    with pytest.raises(InputError, match="holds another picture than the one of this run"):
        settled(spec, index)


@pytest.mark.parametrize(
    ("preset", "overrides", "key"),
    [
        ("micro-i2v", [], "image.path"),
        ("micro-flf2v", ["image.path={a}"], "last_image.path"),
    ],
)
def test_what_is_missing_is_told_with_the_option_that_gives_it(
    preset: str, overrides: list[str], key: str, tmp_path: Path, index: Index
) -> None:
    path = picture(tmp_path / "a.png")
    spec = load_preset(preset, [text.format(a=path) for text in overrides])
    option = f"--{key.removesuffix('.path').replace('_', '-')}"
    with pytest.raises(PresetError, match=f"^{key}: is empty.*give a file with {option}"):
        settled(spec, index)


def test_a_clip_gives_its_size_and_its_length(tmp_path: Path, index: Index) -> None:
    path = clip(tmp_path / "a.mkv", frames=11)
    spec = load_preset("micro", [f"video.path={path}", "width=0", "height=0", "max_area=3072"])
    found = settled(spec, index)
    assert (found.spec.width, found.spec.height, found.spec.frames) == (64, 48, 9)
    assert "9 frames at 8 a second" in found.notes[0]
    longer = settled(override(spec, ["frames=5"]), index)
    assert longer.spec.frames == 5


def test_what_is_remembered_of_another_version_is_found_out_anew(
    tmp_path: Path, index: Index
) -> None:
    path = picture(tmp_path / "a.png")
    spec = load_preset("micro-i2v", [f"image.path={path}"])
    expected = settled(spec, index)
    (place,) = index.keys("given/")
    for value in (b"", b"\\xc1", msgspec.msgpack.encode([[1], {"digest": 5}])):
        index.put(place, value)
        assert settled(spec, index) == expected


def test_text_to_video_is_left_alone(index: Index) -> None:
    spec = load_preset("micro")
    assert settled(spec, index) == Settled(spec)


@pytest.mark.parametrize("address", ["https://example.com/a.png", "file:///tmp/a.png"])
@pytest.mark.parametrize("setting", ["image", "video"])
def test_an_address_is_no_path(index: Index, setting: str, address: str) -> None:
    spec = load_preset(
        "micro-i2v" if setting == "image" else "micro", values={f"{setting}.path": address}
    )
    with pytest.raises(InputError, match=f"{address} is an address, expected the path of a file"):
        settled(spec, index)


def test_a_clip_of_one_frame(tmp_path: Path, index: Index) -> None:
    spec = load_preset("micro", values={"video.path": str(clip(tmp_path / "v.mkv", 1))})
    assert "; 1 frame at 8 a second" in settled(spec, index).notes[0]


def test_a_clip_alone_is_not_enough_for_a_task_of_pictures(tmp_path: Path, index: Index) -> None:
    spec = load_preset("micro-i2v", values={"video.path": str(clip(tmp_path / "v.mkv"))})
    with pytest.raises(PresetError, match="give a file with --image, beside the video"):
        settled(spec, index)
