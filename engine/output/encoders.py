"""How a video of each format is encoded: by what, from which pixels, with which settings. Torch-free."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine.errors import ComponentError, EngineError
from engine.output import ffmpeg
from presets.output.formats import DEFAULT, FORMATS

Pixels = bytes | memoryview
"""RGB, 8 bits a channel, row by row: of one frame or of several."""

# Players take an untagged video for BT.601 or BT.709 by its size: so it is BT.709, and says so in all four tags.
_BT709 = (
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
)
# a regular pattern: noise that differs from frame to frame flickers, and takes half as much again
_PALETTE = "split[seen][shown];[seen]palettegen[palette];[shown][palette]paletteuse=dither=bayer:bayer_scale=4"
# 8 out of 10 means to imageio, and so to the published code: (1 - 8/10) * 51; what the others have comes near it
_CRF = {"libx264": "10", "libx265": "12", "libsvtav1": "15"}
_WEBP_QUALITY = 90
_MUXERS = {".mp4": "mp4", ".webm": "webm", ".mkv": "matroska", ".gif": "gif"}
_AV1 = ("-crf", _CRF["libsvtav1"], "-preset", "6")


@dataclass(frozen=True, slots=True)
class Encoder:
    """name, pixels: as ffmpeg calls them. settings: its options. filters: what makes its pixels of RGB."""

    name: str
    pixels: str
    settings: tuple[str, ...]
    filters: str = ""


# WebP is Pillow's.
ENCODERS = {
    "h264": Encoder("libx264", "yuv420p", ("-crf", _CRF["libx264"]), _BT709),
    "h265": Encoder(
        "libx265",
        "yuv420p10le",
        ("-crf", _CRF["libx265"], "-x265-params", "log-level=error", "-tag:v", "hvc1"),
        _BT709,
    ),
    "av1": Encoder("libsvtav1", "yuv420p10le", _AV1, _BT709),
    "x264rgb": Encoder("libx264rgb", "rgb24", ("-qp", "0")),
    "webm": Encoder("libsvtav1", "yuv420p10le", _AV1, _BT709),
    "ffv1": Encoder("ffv1", "bgr0", ("-level", "3", "-g", "1", "-slicecrc", "1")),
    "gif": Encoder("gif", "pal8", ("-loop", "0"), _PALETTE),
}


def check(name: str) -> None:
    """Raise ComponentError where this machine cannot write a format, with those that it can."""
    if name not in ENCODERS:
        _check_webp(name)
        return
    encoder = ENCODERS[name]
    if name == DEFAULT and not ffmpeg.chosen():
        ffmpeg.program()  # which the library has started to find it, and which has libx264
        return
    lacks = ""
    if encoder.name not in ffmpeg.encoders():
        lacks = f"has no {encoder.name}"
    elif not ffmpeg.takes(encoder.name, encoder.pixels):
        lacks = f"has {encoder.name} without {encoder.pixels}"
    if lacks:
        instead = ", ".join(each for each in writable() if each != name)
        raise ComponentError(
            f"ffmpeg at {ffmpeg.program()} {lacks}, which {name} needs; take another output.format ({instead}) or "
            "another ffmpeg (IMAGEIO_FFMPEG_EXE)"
        )


def writable() -> list[str]:
    """The formats that this machine writes. Raises ComponentError where there is no ffmpeg."""
    names = ffmpeg.encoders()
    return [
        name
        for name in FORMATS
        if (ENCODERS[name].name in names if name in ENCODERS else _has_webp())
    ]


def encode(
    path: Path,
    pixels: Iterable[Pixels],
    *,
    format: str = DEFAULT,
    size: tuple[int, int],
    fps: int,
    comment: str = "",
) -> None:
    """Encodes a video into the file `path`, which is replaced, frame by frame as they come.

    format: of `presets.output.formats`. pixels: of whole frames. size: (H, W), both even. comment: of the file's
    metadata. Raises EngineError with the encoder's own last line where it fails, and what making the pixels raises.
    """
    if format not in ENCODERS:
        _encode_webp(path, pixels, size=size, fps=fps, comment=comment)
        return
    command = _command(path, format, size, fps, comment)
    with tempfile.TemporaryFile() as errors:
        status = _run_on(command, pixels, errors)
        if status or not path.is_file() or not path.stat().st_size:
            raise EngineError(f"ffmpeg could not encode the video: {last_line(errors, status)}")
    if format == "gif" and comment:
        path.write_bytes(with_comment(path.read_bytes(), comment))


def last_line(errors: IO[bytes], status: int | None) -> str:
    """What a program said last before it ended."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {status}"


def _command(path: Path, format: str, size: tuple[int, int], fps: int, comment: str) -> list[str]:
    encoder, ending = ENCODERS[format], FORMATS[format].ending
    return [
        ffmpeg.program(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[1]}x{size[0]}", "-r", str(fps), "-i", "pipe:", "-an",
        *(["-vf", encoder.filters] if encoder.filters else []),
        "-c:v", encoder.name, *encoder.settings, "-pix_fmt", encoder.pixels,
        # without the random numbers of Matroska and the version of ffmpeg
        "-fflags", "+bitexact",
        *(["-metadata", f"comment={comment}"] if comment else []),
        *(["-movflags", "+faststart"] if ending == ".mp4" else []),
        "-f", _MUXERS[ending], f"file:{path.absolute()}",
    ]  # fmt: skip


def _run_on(command: list[str], input: Iterable[Pixels], errors: IO[bytes]) -> int:
    """The exit status of a program that is fed `input` as it comes; what it complains of goes to a file, as a pipe
    that nobody reads would stop it. It is ended where making the input raises."""
    program = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors
    )
    assert program.stdin is not None
    try:
        for data in input:
            try:
                program.stdin.write(data)
            except BrokenPipeError:  # it is gone, and its log or its status says why
                break
    except BaseException:  # whatever stops the input, also a key: its file must not look whole
        program.kill()
        raise
    finally:
        with suppress(BrokenPipeError):
            program.stdin.close()
        program.wait()
    return program.returncode


def with_comment(gif: bytes, comment: str) -> bytes:
    """A GIF that was made here with a comment, in place of one that it has: after the block that makes it loop, which
    ffmpeg writes before the first frame; its own metadata do not go into a GIF."""
    data = comment.encode()
    pieces = [data[start : start + 255] for start in range(0, len(data), 255)]
    block = b"\x21\xfe" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    end = gif.index(b"\x21\xff\x0bNETSCAPE2.0") + 19
    after = end
    if gif[end : end + 2] == b"\x21\xfe":
        after += 2
        while gif[after]:
            after += 1 + gif[after]
        after += 1
    return gif[:end] + block + gif[after:]


def _has_webp() -> bool:
    from PIL import features

    return bool(features.check("webp"))


def _check_webp(name: str) -> None:
    if not _has_webp():
        raise ComponentError(
            f"this Pillow has no WebP, which writes {name}; `pip install --force-reinstall pillow` brings one, or "
            f"take another output.format: {', '.join(writable())}"
        )


def _encode_webp(
    path: Path, pixels: Iterable[Pixels], *, size: tuple[int, int], fps: int, comment: str
) -> None:
    """ffmpeg would write no metadata into it."""
    from PIL import ExifTags, Image

    height, width = size
    num_bytes = height * width * 3
    frames = [
        Image.frombytes("RGB", (width, height), data[start : start + num_bytes])
        for data in pixels
        for start in range(0, len(data), num_bytes)
    ]
    exif = Image.Exif()
    if comment:
        exif[ExifTags.Base.ImageDescription] = comment.encode()
    try:
        frames[0].save(
            path,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=1000 / fps,
            loop=0,
            quality=_WEBP_QUALITY,
            exif=exif,
        )
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"Pillow could not encode the video: {error}") from error
