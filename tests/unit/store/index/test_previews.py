"""Previews come back as they were; bytes that are not one are none, whatever they claim."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.index.index import open_index
from store.index.previews import (
    MAX_FRAMES,
    MAX_SIDE,
    Preview,
    decode_preview,
    encode_preview,
    get_preview,
    preview_key,
    put_preview,
)
from store.paths import prepare

STEP = "k1:" + "0" * 64
EXAMPLE = Preview(2, 3, 4, bytes(range(72)))


@st.composite
def previews(draw):
    num_frames = draw(st.integers(1, MAX_FRAMES))
    height, width = draw(st.integers(1, MAX_SIDE)), draw(st.integers(1, MAX_SIDE))
    seed = draw(st.binary(min_size=1, max_size=64))
    num_bytes = num_frames * height * width * 3
    return Preview(num_frames, height, width, (seed * (num_bytes // len(seed) + 1))[:num_bytes])


def packed(header: object, pixels: bytes) -> bytes:
    return msgspec.json.encode(header) + b"\n" + zlib.compress(pixels)


def header(**changes: object) -> dict[str, object]:
    return {"format": 1, "num_frames": 2, "height": 3, "width": 4, **changes}


@given(previews())
def test_every_preview_comes_back_as_it_was(preview):
    assert decode_preview(encode_preview(preview)) == preview


def test_the_format_is_a_line_of_json_and_zlib():
    """Written by hand: what other programs, and later versions, may rely on."""
    encoded = b'{"format":1,"num_frames":1,"height":1,"width":2}\n' + zlib.compress(b"RGBrgb", 9)
    assert decode_preview(encoded) == Preview(1, 1, 2, b"RGBrgb")


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "num_bytes"),
    [
        (0, 1, 1, 0),
        (MAX_FRAMES + 1, 1, 1, 27),
        (1, 0, 1, 0),
        (1, MAX_SIDE + 1, 1, 291),
        (1, 1, MAX_SIDE + 1, 291),
        (-1, -1, 1, 3),
        (1, 1, 1, 2),
        (1, 1, 1, 4),
    ],
)
def test_a_preview_fits_its_pixels_and_the_limits(num_frames, height, width, num_bytes):
    with pytest.raises(ValueError, match="a preview "):
        Preview(num_frames, height, width, bytes(num_bytes))


@given(st.binary(max_size=400))
def test_any_other_bytes_are_none(data):
    assert decode_preview(data) is None
    assert decode_preview(msgspec.json.encode(header()) + b"\n" + data) is None


@given(previews(), st.data())
def test_a_changed_or_missing_byte_never_raises(preview, data):
    encoded = encode_preview(preview)
    at = data.draw(st.integers(0, len(encoded) - 1))
    assert decode_preview(encoded[:at]) is None
    changed = (
        encoded[:at] + bytes([encoded[at] ^ data.draw(st.integers(1, 255))]) + encoded[at + 1 :]
    )
    found = decode_preview(changed)
    assert found is None or len(found.pixels) == len(preview.pixels)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": 0},
        {"num_frames": 0},
        {"num_frames": MAX_FRAMES + 1},
        {"height": -3},
        {"height": 10**30},
        {"width": MAX_SIDE + 1},
        {"width": 4.5},
        {"width": "4"},
        {"width": None},
        {"width": True},
        {"more": 1},
    ],
)
def test_a_header_out_of_range_is_none(changes):
    assert decode_preview(packed(header(), EXAMPLE.pixels)) == EXAMPLE
    assert decode_preview(packed(header(**changes), EXAMPLE.pixels)) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 120, "\\ud800", '{"format":1}'])
def test_a_header_of_something_else_is_none(text):
    assert decode_preview(text.encode() + b"\n" + zlib.compress(EXAMPLE.pixels)) is None


def test_a_header_that_is_too_long_is_none():
    spaced = msgspec.json.encode(header()).replace(b",", b"," + b" " * 100)
    assert decode_preview(spaced + b"\n" + zlib.compress(EXAMPLE.pixels)) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        zlib.compress(b""),
        zlib.compress(EXAMPLE.pixels[:-1]),
        zlib.compress(EXAMPLE.pixels + b"x"),
        zlib.compress(EXAMPLE.pixels) + b"x",
        zlib.compress(EXAMPLE.pixels)[:-1],
        zlib.compress(EXAMPLE.pixels)[:-4] + b"\0\0\0\0",
        EXAMPLE.pixels,
    ],
)
def test_pixels_that_are_not_exactly_those_are_none(body):
    assert decode_preview(msgspec.json.encode(header()) + b"\n" + body) is None


def test_a_bomb_is_not_unpacked():
    bomb = packed(header(), bytes(64 << 20))
    tracemalloc.start()
    try:
        assert decode_preview(bomb) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_index_keeps_a_preview_by_its_step(root):
    prepare(root)
    with open_index(root) as index:
        assert get_preview(index, STEP) is None
        put_preview(index, STEP, Preview(1, 1, 1, b"old"))
        put_preview(index, STEP, EXAMPLE)
        put_preview(index, "another", Preview(1, 1, 1, b"two"))
        assert get_preview(index, STEP) == EXAMPLE
    with open_index(root) as other:
        assert get_preview(other, STEP) == EXAMPLE
        assert preview_key(STEP) == "preview/" + STEP
        assert other.previews.get(preview_key(STEP)) == encode_preview(EXAMPLE)
        assert list(other.keys("")) == []


def test_what_the_index_holds_instead_is_none(root):
    prepare(root)
    with open_index(root) as index:
        index.previews.put(preview_key(STEP), b"something else")
        assert get_preview(index, STEP) is None


def test_the_largest_preview_is_kept(root):
    prepare(root)
    noise = random.Random(0).randbytes(MAX_FRAMES * MAX_SIDE * MAX_SIDE * 3)
    largest = Preview(MAX_FRAMES, MAX_SIDE, MAX_SIDE, noise)
    with open_index(root) as index:
        put_preview(index, STEP, largest)
        assert get_preview(index, STEP) == largest


def test_without_a_store_there_is_no_preview(root):
    with open_index(root) as index:
        put_preview(index, STEP, EXAMPLE)
        assert get_preview(index, STEP) is None
    assert not root.exists()


def test_a_viewer_pays_for_no_torch_numpy_or_pillow():
    code = (
        "import sys; from store.index import previews\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'diskcache'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert found.stdout == "[]\n"
