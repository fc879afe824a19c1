"""What kind of picture a file is, by its first bytes, and what else it is where it is none that is read. Torch-free."""

from __future__ import annotations

import re

from engine.inputs.refusal import Refusal
from store.blobs.videos import container_of

HEAD_BYTES = 512


_READ = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_RAW = "a photo as the camera's sensor saw it"
_PICTURES = (
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DDS texture"),
    (b"\0\0\1\0", "an icon"),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIU\0", _RAW),
    (b"%PDF", "a PDF"),
    (b"%!PS", "a PostScript file"),
)
_OTHERS = (
    (b"GGUF", "a file of weights (GGUF)"),
    (b"PK\x03\x04", "a zip archive, or weights of torch"),
    (b"\x1f\x8b", "a compressed file (gzip)"),
    (b"7z\xbc\xaf", "an archive (7z)"),
    (b"SQLite format 3\0", "a database (SQLite)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
_VIDEOS = (b"FLV\x01", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_PNM = re.compile(rb"P[1-6][\s#]|P[Ff]\n|P7\n|Pf\n")


def format_of(head: bytes) -> str:
    """The name by which Pillow knows a picture's format. head: the first HEAD_BYTES of a file.

    Raises Refusal for everything that is not read.
    """
    for mark, format in _READ:
        if head.startswith(mark):
            return _not_raw(head, format)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _of_boxes(head)
    if _PNM.match(head):
        return "PPM"
    raise Refusal(_otherwise(head))


def _not_raw(head: bytes, format: str) -> str:
    if format == "TIFF" and head[8:10] == b"CR":  # Canon's, of which Pillow reads the preview
        raise Refusal(_as_picture(_RAW))
    return format


def _of_boxes(head: bytes) -> str:
    """Of what begins like an mp4: pictures by AV1 and HEVC do, too."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[place : place + 4] for place in range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return _avif()
    if head[8:12] == b"crx ":
        raise Refusal(_as_picture(_RAW))
    if brands & _HEIF:
        raise Refusal(_as_picture("a HEIC picture"))
    raise Refusal(_as_video())


def _avif() -> str:
    from PIL import features

    if "avif" in features.modules and features.check("avif"):
        return "AVIF"
    raise Refusal(
        "is an AVIF picture, which the Pillow at hand does not read; save it as PNG, or install Pillow 11.3 or later"
    )


def _otherwise(head: bytes) -> str:
    for mark, what in _PICTURES:
        if head.startswith(mark):
            return _as_picture(what)
    is_video = head.startswith(_VIDEOS) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
    if is_video or container_of(head) or (head[:1] == b"\x47" and head[188:189] == b"\x47"):
        return _as_video()
    what = next((what for mark, what in _OTHERS if head.startswith(mark)), "")
    if not what and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 30:
        what = "a file of weights (safetensors)"
    if not what and b"<svg" in head:
        return _as_picture("a drawing (SVG)")
    if not what and _is_text(head):
        what = "text"
    what = what or "no picture that is known"
    return f"is {what}, expected JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM; name a picture"


def _as_picture(what: str) -> str:
    return f"is {what}, which is not read; save it as PNG or JPEG"


def _as_video() -> str:
    return (
        "is a video, expected a picture; give it as the video to begin from (video.path), or a frame "
        "of it saved as PNG"
    )


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore" if len(head) == HEAD_BYTES else "replace")
    return bool(text) and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text)
