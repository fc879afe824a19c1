"""What a file says of its run: through every format, the streams untouched; and hostile marks."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image

from engine.errors import EngineError
from engine.output import media
from engine.output.mark import Mark, mark_of, read_mark
from engine.output.marking import marked, marked_latents, marked_video
from engine.output.reading import comment_of
from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.output.formats import FORMATS
from store.blobs.tensors import encode_tensors
from store.lineage.records import RunRecord, Segment
from tests.delivered import streams

LATENTS = f"sha256:{'a1' * 32}"
TEXT = '{"modiff":1,"run":"abc","note":"= ; # \\\\ \\n ünï 红"}'
FRAMES = torch.arange(4 * 64 * 96 * 3, dtype=torch.int64).remainder(251).to(torch.uint8)
FRAMES = FRAMES.reshape(4, 64, 96, 3)


def record(**values: object) -> RunRecord:
    empty = dict.fromkeys(RunRecord.__dataclass_fields__, "")
    return RunRecord(**{**empty, "id": "abcdefghij", "preset": "micro", "segments": (), **values})


def marked_by(spec=None, **values: object) -> dict:
    return json.loads(mark_of(record(**values), spec or load_preset("micro"), LATENTS))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_a_mark_and_its_streams_stay(tmp_path: Path, name: str):
    path = tmp_path / f"a{FORMATS[name].ending}"
    stored = media.encode_video(
        [FRAMES], format=name, fps=8, size=(64, 96), comment=f"modiff {LATENTS}"
    )
    path.write_bytes(stored)
    assert comment_of(path) == f"modiff {LATENTS}"
    # of pictures that move ffmpeg takes the comment for a part of the first packet
    has_packets = name not in ("gif", "webp")
    before, pixels = streams(path) if has_packets else b"", decoded(path)
    long = TEXT + "x" * 200_000
    for text in (TEXT, long):
        path.write_bytes(marked_video(stored, text))
        assert comment_of(path) == text
        assert (streams(path) if has_packets else b"") == before
        assert np.array_equal(decoded(path), pixels)
        assert marked_video(stored, text) == path.read_bytes()  # equal work gives equal bytes


def decoded(path: Path) -> np.ndarray:
    """By what is not ours: Pillow for pictures that move, imageio for the rest."""
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as image:
            frames = []
            for number in range(image.n_frames):
                image.seek(number)
                frames.append(np.array(image.convert("RGB")))
            return np.stack(frames)
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)
    return np.stack([np.frombuffer(frame, np.uint8) for frame in reader])


def test_pictures_and_latents_hold_one_too(tmp_path: Path):
    media.write_frames(tmp_path / "f", [FRAMES], comment=TEXT)
    assert comment_of(tmp_path / "f" / "00003.png") == TEXT
    with Image.open(tmp_path / "f" / "00003.png") as image:
        assert image.text["Comment"] == TEXT
        assert np.array_equal(np.array(image), FRAMES[3].numpy())
    data = encode_tensors({"latents": torch.arange(6.0).reshape(2, 3)})
    path = tmp_path / "a.safetensors"
    path.write_bytes(marked_latents(data, TEXT))
    assert comment_of(path) == TEXT
    from safetensors.torch import load_file

    assert torch.equal(load_file(path)["latents"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("data", [b"", b"latents", b"\xff" * 100, b"RIFF", b"GIF8", b"\0" * 20])
def test_what_is_no_file_of_ours_stays_as_it_is(data: bytes):
    assert marked_latents(data, TEXT) == data
    assert marked_video(data, TEXT) == data


@pytest.mark.parametrize(
    "error", [EngineError("no ffmpeg"), OSError(28, "No space left on device")]
)
def test_a_video_that_cannot_be_marked_is_written_as_it_is_stored(monkeypatch, error: Exception):
    def fails(data: bytes, mark: str) -> bytes:
        raise error

    monkeypatch.setattr("engine.output.marking.marked_video", fails)
    told: list[str] = []
    assert marked({"video": b"video"}, TEXT, told.append) == {"video": b"video"}
    assert told == [f"the video is written without the settings of its run: {error}"]


def test_nothing_of_this_machine_travels():
    spec = load_preset(
        "micro",
        [
            "components.vae.checkpoint=/home/me/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth",
            "components.denoiser.checkpoint=/home/me/secret/mine.safetensors",
            "output.path=/home/me/out.gif",
            "output.overwrite=true",
        ],
    )
    told = marked_by(spec, preset="/home/me/my.toml", segments=(Segment(3, b"{}"),))
    assert "/home" not in json.dumps(told)
    parts = told["settings"]["components"]
    assert parts["vae"]["checkpoint"] == "wan2.1-vae"  # it is called so wherever it lies
    assert parts["denoiser"]["checkpoint"] == "mine.safetensors"
    assert told["settings"]["output"] | {"kinds": []} == {
        "path": "",
        "kinds": [],
        "format": "gif",
        "scale": 1,
        "resample": "nearest",
        "overwrite": False,
    }
    assert (told["preset"], told["branched"]) == ("my.toml", [3])


def test_of_pictures_and_clips_the_names_travel_and_what_they_are_known_by():
    spec = load_preset(
        "micro-flf2v",
        ["components.image_encoder.checkpoint=/home/me/clip/mine.safetensors"],
        values={
            "image.path": "/home/me/private/cat.png",
            "last_image.path": "~/private/dog.png",
            "video.path": "/home/me/private/clip.mp4",
        },
    )
    spec = replace(spec, image=replace(spec.image, digest=LATENTS))
    told = marked_by(spec)["settings"]
    assert "private" not in json.dumps(told)
    assert told["image"] == {"path": "cat.png", "background": "#000000", "digest": LATENTS}
    assert (told["last_image"]["path"], told["video"]["path"]) == ("dog.png", "clip.mp4")
    assert told["components"]["image_encoder"]["checkpoint"] == "mine.safetensors"


def test_the_settings_come_back_whole():
    spec = load_preset("micro", ["seed=7", 'prompt="a = b; \\" 红"', "scheduler.steps=5"])
    mark = read_mark(mark_of(record(), spec, LATENTS))
    assert mark is not None
    assert (mark.run, mark.latents, mark.preset) == ("abcdefghij", LATENTS, "micro")
    assert mark.spec() == spec


def test_marks_of_older_versions_name_the_latents():
    assert read_mark(f"modiff {LATENTS}") == Mark("", LATENTS)
    with pytest.raises(PresetError, match="did not travel"):
        Mark("", LATENTS).spec()


@pytest.mark.parametrize(
    "comment", ["", "a cat", "[1]", '{"prompt": {}}', f"modiff {LATENTS} and more"]
)
def test_comments_of_others_are_none(comment: str):
    assert read_mark(comment) is None


GOOD = {"modiff": 1, "run": "abc", "latents": LATENTS, "preset": "", "settings": {}}


@pytest.mark.parametrize(
    ("comment", "problem"),
    [
        ('{"modiff":1', "damaged"),
        ('{"modiff":' + "[" * 100_000, "damaged"),
        ('{"modiff":1,"settings":' + '{"a":' * 2000 + "1" + "}" * 2001, "damaged"),
        ('{"modiff":1}', "missing required field `run`"),
        (GOOD | {"modiff": 2}, "newer than 1; update modiff"),
        (GOOD | {"modiff": "1"}, "damaged"),
        (GOOD | {"run": 7}, "damaged"),
        (GOOD | {"run": "../../x"}, "is no id"),
        (GOOD | {"latents": "sha256:zz"}, "is no id"),
        (GOOD | {"settings": []}, "damaged"),
        (GOOD | {"more": 1}, "unknown field `more`"),
    ],
)
def test_a_damaged_mark_is_one_line(comment: object, problem: str):
    text = comment if isinstance(comment, str) else msgspec.json.encode(comment).decode()
    with pytest.raises(PresetError, match=problem) as told:
        read_mark(text)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prompt": 3}, "prompt"),
        ({"prmpt": "x"}, "prmpt"),
        ({"format": 99}, "newer than"),
        ({"frames": 18}, "frames"),
    ],
)
def test_settings_that_are_not_understood_are_refused_by_name(settings: dict, problem: str):
    mark = read_mark(msgspec.json.encode(GOOD | {"settings": settings}).decode())
    assert mark is not None
    with pytest.raises(PresetError, match=problem):
        mark.spec()


def test_a_png_of_endless_chunks_is_not_read_through(tmp_path: Path):
    path = tmp_path / "a.png"
    head = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(head + (b"\xff\xff\xff\xf0" + b"iTXt") + b"x" * 100)
    assert comment_of(path) == ""
    path.write_bytes(head + (b"\0\0\0\0" + b"tEXt" + b"crc!") * 200_000)
    assert comment_of(path) == ""
