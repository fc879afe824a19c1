"""Videos of every kind through the real ffmpeg; grey levels say which frame of the source is shown."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from engine.compare.frames import read_frames
from engine.errors import ComponentError, InputError, RunCancelled
from engine.inputs.clips import decoding
from engine.inputs.clips import reading as clips
from engine.inputs.clips import stream as clip_stream
from engine.output import encoders
from engine.output.ffmpeg import program

Yuv = tuple[int, int, int]


def ffmpeg(*arguments: object) -> None:
    command = [program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    subprocess.run([*command, *map(str, arguments)], check=True)


def y4m(
    path: Path, colours: Sequence[Yuv], size=(64, 48), rate=10, tags: str = "Ip A1:1", halves=()
) -> Path:
    """A video of frames of one colour each, 4:4:4, limited range. halves: the colours of the right half."""
    width, height = size
    data = bytearray(f"YUV4MPEG2 W{width} H{height} F{rate}:1 {tags} C444\n".encode())
    for number, left in enumerate(colours):
        right = halves[number] if halves else left
        data += b"FRAME\n"
        for a, b in zip(left, right, strict=True):
            data += (bytes([a]) * (width // 2) + bytes([b]) * (width - width // 2)) * height
    path.write_bytes(data)
    return path


def numbered(path: Path, num: int, rate: int = 10) -> Path:
    """Frame n has the grey 20 + 4n, for at most 50 frames."""
    return y4m(path, [(20 + 4 * n, 128, 128) for n in range(num)], rate=rate)


def numbers(grey: np.ndarray) -> list[int]:
    """Of the source's frames that are shown. grey: [T] in 0 to 255, full range."""
    return [round((level * 219 / 255 - 4) / 4) for level in grey.tolist()]


def read(path: Path, *, fps=10, frames=81, width=64, height=48, **more):
    return clips.read_clip(path, fps=fps, frames=frames, width=width, height=height, **more)


def shown(path: Path, **more) -> tuple[list[int], clips.Resampled]:
    pixels, came = read(path, **more)
    assert len(pixels) == came.read - came.dropped + came.doubled - came.cut
    return numbers(pixels[:, 20, 20, 1]), came


def as_ffmpeg_shows(path: Path, fps: int) -> list[int]:
    """By its own filter."""
    command = [
        program(), "-loglevel", "error", "-i", path, "-vf", f"fps={fps},scale=64:48", "-f", "rawvideo", "-pix_fmt",
        "rgb24", "-",
    ]  # fmt: skip
    data = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return numbers(np.frombuffer(data, np.uint8).reshape(-1, 48, 64, 3)[:, 20, 20, 1])


def refused(path: Path, **more) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **more)
    assert caught.value.key == "video.path"
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 400 + len(str(path))
    return text.removeprefix(f"video.path: {path} ")


# --- which frames


@pytest.mark.parametrize(
    ("available", "num"), [(1, 1), (2, 1), (4, 1), (5, 5), (8, 5), (9, 9), (81, 81), (84, 81)]
)
def test_a_clip_has_4n_and_1_frames(available: int, num: int) -> None:
    assert clips.num_frames(available) == num
    with pytest.raises(ValueError, match="at least 1"):
        clips.num_frames(0)


@pytest.mark.parametrize(
    ("rate", "num", "fps", "expected", "counts"),
    [
        (10, 9, 10, [0, 1, 2, 3, 4, 5, 6, 7, 8], (9, 0, 0, 0)),
        # 10 frames take 16 places, of which 13 make a clip: 10 + 6 - 3
        (10, 10, 16, [0, 0, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7], (10, 0, 6, 3)),
        # 15 frames take 6 places, those of 5, 10 and so on are a half, which goes up: 15 - 9 - 1
        (25, 15, 10, [1, 3, 6, 8, 11], (15, 9, 0, 1)),
        (50, 25, 10, [2, 7, 12, 17, 22], (25, 20, 0, 0)),
    ],
)
def test_a_constant_rate(tmp_path, rate, num, fps, expected, counts) -> None:
    path = numbered(tmp_path / "in.y4m", num, rate)
    found, came = shown(path, fps=fps)
    assert (came.read, came.dropped, came.doubled, came.cut) == counts
    assert found == expected
    assert found == as_ffmpeg_shows(path, fps)[: len(found)]


def variable(tmp_path: Path) -> Path:
    """Frames at 0, 40, 300, 310, 320 and 1000 ms."""
    times = "40*eq(N\\,1)+300*eq(N\\,2)+310*eq(N\\,3)+320*eq(N\\,4)+1000*eq(N\\,5)"
    path = tmp_path / "variable.mkv"
    ffmpeg(
        "-i", numbered(tmp_path / "in.y4m", 6), "-vf", f"settb=1/1000,setpts={times}", "-fps_mode", "passthrough",
        "-enc_time_base", "1/1000", "-c:v", "ffv1", path,
    )  # fmt: skip
    return path


def test_a_variable_rate(tmp_path: Path) -> None:
    path = variable(tmp_path)
    found, came = shown(path, frames=9)
    assert found == [1, 1, 1, 4, 4, 4, 4, 4, 4]
    # 0, 2 and 3 came to places that 1 and 4 have
    assert (came.read, came.dropped, came.doubled, came.cut) == (5, 3, 7, 0)
    found, came = shown(path)
    whole = as_ffmpeg_shows(path, 10)
    assert whole[:11] == [1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 5]
    assert found == whole[: len(found)]
    assert came.cut == len(whole) - len(found)
    assert (came.read, came.dropped, came.told) == (6, 3, ())


@pytest.mark.parametrize(("frames", "num"), [(1, 1), (4, 1), (5, 5), (7, 5), (9, 9), (13, 9)])
def test_at_most_the_wanted_frames(tmp_path: Path, frames: int, num: int) -> None:
    found, came = shown(numbered(tmp_path / "in.y4m", 11), frames=frames)
    assert found == list(range(num))
    assert came.read == (11 if frames == 13 else num)
    assert came.cut == (2 if frames == 13 else 0)


def test_one_frame(tmp_path: Path) -> None:
    assert shown(numbered(tmp_path / "in.y4m", 1, rate=60), fps=16)[0] == [0]
    found, came = shown(numbered(tmp_path / "in.y4m", 1, rate=1), fps=16)
    assert found == [0] * 13
    assert came.notes == (
        "15 frames doubled for 16 frames a second",
        "3 cut from the end: a clip has 4n+1 frames",
    )


def test_of_ten_minutes_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "long.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=1:d=600", "-c:v", "ffv1", "-g", 1, path)
    taken: list[object] = []
    started: list[subprocess.Popen[bytes]] = []

    def counted(*arguments) -> Iterator[object]:
        for frame in decoding.decoded(*arguments):
            taken.append(frame)
            yield frame

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *arguments, **more) -> None:
            super().__init__(*arguments, **more)
            started.append(self)

    monkeypatch.setattr(clips, "decoded", counted)
    monkeypatch.setattr(subprocess, "Popen", Started)
    pixels, came = read(path, fps=4, frames=9)
    assert len(pixels) == 9
    assert (came.read, came.dropped, came.doubled, came.cut) == (3, 0, 6, 0)
    assert came.notes == (
        "6 frames doubled for 4 frames a second",
        "its first 2.2 of 600.0 s are used",
    )
    assert len(taken) == 4  # the fourth says until when the third is shown
    assert started[-1].returncode == -9  # it was in the middle of it
    assert read(path, fps=1, frames=601)[1].read == 600


# --- what the frames look like


def colour(path: Path, **more) -> list[int]:
    return read(path, **more)[0][0, 20, 20].tolist()


def rgb(yuv: Yuv, kr: float, kb: float, full: bool = False) -> list[float]:
    """By the formula of the standards."""
    y, cb, cr = (yuv[0] - (0 if full else 16)) / (255 if full else 219), yuv[1] - 128, yuv[2] - 128
    scale = 255 if full else 224
    r, b = y + 2 * (1 - kr) * cr / scale, y + 2 * (1 - kb) * cb / scale
    return [255 * r, 255 * (y - kr * r - kb * b) / (1 - kr - kb), 255 * b]


YUV = (120, 90, 170)
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((64, 48), BT601), ((64, 576), BT601), ((64, 592), BT709), ((1280, 48), BT709)],
)
def test_untagged_colours_go_by_the_size(tmp_path: Path, size, matrix) -> None:
    path = y4m(tmp_path / "in.y4m", [YUV], size)
    assert colour(path, fit="stretch") == pytest.approx(rgb(YUV, *matrix), abs=1.5)


@pytest.mark.parametrize(("tag", "matrix"), [("bt709", BT709), ("smpte170m", BT601)])
def test_tagged_colours_go_by_the_tag(tmp_path: Path, tag: str, matrix) -> None:
    size = (64, 48) if tag == "bt709" else (1280, 48)
    made = y4m(tmp_path / "in.y4m", [YUV], size)
    path = tmp_path / "in.mkv"
    ffmpeg("-i", made, "-vf", f"setparams=colorspace={tag}", "-c:v", "ffv1", path)
    assert colour(path, fit="stretch") == pytest.approx(rgb(YUV, *matrix), abs=1.5)


def test_full_range(tmp_path: Path) -> None:
    path = y4m(tmp_path / "in.y4m", [YUV], tags="Ip A1:1 XCOLORRANGE=FULL")
    assert colour(path) == pytest.approx(rgb(YUV, *BT601, full=True), abs=1.5)


@pytest.mark.parametrize("format", ["h264", "h265", "ffv1", "gif", "webp"])
def test_what_a_run_wrote_comes_back_as_the_comparison_sees_it(tmp_path: Path, format: str) -> None:
    t, y, x = np.meshgrid(np.arange(5), np.arange(48), np.arange(80), indexing="ij")
    frames = np.stack([x * 3, y * 5, t * 20 + 40], axis=-1).clip(0, 255).astype(np.uint8)
    path = tmp_path / "run"
    encoders.encode(path, [frames.tobytes()], format=format, size=(48, 80), fps=16)
    pixels, came = read(path, fps=16, width=80)
    expected = b"".join(frame.pixels for frame in read_frames(path))
    assert (came.read, came.dropped, came.doubled, came.cut) == (5, 0, 0, 0)
    # Pillow has its own way from YUV to RGB
    close = 8 if format == "webp" else 0
    difference = pixels.astype(int) - np.frombuffer(expected, np.uint8).reshape(pixels.shape)
    assert np.abs(difference).max() <= close


def test_a_frame_covers_the_size_and_is_cut_in_the_middle(tmp_path: Path) -> None:
    black, white = (16, 128, 128), (235, 128, 128)
    path = y4m(tmp_path / "in.y4m", [black], (128, 32), halves=[white])
    row = read(path, width=32, height=32)[0][0, 10, :, 1].astype(int)
    assert row[:14].max() < 10
    assert row[18:].min() > 245
    upright = y4m(tmp_path / "up.y4m", [black], (32, 128), halves=[white])
    for fit, size in (("crop", (64, 32)), ("stretch", (64, 16))):
        row = read(upright, width=size[0], height=size[1], fit=fit)[0][0, 8, :, 1].astype(int)
        assert row[:28].max() < 10
        assert row[36:].min() > 245
    narrow = read(path, width=16, height=64, fit="stretch")[0][0, :, :, 1].astype(int)
    assert narrow.shape == (64, 16)
    assert narrow[:, :6].max() < 10
    assert narrow[:, 10:].min() > 245


def test_a_rotation_flag(tmp_path: Path) -> None:
    made = y4m(tmp_path / "in.y4m", [(16, 128, 128)], halves=[(235, 128, 128)])
    still, path = tmp_path / "still.mp4", tmp_path / "turned.mp4"
    ffmpeg("-i", made, "-c:v", "libx264", "-pix_fmt", "yuv420p", still)
    ffmpeg("-display_rotation", -90, "-i", still, "-c", "copy", path)
    facts = clips.examine_clip(path)
    assert (facts.width, facts.height, facts.rotation) == (48, 64, 90)
    assert facts.notes == ("turned by 90 degrees clockwise, as its flag says",)
    column = read(path, width=48, height=64)[0][0, :, 20, 1].astype(int)
    assert column[:28].max() < 10  # what was left is up
    assert column[36:].min() > 245


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    path = y4m(tmp_path / "in.y4m", [(16, 128, 128)], tags="Ip A2:1", halves=[(235, 128, 128)])
    facts = clips.examine_clip(path)
    assert (facts.width, facts.height) == (128, 48)
    assert facts.notes == ("its pixels are 2:1, made square",)
    row = read(path, width=128, height=48)[0][0, 20, :, 1].astype(int)
    assert row[:58].max() < 10
    assert row[70:].min() > 245


@pytest.mark.parametrize(
    "pixels", ["yuv420p", "yuv422p10le", "yuv444p12le", "gray", "bgr0", "nv12"]
)
def test_odd_sizes_and_depths(tmp_path: Path, pixels: str) -> None:
    path, made = tmp_path / "in.mkv", y4m(tmp_path / "in.y4m", [(120, 128, 128)] * 2, (65, 49))
    codec = "rawvideo" if pixels == "nv12" else "ffv1"
    ffmpeg("-i", made, "-pix_fmt", pixels, "-c:v", codec, "-f", "matroska", path)
    facts = clips.examine_clip(path)
    assert (facts.width, facts.height) == (65, 49)
    assert colour(path, width=33, height=31) == pytest.approx([121, 121, 121], abs=1.5)


@pytest.mark.parametrize(
    "codec", [("ffv1", "bgra"), ("libvpx-vp9", "yuva420p"), ("prores_ks", "yuva444p10le")]
)
def test_what_is_transparent_is_over_black(tmp_path: Path, codec) -> None:
    path = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "color=0xffffff@0.5:s=64x48:r=10:d=0.2,format=rgba", "-c:v", codec[0], "-pix_fmt",
        codec[1], path,
    )  # fmt: skip
    assert clips.examine_clip(path).notes == ("what is transparent in it is shown over black",)
    assert colour(path) == pytest.approx([128, 128, 128], abs=4)


TAGGED = "format=gbrp,setparams=colorspace=gbr:color_primaries=bt709:color_trc=bt709:range=full"


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_is_brought_to_an_ordinary_screen(tmp_path: Path, transfer: str) -> None:
    path = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "color=0x808080:s=64x48:r=10:d=0.1,format=gbrp,drawbox=x=32:c=0xc04020:t=fill",
        "-vf", f"{TAGGED},zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt2020,zscale=t={transfer}:npl=203,"
        "format=gbrp16le,zscale=m=bt2020nc:r=limited,format=yuv420p10le", "-c:v", "ffv1", path,
    )  # fmt: skip
    pixels, came = read(path, height=48)
    assert pixels[0, 20, 20].tolist() == pytest.approx([128, 128, 128], abs=2)
    assert pixels[0, 20, 50].tolist() == pytest.approx([192, 64, 32], abs=8)
    assert (
        f"its HDR ({transfer}) is brought to the range of an ordinary screen (BT.709)" in came.notes
    )


WIDE_TOLD = "its wide colours are brought to those of an ordinary screen (BT.709)"


@pytest.mark.parametrize("wide", ["p=bt2020:m=bt2020nc:r=limited", "p=smpte432:m=bt709:r=limited"])
def test_wide_colours_are_brought_to_an_ordinary_screen(tmp_path: Path, wide: str) -> None:
    path = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "color=0xc04020:s=65x49:r=10:d=0.1", "-vf",
        f"{TAGGED},zscale=t=bt709:{wide},format=yuv444p10le", "-c:v", "ffv1", path,
    )  # fmt: skip
    pixels, came = read(path)
    assert pixels[0, 20, 20].tolist() == pytest.approx([192, 64, 32], abs=3)
    assert came.told == (WIDE_TOLD,)


def test_wide_and_transparent(tmp_path: Path) -> None:
    path = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "color=0xffffff@0.5:s=64x48:r=10:d=0.1,format=rgba", "-vf",
        "format=yuva444p10le,setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=bt2020-10",
        "-c:v", "ffv1", path,
    )  # fmt: skip
    pixels, came = read(path)
    assert pixels[0, 20, 20].tolist() == pytest.approx([128, 128, 128], abs=3)
    assert came.told == ("what is transparent in it is shown over black", WIDE_TOLD)


@pytest.mark.parametrize("tag", ["colorspace=ycgco", "color_trc=log100"])
def test_colours_that_are_not_read_are_named(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "in.mkv"
    ffmpeg("-i", y4m(tmp_path / "in.y4m", [YUV]), "-vf", f"setparams={tag}", "-c:v", "ffv1", path)
    name = tag.partition("=")[2]
    assert refused(path) == f"has colours that are not read ({name}); convert it to bt709 first"


def test_dolby_vision_without_other_colours_is_named() -> None:
    told = (
        "0[0x1](und): Video: hevc (Main 10) (dvh1 / 0x31687664), yuv420p10le(pc), 64x48, 24 fps, 24 tbr (default)\n"
        "[info]     Side data:\n"
        "[info]       DOVI configuration record: version: 1.0, profile: 5, level: 4, rpu flag: 1\n"
    )
    stream = clip_stream.stream_of(Path("in.mp4"), told, "video.path")
    with pytest.raises(InputError, match=r"colours that are not read \(dolby-vision-5\)"):
        clip_stream.check_colours(Path("in.mp4"), stream, "video.path")


def test_interlaced_lines_are_left_and_told(tmp_path: Path) -> None:
    path = y4m(tmp_path / "in.y4m", [YUV] * 2, tags="It A1:1")
    assert clips.examine_clip(path).notes == (
        "it is interlaced, and its lines are left as they are",
    )


def test_a_size_that_changes_is_refused(tmp_path: Path) -> None:
    parts = [tmp_path / "a.ts", tmp_path / "b.ts"]
    for part, size in zip(parts, ((64, 48), (80, 48)), strict=True):
        ffmpeg("-i", y4m(tmp_path / "in.y4m", [YUV] * 3, size), "-c:v", "libx264", part)
    path = tmp_path / "in.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    words = (
        r"changes its size at frame [1-3], from 64x48 with pixels of 1/1 to 80x48 with 1/1; convert"
    )
    assert re.match(words, refused(path))  # the decoder may have kept one back
    assert len(read(path, frames=1)[0]) == 1


def test_frames_of_another_size_than_the_container_tells(tmp_path: Path, monkeypatch) -> None:
    """As where it tells that edges are to be cut off."""
    path = y4m(tmp_path / "in.y4m", [(16, 128, 128)], (128, 32), halves=[(235, 128, 128)])
    expected = read(path, width=32, height=32)[0]
    of_container = clip_stream.stream_of

    def lying(*arguments) -> clip_stream.Stream:
        return replace(of_container(*arguments), size=(128, 128))

    monkeypatch.setattr(clip_stream, "stream_of", lying)
    assert np.array_equal(read(path, width=32, height=32)[0], expected)


# --- which files


def test_containers(tmp_path: Path) -> None:
    """All by one ffmpeg."""
    kinds = {
        "a.mp4": ("mp4", "mpeg4"), "a.mov": ("mp4", "mpeg4"), "a.mkv": ("matroska", "ffv1"),
        "a.webm": ("matroska", "vp8"), "a.avi": ("avi", "mpeg4"), "a.ts": ("mpegts", "mpeg2video"),
        "a.m2ts": ("mpegts", "mpeg2video"), "a.mpg": ("mpeg", "mpeg2video"), "a.flv": ("flv", "flv1"),
        "a.ogv": ("ogg", "theora"), "a.wmv": ("asf", "wmv2"), "a.gif": ("gif", "gif"), "a.webp": ("webp", "webp"),
    }  # fmt: skip
    encoder = {"vp8": "libvpx", "theora": "libtheora", "webp": "libwebp_anim"}
    made = numbered(tmp_path / "in.y4m", 6, rate=25)
    outputs: list[object] = []
    for name, (_, codec) in kinds.items():
        exact = ["-lossless", 1] if codec == "webp" else []
        outputs += ["-c:v", encoder.get(codec, codec), *exact, tmp_path / name]
    ffmpeg("-i", made, *outputs)
    for name, (container, codec) in kinds.items():
        facts = clips.examine_clip(tmp_path / name)
        assert (facts.width, facts.height, facts.container) == (64, 48, container), name
        assert facts.codec.startswith(codec)
        assert facts.fps == pytest.approx(25, abs=0.1), name
        assert facts.seconds == pytest.approx(0.24, abs=0.05) or name in ("a.mpg", "a.webp")
        assert not facts.has_audio
    assert clips.examine_clip(made).container == "y4m"
    assert clips.examine_clip(tmp_path / "a.webp").seconds == 0.0
    assert shown(tmp_path / "a.webp", fps=25)[0] == [0, 1, 2, 3, 4]


def test_sound_is_left_out_and_told(tmp_path: Path) -> None:
    path, sound = tmp_path / "in.mp4", tmp_path / "sound.m4a"
    made = numbered(tmp_path / "in.y4m", 5)
    tone = ("-f", "lavfi", "-i", "sine=d=0.5")
    ffmpeg(*tone, "-i", made, "-c:v", "libx264rgb", "-qp", 0, path, "-map", "0:a", sound)
    facts = clips.examine_clip(path)
    assert (facts.has_audio, facts.notes) == (True, ("its sound is left out",))
    assert shown(path)[0] == [0, 1, 2, 3, 4]
    assert refused(sound) == "has sound and no pictures; give another file"
    cover = tmp_path / "cover.m4a"
    as_cover = ("-c:v", "png", "-frames:v", 1, "-disposition:v", "attached_pic")
    ffmpeg("-i", sound, "-i", made, "-map", 0, "-map", 1, *as_cover, cover)
    assert refused(cover) == "has sound and no pictures; give another file"


WEBP = b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0" + bytes(24)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty (0 bytes); give a video"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(50),
            "is a picture; give it as the picture to begin from (image.path)",
        ),
        (
            b"\xff\xd8\xff\xe0" + bytes(50),
            "is a picture; give it as the picture to begin from (image.path)",
        ),
        (WEBP, "is a picture; give it as the picture to begin from (image.path)"),
        (
            b"\0\0\0\x1cftypavif" + bytes(50),
            "is a picture; give it as the picture to begin from (image.path)",
        ),
        (b"ID3\4" + bytes(50), "is sound without pictures; give a video"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "is sound without pictures; give a video"),
        (b"#EXTM3U\n/etc/passwd\n", "is a list of other files, which are not opened; give the"),
        (b"ffconcat version 1.0\nfile a.mp4\n", "is a list of other files, which are not opened"),
        (b'\xef\xbb\xbf <?xml version="1.0"?><MPD>', "is a list of other files, which are not"),
        (b"PK\3\4" + bytes(50), "is no video of a kind that is read (mp4, mov, mkv, webm, avi"),
        (b"a line of text\n", "is no video of a kind that is read (mp4, mov, mkv, webm, avi"),
        (b"G", "is no video of a kind that is read (mp4, mov, mkv, webm, avi"),
    ],
)
def test_what_is_no_video_is_said_before_ffmpeg_is_started(
    tmp_path, monkeypatch, data, words
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
    path = tmp_path / "in.mp4"
    path.write_bytes(data)
    assert refused(path).startswith(words)


def test_a_list_in_the_clothes_of_a_video_opens_nothing(tmp_path: Path) -> None:
    other = numbered(tmp_path / "other.y4m", 5)
    path = tmp_path / "in.mp4"
    for head in (
        b"\0\0\0\x18ftypisom",
        b"\x1a\x45\xdf\xa3",
        b"RIFF\0\0\0\0AVI ",
        b"OggS",
        b"FLV\1",
    ):
        path.write_bytes(head + f"\n#EXTM3U\n#EXTINF:1,\nfile:{other}\n".encode() * 20)
        words = ("cannot be read as a video: ", "has no video in it that can be read; ")
        assert refused(path).startswith(words)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, words in {
        "absent.mp4": "is no file; check its path",
        ".": "is a folder; give a video in it",
        "pipe": "is a pipe or a device; save the video as a file first",
        "link": "is a pipe or a device; save the video as a file first",
        "/dev/zero": "is a pipe or a device; save the video as a file first",
    }.items():
        assert refused(tmp_path / name) == words
        with pytest.raises(InputError, match=words.partition(";")[0]):
            clips.clip_digest(tmp_path / name)
    with pytest.raises(InputError, match=r"^picture\.path: a\\x00b is no file"):
        clips.examine_clip(Path("a\0b"), key="picture.path")


def test_names_that_mean_something_elsewhere(tmp_path: Path, monkeypatch) -> None:
    made = numbered(tmp_path / "in.y4m", 1)
    monkeypatch.chdir(tmp_path)
    for name in (
        "-i",
        "%03d.y4m",
        "a\n[info] Input #0",
        "concat:a|b",
        b"\xff.y4m".decode("utf8", "surrogateescape"),
    ):
        os.link(made, name)
        facts = clips.examine_clip(Path(name))
        assert (facts.width, facts.container) == (64, "y4m")
    Path("b\n\x1b[2J.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"path: b\\n\\x1b\[2J\.mp4 is no video"):
        clips.examine_clip(Path("b\n\x1b[2J.mp4"))


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"abc")
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert clips.clip_digest(tmp_path / "in.mp4") == expected


def test_a_file_that_grows_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "in.y4m", 5)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"FRAME\n")

    assert (
        refused(path, frames=1, stop=grow) == "changed while it was read; wait until it is written"
    )


def test_too_large_and_too_long(tmp_path: Path) -> None:
    large = tmp_path / "large.gif"
    frame = b"\x2c\0\0\0\0" + b"\xff\xff\xff\xff" + b"\0\2\2\x44\1\0"
    large.write_bytes(b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + frame + b"\x3b")
    assert refused(large) == "is 65535x65535, at most 8192x8192 pixels are read; scale it first"
    larger = y4m(tmp_path / "larger.y4m", [], (9000, 9000))
    assert refused(larger) == "is 9000x9000, at most 8192x8192 pixels are read; scale it first"
    path = y4m(tmp_path / "in.y4m", [YUV], (2000, 4))
    assert refused(path) == "is 2000x4, too long for 64x48; crop it first, or stretch it"
    assert read(path, fit="stretch")[0].shape == (1, 48, 64, 3)


# --- files that are not whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames, a second for each 10, with its index in front."""
    folder = tmp_path_factory.mktemp("whole")
    made = numbered(folder / "in.y4m", 20)
    path = folder / "whole.mp4"
    exact = ("-c:v", "libx264", "-qp", 0, "-bf", 0, "-g", 1)
    ffmpeg("-i", made, *exact, "-movflags", "+faststart", path)
    return path


def packet_ends(path: Path) -> list[int]:
    """Where the frames of an mp4 with its index in front end in the file."""
    command = [program(), "-loglevel", "error", "-i", path, "-c", "copy", "-f", "framecrc", "-"]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()
    sizes = [int(line.split(",")[4]) for line in text.splitlines() if not line.startswith("#")]
    end = path.stat().st_size
    return [end - sum(sizes[number + 1 :]) for number in range(len(sizes))]


def test_what_comes_before_a_cut_serves_if_it_is_enough(tmp_path: Path, whole: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: packet_ends(whole)[11] + 5])  # 12 frames and a bit
    assert shown(path, frames=9)[0] == list(range(9))
    assert refused(path, frames=13) == (
        "is damaged or cut off (it ends within a frame): 12 frames of it can be read, 12 at 10 a second, and 13 are "
        "wanted; repair it, or ask for at most 9"
    )
    assert "12 frames of it can be read, 6 at 5 a second, and 13 are wanted" in refused(
        path, frames=13, fps=5
    )


def test_without_its_index_nothing_can_be_read(tmp_path: Path, whole: Path) -> None:
    path, plain = tmp_path / "cut.mp4", tmp_path / "plain.mp4"
    ffmpeg("-i", whole, "-c", "copy", plain)
    data = plain.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    assert refused(path) == (
        "cannot be read as a video: its index (moov) is missing, it was cut off or is still being written"
    )


def test_a_cut_matroska(tmp_path: Path) -> None:
    made, path = numbered(tmp_path / "in.y4m", 20), tmp_path / "in.mkv"
    ffmpeg("-i", made, "-c:v", "ffv1", path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    assert refused(path).startswith("is damaged or cut off (it ends within a frame): ")
    assert shown(path, frames=5)[0] == list(range(5))


def test_no_frame_at_all(tmp_path: Path) -> None:
    path = y4m(tmp_path / "in.y4m", [])
    assert refused(path) == "has no frame that can be read; give another"


# --- an ffmpeg that does not do its work


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script in the place of ffmpeg, which may go on as $FFMPEG."""
    monkeypatch.setenv("FFMPEG", program())

    def replaced(script: str) -> None:
        path = tmp_path / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))

    return replaced


def test_one_that_hangs_is_ended_when_the_run_is(tmp_path: Path, scripted) -> None:
    path, pid = numbered(tmp_path / "in.y4m", 5), tmp_path / "pid"
    scripted(
        f'case "$*" in *showinfo*) echo $$ > {pid}.part; mv {pid}.part {pid}; exec sleep 1000;; esac\n'
        'exec "$FFMPEG" "$@"'
    )

    def stop() -> None:
        if pid.exists():
            raise RunCancelled

    with pytest.raises(RunCancelled):
        read(path, stop=stop)
    assert not psutil.pid_exists(int(pid.read_text()))


def test_one_that_does_not_answer(tmp_path: Path, scripted, monkeypatch) -> None:
    monkeypatch.setattr(clip_stream, "_ANSWER_SECONDS", 0.0)
    scripted("exec sleep 1000")
    path = numbered(tmp_path / "in.y4m", 5)
    assert refused(path) == "cannot be read: ffmpeg did not answer in 0 s"


@pytest.mark.parametrize("script", ["exit 127", "echo nonsense >&2; exit 1"])
def test_one_that_does_not_work_is_to_blame_and_not_the_file(tmp_path, scripted, script) -> None:
    scripted(script)
    path = numbered(tmp_path / "in.y4m", 5)
    with pytest.raises(ComponentError, match=r"cannot be started .*; unset IMAGEIO_FFMPEG_EXE"):
        clips.examine_clip(path)


def test_one_that_is_missing_or_of_another_machine(tmp_path: Path, monkeypatch) -> None:
    path = numbered(tmp_path / "in.y4m", 5)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
    with pytest.raises(ComponentError, match="is no program at /nonexistent"):
        clips.examine_clip(path)
    foreign = tmp_path / "ffmpeg"
    foreign.write_bytes(b"\x7fELF of another machine")
    foreign.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(foreign))
    with pytest.raises(ComponentError, match=r"cannot be started .*Exec format error"):
        clips.examine_clip(path)


def test_one_without_what_hdr_takes(tmp_path: Path, scripted) -> None:
    path = tmp_path / "in.mkv"
    made = y4m(tmp_path / "in.y4m", [YUV])
    ffmpeg("-i", made, "-vf", "setparams=color_trc=smpte2084", "-c:v", "ffv1", path)
    scripted('exec "$FFMPEG" $(printf "%s " "$@" | sed s/zscale=/absent=/g)')
    assert refused(path).startswith("is HDR or has wide colours, which this ffmpeg cannot convert")


def test_one_that_says_a_lot_is_not_waited_for(tmp_path: Path, scripted) -> None:
    scripted('case "$*" in *encoders*) exec "$FFMPEG" "$@";; esac\nyes "a line" >&2')
    path = numbered(tmp_path / "in.y4m", 5)
    assert refused(path).startswith("cannot be read as a video: ")


def test_one_that_does_not_tell_the_times_does_not_fill_the_memory() -> None:
    told = decoding.Told()
    command = ["sh", "-c", "exec cat /dev/zero"]
    assert list(decoding.decoded(command, 100, told, lambda: None)) == []
    assert told.damage == "ffmpeg does not tell when its frames are shown"


def test_one_without_a_reader(tmp_path: Path, scripted) -> None:
    scripted('exec "$FFMPEG" $(printf "%s " "$@" | sed s/yuv4mpegpipe/absent/g)')
    path = numbered(tmp_path / "in.y4m", 5)
    assert "this ffmpeg has no reader for it, another may" in refused(path)


@pytest.mark.parametrize(
    "line",
    [
        "[Parsed_showinfo_0 @ 0x5] n:   3 pts:     90 pts_time:3       pos:   48 fmt:yuv420p sar:1/1 s:64x48 i:P ",
        "[Parsed_showinfo_0 @ 0x5] [info] n:   3 pts:     90 pts_time:3       duration:      6 duration_time:0.2     "
        "fmt:yuv420p cl:left sar:1/1 s:64x48 i:P iskey:1 type:I ",
        "  Stream #0:0: Video: rawvideon:   3 pts:     90 pts_time:3       duration:      6 duration_time:0.2     "
        "fmt:yuv420p cl:left sar:1/1 s:64x48 i:P iskey:1 type:I ",
    ],
    ids=["of version 4", "of version 9", "two threads at once"],
)  # fmt: skip
def test_times_as_they_are_told(line: str) -> None:
    told = decoding.Told()
    told.add(
        b"[x @ 0x5] [info] config in time_base: 1/30, frame_rate: 5/1\n" + line.encode() + b"\n"
    )
    assert list(told.frames) == [(3, Fraction(1, 5), "64x48 1/1")]
    told.add(b"[x @ 0x5] [info] n:   4 pts: NOPTS pts_time:NOPTS   fmt:gray sar:1/1 s:64x48 i:P \n")
    assert told.frames[1] == (Fraction(16, 5), Fraction(1, 5), "64x48 1/1")
