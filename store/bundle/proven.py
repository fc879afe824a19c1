"""Links of a bundle that need no trust, because anybody can see that they hold: pictures, which their keys name by the
digest of their pixels. Torch-free."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING

from store.blobs.blobs import blob_path
from store.bundle.strict import strict_object
from store.keys import derive_key

if TYPE_CHECKING:
    from pathlib import Path

    from store.bundle.manifest import LinkRow, Manifest

_KIND = "picture"
_PIECE_BYTES = 1 << 20


def proven(root: Path, manifest: Manifest) -> tuple[LinkRow, ...]:
    """The links whose results, which the store has by now, are what their keys say."""
    return tuple(link for link in manifest.links if _is_picture(link) and _holds(root, link))


def _is_picture(link: LinkRow) -> bool:
    """Whether the key is that of a picture with the pixels that its facts name, and says nothing else."""
    if link.kind != _KIND or not link.digest or link.state or link.latents:
        return False
    facts = json.loads(link.facts)
    return (
        set(facts) == {"version", "params", "inputs"}
        and facts["inputs"] == {}
        and type(facts["params"]) is dict
        and set(facts["params"]) == {"pixels"}
        and derive_key(_KIND, facts) == link.key
    )


def _holds(root: Path, link: LinkRow) -> bool:
    if not blob_path(root, link.digest).is_file():  # none that a run saw
        return False
    with blob_path(root, link.digest).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = strict_object(file.read(length).decode(), "the header of a picture")
        about = header.pop("pixels", None)
        if header or about is None or about["dtype"] != "U8" or len(about["shape"]) != 3:
            return False
        height, width, channels = about["shape"]
        hashed = hashlib.sha256(struct.pack("<QQ", width, height))
        while piece := file.read(_PIECE_BYTES):
            hashed.update(piece)
    pixels = json.loads(link.facts)["params"]["pixels"]
    return bool(channels == 3 and pixels == f"sha256:{hashed.hexdigest()}")
