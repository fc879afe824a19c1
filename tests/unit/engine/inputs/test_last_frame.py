"""The last frame of a run as a picture: where from, what it says of itself, and what it never replaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.compare.frames import read_frames
from engine.compare.report import video_of
from engine.errors import InputError
from engine.inputs.last_frame import last_frame
from engine.inputs.pictures.reading import read_picture
from engine.output.mark import read_mark
from engine.output.media import enlarged, write_frames, write_video
from engine.output.reading import comment_of
from presets.encoding import decode_spec
from store.blobs.blobs import blob_path
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run, wave

FRAMES = wave(17, 64, 64)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store(tmp_path / "store") as opened:
        yield opened


def recorded(store, *overrides, frames=FRAMES, output="", status="done"):
    """A run that is said to have written `output`, in the current folder."""
    made = record_run(store, micro(*overrides), frames=frames, status=status)
    if output:
        store.set_output(made.id, str(Path(output).absolute()))
    return made.id


def mark_in(path: Path):
    return read_mark(comment_of(path))


def test_of_the_stored_video(store):
    run_id = recorded(store, output="walk.mp4")
    path = last_frame(store, run_id)
    assert path == Path("walk-last.png").absolute()
    *_, expected = read_frames(video_of(store, run_id))
    picture = read_picture(path)
    assert picture.rgb == expected.pixels
    assert (picture.width, picture.height) == (64, 64)
    assert mark_in(path).run == run_id
    assert mark_in(path).spec().prompt == micro().prompt


def test_asked_for_twice_it_is_one_file(store):
    run_id = recorded(store, output="walk.mp4")
    path = last_frame(store, run_id)
    written = path.stat().st_ino
    assert last_frame(store, run_id) == path
    assert path.stat().st_ino == written
    assert [*Path.cwd().glob("*.png")] == [path]


def test_another_file_is_never_replaced(store):
    run_id = recorded(store, output="walk.mp4")
    Path("walk-last.png").write_text("mine")
    path = last_frame(store, run_id)
    assert path.name == f"walk-last-{run_id}.png"
    assert Path("walk-last.png").read_text() == "mine"
    path.write_text("mine too")
    with pytest.raises(InputError, match="is another picture; move that away"):
        last_frame(store, run_id)
    assert path.read_text() == "mine too"


def test_of_a_video_that_the_store_has_no_more(store):
    run_id = recorded(store, output="walk.mp4")
    write_video(Path("walk.mp4"), FRAMES, fps=8, comment="")
    (link,) = [link for link in store.links_of(run_id) if link.stage == "video"]
    blob_path(store.root, link.digest).unlink()
    seen = np.asarray(Image.open(last_frame(store, run_id))).astype(int)
    assert np.abs(seen - FRAMES[-1].numpy().astype(int)).mean() < 3
    Path("walk-last.png").unlink()
    Path("walk.mp4").unlink()
    with pytest.raises(InputError, match="no longer in the store"):
        last_frame(store, run_id)


def test_written_frames_are_taken_to_the_bit(store):
    run_id = recorded(store, 'output.kinds=["video","frames"]', output="walk.mp4")
    write_frames(Path("walk-frames"), [FRAMES], comment=comment(store, run_id))
    path = last_frame(store, run_id)
    assert path.name == "walk-last.png"
    assert read_picture(path).rgb == FRAMES[-1].numpy().tobytes()


def test_of_frames_alone_and_enlarged(store):
    run_id = recorded(
        store, 'output.kinds=["frames"]', "output.scale=4", frames=None, output="walk"
    )
    write_frames(Path("walk"), [FRAMES], scale=(4, "nearest"), comment=comment(store, run_id))
    path = last_frame(store, run_id)
    assert path.name == "walk-last.png"
    assert read_picture(path).rgb == FRAMES[-1].numpy().tobytes()


def test_of_an_enlarged_video(store):
    large = enlarged(FRAMES, (4, "nearest"))
    run_id = recorded(store, "output.scale=4", frames=large, output="walk.mp4")
    seen = read_picture(last_frame(store, run_id))
    assert (seen.width, seen.height) == (64, 64)
    pixels = torch.frombuffer(bytearray(seen.rgb), dtype=torch.uint8).view(64, 64, 3)
    assert (pixels.int() - FRAMES[-1].int()).abs().float().mean() < 2


def test_frames_of_somebody_else_are_none_of_the_run(store):
    run_id = recorded(store, 'output.kinds=["video","frames"]', output="walk.mp4")
    write_frames(Path("walk-frames"), [torch.zeros_like(FRAMES)], comment="")
    assert any(read_picture(last_frame(store, run_id)).rgb)


def test_a_run_without_a_folder_or_a_video(store):
    run_id = recorded(store, output="/no/such/folder/walk.mp4")
    assert last_frame(store, run_id) == Path("walk-last.png").absolute()
    nothing = recorded(store, "seed=4", frames=None, status="failed")
    with pytest.raises(
        InputError, match=rf"run {nothing} \(failed\) is not there: it has no video"
    ):
        last_frame(store, nothing)
    latents = recorded(store, 'output.kinds=["latents"]', frames=None, output="x.safetensors")
    with pytest.raises(InputError, match=r"\(done\) is not there: it wrote no video"):
        last_frame(store, latents)


def comment(store, run_id):
    from engine.output.mark import mark_of

    run = store.run(run_id)
    return mark_of(run, decode_spec(run.spec_json), run.latents)
