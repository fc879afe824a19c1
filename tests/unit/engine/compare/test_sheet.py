"""The contact sheet of runs: which tile is where, what is in it, what is said of a run that has nothing to show."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.compare import sheet as sheets
from engine.compare.frames import read_frames
from engine.compare.sheet import Tile, check_size, columns_for, drawn, tile_of, write_sheet
from engine.errors import EngineError
from engine.runs.thumbnails import thumbnail
from store.blobs import blobs
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run, wave

WHITE, TITLE = (255, 255, 255), 2 * 22 + 17  # the lines above a picture
COLOURS = [(200, 40, 40), (40, 160, 40), (40, 40, 200), (160, 160, 40), (40, 160, 160)]


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


@pytest.fixture
def index(store):
    with open_index(store.root) as opened:
        yield opened


def preview(*colours: tuple[int, int, int]) -> Preview:
    """A frame of 8x8 for each colour."""
    return Preview(len(colours), 8, 8, b"".join(bytes(colour) * 64 for colour in colours))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def tile(colour: tuple[int, int, int], count: int = 1) -> Tile:
    return Tile("seed 7", "run", (Image.new("RGB", (128, 128), colour),) * count, "video")


def test_tiles_are_in_rows_each_below_its_label():
    image, columns = drawn([tile(colour) for colour in COLOURS], 1)
    page = pixels(image)
    assert columns == 4
    assert image.size == (32 + 4 * 128 + 3 * 20, 32 + 2 * (TITLE + 128) + 20)
    for place, colour in enumerate(COLOURS):
        left, top = 16 + place % 4 * 148, 16 + place // 4 * (TITLE + 128 + 20)
        label = page[top : top + TITLE, left : left + 128]
        assert (label < 128).any(), "no label"
        assert (page[top + TITLE : top + TITLE + 128, left : left + 128] == colour).all()
    assert (page[:16] == 255).all()
    assert (page[-200:, 148:] == 255).all()  # beside the fifth


def test_frames_of_a_run_are_side_by_side_and_fill_its_tile():
    image, columns = drawn([tile(COLOURS[0], 4)], 4)
    row = pixels(image)[16 + TITLE + 5]
    assert columns == 1
    assert image.width == 32 + 4 * 128 + 3 * 5
    starts = [16 + i * 133 for i in range(4)]
    assert all((row[left : left + 128] == COLOURS[0]).all() for left in starts)
    assert all((row[left - 5 : left] == 255).all() for left in starts[1:])


@pytest.mark.parametrize("title", ["seed 7", "w" * 300, "very " * 60, "星 " * 20])
def test_a_label_stays_in_its_tile(title):
    tiles = [Tile(title, title, (Image.new("RGB", (128, 128)),), "video")] * 2
    page = pixels(drawn(tiles, 1)[0])
    top = page[16 : 16 + TITLE]
    assert (top[:, 16:144] < 128).any()
    assert (page[:16] == 255).all()
    assert (top[:, 144:164] == 255).all()  # between the two


def test_a_sheet_is_about_four_to_three():
    assert columns_for(1, 100, 100) == 1
    assert columns_for(12, 100, 100) == 4
    assert columns_for(8, 527, 189) == 2
    assert columns_for(3, 900, 100) == 1


def test_a_tile_shows_the_decoded_video_enlarged(store, index):
    run = record_run(store, micro(), frames=wave(17, 64, 64)).id
    found = tile_of(store, index, store.run(run), title="t", line="l", num_frames=4)
    assert (found.source, found.problem, len(found.pictures)) == ("video", "", 4)
    digest = next(link.digest for link in store.links_of(run) if link.stage == "video")
    frames = list(read_frames(blobs.blob_path(store.root, digest)))
    for picture, moment in zip(found.pictures, (0, 5, 11, 16), strict=True):
        frame = np.frombuffer(frames[moment].pixels, np.uint8).reshape(64, 64, 3)
        assert np.array_equal(np.asarray(picture), frame.repeat(2, axis=0).repeat(2, axis=1))


def test_a_still_is_the_middle_of_a_video(store, index):
    run = record_run(store, micro(), frames=wave(17, 64, 64)).id
    four = tile_of(store, index, store.run(run), title="", line="", num_frames=3)
    one = tile_of(store, index, store.run(run), title="", line="", num_frames=1)
    assert one.pictures == four.pictures[1:2]


def test_without_a_video_the_preview_of_the_last_step_is_shown(store, index):
    run = record_run(store, micro()).id
    steps = [link for link in store.links_of(run) if link.stage == "step"]
    put_preview(index, steps[-2].key, preview(COLOURS[0]))
    put_preview(index, steps[-1].key, preview(*COLOURS[1:4]))
    found = tile_of(store, index, store.run(run), title="t", line="l", num_frames=2)
    assert found.source == "previews"
    assert found.line == "l, preview of step 5"
    shown = [picture.getpixel((40, 40)) for picture in found.pictures]
    assert shown == [COLOURS[1], COLOURS[3]]
    assert found.pictures[0].size == (160, 160)


def test_the_preview_of_the_video_goes_before_those_of_steps(store, index):
    run = record_run(store, micro(), frames=wave(1, 64, 64)).id
    links = store.links_of(run)
    assert thumbnail(index, links) is None
    for link in links:
        put_preview(index, link.key, preview(COLOURS[link.stage == "video"]))
    found = thumbnail(index, links)
    assert found is not None
    assert found[0] == preview(COLOURS[1])


def test_a_video_that_the_store_lost_is_read_from_its_own_file(store, index, tmp_path):
    run = record_run(store, micro(), frames=wave(5, 64, 64)).id
    digest = next(link.digest for link in store.links_of(run) if link.stage == "video")
    kept = blobs.blob_path(store.root, digest)
    own = tmp_path / "own.mp4"
    own.write_bytes(kept.read_bytes())
    kept.unlink()
    store.set_output(run, str(own))
    found = tile_of(store, index, store.run(run), title="", line="", num_frames=2)
    assert found.source == "video"
    own.write_bytes(b"another file of that name")
    found = tile_of(store, index, store.run(run), title="", line="", num_frames=2)
    assert found.source == ""
    assert found.problem == (
        f"the video of run {run} is no longer in the store, and no preview of its steps"
    )


def test_a_run_with_nothing_to_show_says_why_in_its_tile(store, index):
    run = store.run(record_run(store, micro(), status="failed").id)
    empty = tile_of(store, index, run, title="seed 7", line="", num_frames=1)
    assert "has no video in the store, and no preview" in empty.problem
    page = pixels(drawn([empty, tile(COLOURS[0])], 1)[0])
    inside = page[16 + TITLE + 2 : 16 + TITLE + 126, 18:142]
    assert (inside < 160).any()
    assert (inside.max(axis=-1) - inside.min(axis=-1) < 40).all()  # grey letters, no picture


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "sheet.webp"])
def test_a_file_is_of_the_kind_that_it_says(tmp_path, name):
    path = tmp_path / name
    assert write_sheet(path, [tile(COLOURS[0])], num_frames=1, replaces=False) == 1
    with Image.open(path) as image:
        assert image.format == sheets.FORMATS[path.suffix]
        assert np.abs(np.subtract(image.convert("RGB").getpixel((60, 120)), COLOURS[0])).max() < 12


def test_nothing_is_overwritten_unless_it_may_be(tmp_path):
    path = tmp_path / "sheet.png"
    path.write_bytes(b"mine")
    with pytest.raises(EngineError, match="is there already"):
        write_sheet(path, [tile(COLOURS[0])], num_frames=1, replaces=False)
    assert path.read_bytes() == b"mine"
    write_sheet(path, [tile(COLOURS[0])], num_frames=1, replaces=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_sheet_is_bounded():
    check_size(200, 4)
    with pytest.raises(EngineError, match="804 pictures; expected at most 800"):
        check_size(201, 4)
    tiles = [Tile("", "", (Image.new("RGB", sheets.CELL),) * 4)] * 200
    width, height = drawn(tiles, 4)[0].size
    assert max(width, height) < 16383
