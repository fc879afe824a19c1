"""A run that is to go on with a picture or a clip whose file is another one by now: refused at once, and left as it
was."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine import client
from engine.errors import InputError
from engine.output.encoders import encode
from presets.library.loading import load_preset
from store.store import Store, open_store


def draw(path: Path, shade: int) -> None:
    if path.suffix == ".png":
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(path)
        return
    frames = (memoryview(bytes([shade + number]) * (64 * 64 * 3)) for number in range(9))
    path.unlink(missing_ok=True)
    encode(path, frames, format="h264", size=(64, 64), fps=8, comment="")


def stopped(store: Store, preset: str, key: str, path: Path) -> str:
    spec = load_preset(preset, values={key: str(path), "frames": 9})
    run_id = client.submit(store, spec, preset=preset)
    store.request_cancel(run_id)
    return run_id


@pytest.mark.parametrize(
    ("preset", "key", "name", "words"),
    [
        ("micro", "video.path", "a.mp4", "is another file now than when the run was queued"),
        ("micro-i2v", "image.path", "a.png", "holds another picture than the one of this run"),
    ],
)
def test_another_file(tmp_path, preset, key, name, words):
    path = tmp_path / name
    draw(path, 20)
    with open_store(tmp_path / "store") as store:
        run_id = stopped(store, preset, key, path)
        draw(path, 90)
        with pytest.raises(InputError, match=words) as refused:
            client.resume(store, run_id)
        assert refused.value.key == key
        assert store.run(run_id).status == "cancelled"
        path.unlink()
        with pytest.raises(InputError, match=r"not there|does not exist"):
            client.resume(store, run_id)
        draw(path, 20)
        client.resume(store, run_id)
        assert store.run(run_id).status == "queued"
