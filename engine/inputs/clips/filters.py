"""How ffmpeg is asked for the frames of a video: turned, in RGB of BT.709, of the size of a run. Torch-free."""

from __future__ import annotations

from pathlib import Path

from engine.inputs.clips.stream import (
    ALPHA_DECODERS,
    HDR,
    Stream,
    input_arguments,
    refused,
)
from engine.inputs.sizes import covering as covering_of
from engine.output import ffmpeg

MAX_SIDE = 16384
_SCALING = "bicubic+accurate_rnd+full_chroma_int"
_RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2", "pal8", "gray", "ya", "mono")
# white of paper is at 203 of the 1000 cd/m² that the brightest parts have (ITU-R BT.2408)
_WHITE, _PEAK = 203, 1000 / 203


def command_of(path: Path, container: str, stream: Stream, filters: list[str]) -> list[str]:
    decoder = []
    if stream.hidden_alpha and stream.codec in ALPHA_DECODERS:
        decoder = ["-c:v", ALPHA_DECODERS[stream.codec]]
    return [
        ffmpeg.program(), "-hide_banner", "-loglevel", "level+info", "-nostats", "-nostdin", *decoder,
        *input_arguments(path, container), "-map", f"0:{stream.number}", "-fps_mode", "passthrough",
        "-vf", ",".join(filters), "-enc_time_base", "1/1000",
        "-pix_fmt", "rgb24", "-c:v", "rawvideo", "-f", "rawvideo", "pipe:1",
    ]  # fmt: skip


def filters_of(path: Path, stream: Stream, size: tuple[int, int], fit: str, key: str) -> list[str]:
    """Times are told first, of every frame. Raises InputError where a frame would become too large on the way."""
    width, height = size
    covering = size if fit == "stretch" else covering_of(stream.shown, size)
    if max(covering) > MAX_SIDE:
        shown = "x".join(map(str, stream.shown))
        raise refused(
            path, f"is {shown}, too long for {width}x{height}; crop it first, or stretch it", key
        )
    to_rgb = f"flags={_SCALING}{_matrix(stream)}"
    # what comes out is counted, as equal times would be complained of
    filters = ["showinfo=checksum=0", "settb=1/1000", "setpts=N"]
    if stream.has_alpha:
        # of 8 bits it would not leave alone what is opaque
        filters += [f"scale={to_rgb}", "format=gbrap16le", "premultiply=inplace=1"]
        to_rgb = f"flags={_SCALING}"
    if stream.is_wide:
        filters += _to_bt709(stream)
        to_rgb = f"flags={_SCALING}"
    filters.append(f"scale={covering[0]}:{covering[1]}:{to_rgb}")
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return [*filters, "format=rgb24", f"crop={width}:{height}:{left}:{top}"]


def _matrix(stream: Stream) -> str:
    """How YUV is told to become RGB where the video does not say so itself: by its size, as players do."""
    if stream.colours[0] not in ("unknown", "reserved") or stream.pixels.startswith(_RGB):
        return ""
    if stream.is_wide:
        return ":in_color_matrix=bt2020"
    is_high = stream.size[0] >= 1280 or stream.size[1] > 576
    return f":in_color_matrix={'bt709' if is_high and stream.codec != 'mjpeg' else 'bt601'}"


def _to_bt709(stream: Stream) -> list[str]:
    """To RGB of BT.709, HDR through linear light. What was transparent is RGB before."""
    matrix, primaries, transfer = stream.colours
    is_rgb = stream.has_alpha or stream.pixels.startswith(_RGB)
    known = [
        *(["min=bt2020nc"] if matrix == "unknown" and not is_rgb else []),
        *(["pin=bt2020"] if primaries == "unknown" else []),
        *(["tin=bt709"] if transfer == "unknown" else []),
    ]
    start = [f"scale=flags={_SCALING}", "format=gbrp16le" if is_rgb else "format=yuv444p10le"]
    if transfer not in HDR:
        return [*start, ":".join(["zscale=m=gbr:p=bt709:t=bt709:r=full", *known]), "format=gbrp"]
    return [
        *start,
        ":".join([f"zscale=t=linear:npl={_WHITE}", *known]),
        "format=gbrpf32le",
        "zscale=p=bt709",
        f"tonemap=mobius:peak={_PEAK:.4f}:desat=0",
        "zscale=t=bt709:r=full",
        "format=gbrp",
    ]
