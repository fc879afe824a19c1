"""Videos by their first bytes."""

from __future__ import annotations

import pytest

from store.blobs.videos import HEAD_BYTES, container_of


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "mp4"),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81", "matroska"),
        (b"GIF89a\x40\0\x40\0\xf7\0\0\0\0\0", "gif"),
        (b"RIFF\x10\0\0\0WEBPVP8X", "webp"),
        (b"RIFF\x10\0\0\0WAVEfmt ", ""),
        (b"#!/bin/sh\necho\n\n", ""),
        (b"GIF8", ""),
        (b"", ""),
    ],
)
def test_a_container_is_told_by_its_first_bytes(head: bytes, container: str) -> None:
    assert len(head) <= HEAD_BYTES
    assert container_of(head) == container
