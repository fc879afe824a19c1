"""What kind of file a video is, by its first bytes. Torch-free."""

from __future__ import annotations

HEAD_BYTES = 16


def container_of(head: bytes) -> str:
    """mp4, matroska (WebM too), gif or webp; "" for what is none. head: the first HEAD_BYTES of a file, or more."""
    if head[4:8] == b"ftyp":  # the first box of every mp4
        return "mp4"
    if head[:4] == b"\x1a\x45\xdf\xa3":  # EBML
        return "matroska"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else ""
