"""What kind of file somebody gave as a video, by its first bytes: one reader of ffmpeg's is chosen, and no other is let
at it. Lists of other files (HLS, DASH, concat, playlists) are no videos here. Torch-free."""

from __future__ import annotations

HEAD_BYTES = 4096

DEMUXERS = {
    "mp4": "mov",
    "matroska": "matroska",
    "avi": "avi",
    "mpegts": "mpegts",
    "mpeg": "mpeg",
    "gif": "gif",
    "webp": "webp_anim",
    "flv": "flv",
    "ogg": "ogg",
    "y4m": "yuv4mpegpipe",
    "asf": "asf",
}
"""As they are called here -> as ffmpeg calls what reads them. mp4 is mov too, matroska is WebM too, asf is wmv."""

_KINDS = "mp4, mov, mkv, webm, avi, MPEG, gif, animated webp, flv, ogg, y4m, wmv"
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_PICTURE_BRANDS = (b"avif", b"heic", b"heix", b"heim", b"heis", b"mif1")
_PICTURES = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"8BPS",
    b"\0\0\1\0",
    b"\xff\x0a",
    b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",
)
_SOUNDS = (b"ID3", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"\xff\xf1", b"\xff\xf9")
_LISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<ASX", b"<asx", b"<MPD", b"<?xml", b"<smil")
# packets of 188 bytes; with a time before each, as cameras write them; with check bytes after each
_TRANSPORT = ((188, 0), (192, 4), (204, 0))


def container_of(head: bytes) -> str:
    """A name of DEMUXERS, "" for what is none of them. head: the first HEAD_BYTES of a file, or all of it."""
    if head[4:8] in _MP4_BOXES:
        return "" if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS else "mp4"
    if head[:4] == b"RIFF":
        # the flag of an animation, in the chunk that a still may lack
        animated = head[12:16] == b"VP8X" and bool(head[20:21]) and bool(head[20] & 2)
        webp = "webp" if animated else ""
        return {b"AVI ": "avi", b"WEBP": webp}.get(head[8:12], "")
    for start, name in (
        (b"\x1a\x45\xdf\xa3", "matroska"),
        (b"\0\0\1\xba", "mpeg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"FLV\1", "flv"),
        (b"OggS", "ogg"),
        (b"YUV4MPEG2 ", "y4m"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf"),
    ):
        if head.startswith(start):
            return name
    return "mpegts" if any(_is_transport(head, *each) for each in _TRANSPORT) else ""


def refusal(head: bytes) -> str:
    """What a file is that is no video, and what to do about it. head: as above."""
    if not head:
        return "is empty (0 bytes); give a video"
    if head.startswith(_PICTURES) or head[4:8] == b"ftyp" or head[8:12] == b"WEBP":
        return "is a picture; give it as the picture to begin from (image.path)"
    if head.startswith(_SOUNDS) or (head[:4] == b"RIFF" and head[8:12] == b"WAVE"):
        return "is sound without pictures; give a video"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS):
        return "is a list of other files, which are not opened; give the video itself"
    return (
        f"is no video of a kind that is read ({_KINDS}); give one, or convert it (`ffmpeg -i FILE "
        "clip.mp4`)"
    )


def _is_transport(head: bytes, packet: int, start: int) -> bool:
    marks = head[start::packet]
    return len(marks) > 2 and marks.count(0x47) == len(marks)
