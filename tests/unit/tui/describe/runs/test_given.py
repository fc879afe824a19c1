"""What a run began from is known by what is stored of it."""

from __future__ import annotations

import io
import os

import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from engine.graph import key_of
from engine.inputs.clips.reading import clip_digest
from engine.inputs.settle import picture_facts
from engine.process.version import installed_version
from engine.tasks.wan import picture_node
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.pictures import ClipSpec, PictureSpec
from store.blobs import blobs
from store.blobs.tensors import encode_tensors
from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.lineage.records import LinkRecord
from store.store import open_store
from tui.describe.runs.detail import COMMAND_LINE, detail, lines
from tui.describe.runs.given import GivenTo, given_files, given_to

PREVIEW = Preview(1, 8, 8, bytes(192))
DIGEST = f"sha256:{'1' * 64}"


def test_pictures_and_clips_of_a_run_whose_files_are_gone(tmp_path):
    spec = load_preset("micro-i2v")
    spec = replace(
        spec,
        image=PictureSpec(path="/gone/a\x1b.png", digest=DIGEST),
        video=ClipSpec(path="/gone/v.mp4"),
    )
    key = key_of(picture_node(spec, "image"), {}, None)
    with open_store(tmp_path) as store, open_index(store.root) as index:
        run_id = store.enqueue(encode_spec(spec), preset="micro-i2v", output="")
        assert given_to(store, index, run_id) == [
            GivenTo("image", "a\\x1b.png"),
            GivenTo("video", "v.mp4", "64x64, 17 frames", None, 8.0),
        ]
        with store.register_engine("e", pid=os.getpid(), version=installed_version()):
            store.lease("e")
            pixels = torch.zeros(400, 640, 3, dtype=torch.uint8)
            digest = blobs.put(store.root, encode_tensors({"pixels": pixels}))
            for stage, name, found in (("picture", key, digest), ("clip", "clip-key", DIGEST)):
                link = LinkRecord(name, stage, found)
                store.record_link(run_id, link, stage=stage, index=0, source="computed", seconds=0)
                put_preview(index, name, PREVIEW)
            assert given_to(store, index, run_id) == [
                GivenTo("image", "a\\x1b.png", "640x400", PREVIEW),
                GivenTo("video", "v.mp4", "64x64, 17 frames", PREVIEW, 8.0),
            ]
            store.unregister_engine("e")


@pytest.mark.parametrize("name", ["image", "video"])
def test_a_file_that_is_another_one_now_keeps_a_run_from_going_on(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(png("red"))
    preset, given = ("micro-i2v", PictureSpec) if name == "image" else ("micro", ClipSpec)
    with open_store(tmp_path) as store, open_index(store.root) as index:
        digest = clip_digest(path)
        if name == "image":
            digest = picture_facts(path, "#000000", index, key="").digest
        spec = replace(load_preset(preset), **{name: given(path=str(path), digest=digest)})
        run_id = store.enqueue(encode_spec(spec), preset=preset, output="")
        store.request_cancel(run_id)
        assert "now" not in dict(lines(detail(store, run_id)))["status"]
        path.write_bytes(png("blue"))
        told = dict(lines(detail(store, run_id), COMMAND_LINE))["status"]
        assert told == (
            "cancelled; a.png is gone or another file now; "
            f"with that of then `modiff resume {run_id}` goes on with it"
        )
        path.unlink()
        assert dict(lines(detail(store, run_id), COMMAND_LINE))["status"] == told


def png(colour: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(written, "png")
    return written.getvalue()


def test_the_files_of_a_spec_of_any_version():
    assert given_files({"image": {"path": "/a/b.png"}, "video": {"path": ""}}) == ["b.png"]
    assert given_files({"image": "text", "video": {"path": 3}}) == []
