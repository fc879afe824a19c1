"""Each file of the corpus gives its picture or its words, whatever others in the process have set."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from engine.errors import InputError
from engine.inputs.pictures.kinds import format_of
from engine.inputs.pictures.reading import Picture, read_picture
from engine.inputs.refusal import Refusal
from tests.given_pictures import (
    ALPHA,
    BAD,
    GOOD,
    RGB,
    Bad,
    boxes,
    chunk,
    encoded,
    jpeg,
    png_of,
    saved,
    tiff_of,
    with_alpha,
)


def pixels_of(picture: Picture) -> np.ndarray:
    return np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)


def told(path: Path, background: str = "#000000") -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path, background)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith(f"{caught.value.key}: ")
    return text


def test_the_corpus_is_large() -> None:
    assert len(GOOD) + len(BAD) >= 120


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_is_read_as_what_it_was_made_of(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    case = GOOD[name]
    picture = read_picture(case.make(tmp_path), case.background)
    truth = case.pixels if case.pixels.ndim == 3 else np.dstack([case.pixels] * 3)
    assert (picture.height, picture.width) == truth.shape[:2]
    off = np.abs(pixels_of(picture).astype(int) - truth.astype(int)).max()
    assert off <= case.within
    assert picture.notes == case.notes
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_in_one_line(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    case = BAD[name]
    path = case.make(tmp_path)
    before = sorted(tmp_path.iterdir())
    text = told(path, case.background)
    assert re.search(case.told, text), text
    assert len(text) < 400 + len(str(path))
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr() == ("", "")


# Never half a picture

# Formats of which every part counts, small, and with pixels that no shorter file has.
WHOLE = (
    *("png", "png interlaced", "png palette with alphas", "png grey of 16 bits", "png animated"),
    *("jpeg", "jpeg progressive", "jpeg CMYK", "webp", "webp alpha", "gif", "gif animated", "bmp"),
    *("bmp packed", "tiff", "tiff lzw", "tiff deflate", "tiff jpeg", "ppm", "pgm of 16 bits"),
)


@pytest.mark.parametrize("name", [*WHOLE, *(["avif"] if "avif" in GOOD else [])])
def test_a_file_cut_anywhere_is_refused_or_still_whole(tmp_path: Path, name: str) -> None:
    path = GOOD[name].make(tmp_path)
    content, whole = path.read_bytes(), read_picture(path)
    ends = {*range(0, len(content), len(content) // 24), *range(len(content) - 12, len(content))}
    num_refused = 0
    for end in sorted(ends):
        path.write_bytes(content[:end])
        try:
            assert read_picture(path).rgb == whole.rgb, end
        except InputError:
            num_refused += 1
    assert num_refused > 10


def test_switches_of_pillow_that_others_set_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(logging.getLogger("PIL"), "level", logging.DEBUG)
    for name in ("jpeg cut", "png cut", "gif cut", "bmp cut", "tiff cut", "png zTXt bomb"):
        assert re.search(BAD[name].told, told(BAD[name].make(tmp_path)))
    assert read_picture(saved(RGB, "PNG")(tmp_path)).rgb == RGB.tobytes()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS == 10
    assert logging.getLogger("PIL").level == logging.DEBUG


def test_libtiff_writes_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = GOOD["tiff deflate"].make(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:12] + bytes(9) + content[21:])  # it has words about that
    assert "is a TIFF that cannot be read" in told(path)
    os.write(2, b"standard error is there again")
    assert capfd.readouterr() == ("", "standard error is there again")


def test_no_warning_comes_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "animated.png"
    path.write_bytes(png_of(RGB, 2, before=chunk(b"acTL", bytes(8))))  # of 0 frames
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(path).notes == ()
    many_samples = tmp_path / "many.tif"
    many_samples.write_bytes(tiff_of(RGB, 2, tags={277: 200}))
    assert "is a TIFF that cannot be read" in told(many_samples)
    assert caplog.records == []


# One picture, many files


def test_the_digest_is_of_the_pixels(tmp_path: Path) -> None:
    names = ("png", "webp", "bmp", "tiff", "ppm", "png interlaced", "png animated", "a link")
    digests = {read_picture(GOOD[name].make(_empty(tmp_path, name))).digest for name in names}
    assert len(digests) == 1
    assert digests == {Picture(RGB.shape[1], RGB.shape[0], RGB.tobytes(), ("a note",)).digest}
    [digest] = digests
    assert digest.startswith("sha256:")
    assert Picture(RGB.shape[0], RGB.shape[1], RGB.tobytes()).digest != digest


def _empty(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def test_a_profile_of_srgb_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("L", "RGB"):
        image = Image.fromarray(RGB).convert(mode)
        picture = read_picture(saved(image, "PNG", icc_profile=profile)(tmp_path))
        assert picture.notes == ()
        assert picture.rgb == image.convert("RGB").tobytes()


def test_a_colour_behind_that_nothing_shows_changes_nothing(tmp_path: Path) -> None:
    path = saved(RGB, "PNG")(tmp_path)
    assert read_picture(path, "#ff0000") == read_picture(path)
    path = saved(with_alpha(RGB), "PNG")(tmp_path)
    assert read_picture(path, "#ff0000").digest != read_picture(path).digest
    assert ALPHA.min() < 255


def test_the_key_is_that_of_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^last_image.path: .* is not there") as caught:
        read_picture(tmp_path / "none", key="last_image.path")
    assert caught.value.key == "last_image.path"
    with pytest.raises(InputError, match=r"^last_image.background: "):
        read_picture(tmp_path / "none", "#12345", key="last_image.path")


def test_a_format_that_this_pillow_lacks_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    path = tmp_path / "a.avif"
    path.write_bytes(boxes(b"avif"))
    assert "is an AVIF picture, which the Pillow at hand does not read; save it as PNG" in told(
        path
    )


def test_no_reader_of_another_format_is_let_at_a_file() -> None:
    for bad in ("eps", "jpeg 2000", "tga", "photoshop"):
        assert isinstance(BAD[bad], Bad)
    with pytest.raises(Refusal):
        format_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9")


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, engine.inputs.pictures.reading;"
        "sys.exit(len({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Whatever the bytes are

SEEDS = (
    png_of(RGB, 2),
    jpeg(RGB, quality=60),
    jpeg(RGB, progressive=True),
    encoded(Image.fromarray(RGB), "GIF"),
    encoded(Image.fromarray(RGB), "WEBP"),
    encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
    encoded(Image.fromarray(RGB), "BMP"),
    encoded(Image.fromarray(RGB), "PPM"),
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return bytes(content[: draw(st.integers(0, len(content)))]) if draw(st.booleans()) else bytes(content)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=changed() | st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any"
    path.write_bytes(content)
    try:
        picture = read_picture(path)
    except InputError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert len(picture.rgb) == 3 * picture.width * picture.height > 0
        assert all(note.isprintable() for note in picture.notes)
