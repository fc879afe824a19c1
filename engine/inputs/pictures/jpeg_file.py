"""Whether a JPEG is whole. Torch-free.

Where its data end too early, libjpeg goes on in grey, with a warning that Pillow does not pass on.
"""

from __future__ import annotations

import io
import re
from typing import IO

from PIL import Image, ImageChops

from engine.inputs.refusal import damaged

# Each scan goes over the whole picture; cameras and programs write ten.
MAX_SCANS = 64
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END, _SCAN, _ALONE = 0xD9, 0xDA, (0x01, 0xD8)
# Not what anybody's pixels go on with.
_OTHER_DATA = bytes((7 * i * i + 31 * i) % 254 + 1 for i in range(64))


def whole_jpeg(file: IO[bytes]) -> io.BytesIO:
    """A JPEG that has an end and no more scans than it may. Raises Refusal."""
    file.seek(0)
    data = file.read()
    _end_of_jpeg(data)
    return io.BytesIO(data)


def _end_of_jpeg(data: bytes) -> int:
    """Where the marker is that ends the (first) picture. Raises Refusal."""
    place = num_scans = 0
    while found := _MARKER.search(data, place):
        code, place = found[1][0], found.end()
        if code == _END:
            return found.start()
        if code in _ALONE:
            continue
        num_scans += code == _SCAN
        if num_scans > MAX_SCANS:
            raise damaged("JPEG", f"more than {MAX_SCANS} scans")
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
    raise damaged("JPEG", "truncated")


def check_all_decoded(image: Image.Image, file: io.BytesIO) -> None:
    """Raises Refusal where pixels would be others with other data before the end: those are made up.

    A sequential JPEG shows it by its last pixel, which is grey then; a progressive one is only less sharp.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    is_grey = all(value in (127, 128) for value in (last if isinstance(last, tuple) else (last,)))
    if not is_grey and not image.info.get("progressive"):
        return
    data = file.getvalue()
    end = _end_of_jpeg(data)
    longer = io.BytesIO(data[:end] + _OTHER_DATA + data[end:])
    with Image.open(longer, formats=["JPEG"]) as other:
        other.load()
        if ImageChops.difference(image, other).getbbox(alpha_only=False):
            raise damaged("JPEG", "truncated")
