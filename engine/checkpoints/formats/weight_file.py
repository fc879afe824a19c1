"""Any weight file, told apart by its first bytes, never by its name; and what is none, called by what it is.

Torch-free. Nothing but the directory of a file is read, so that a file of 30 GB costs no more than a small one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from engine.checkpoints.formats.gguf_file import read_gguf
from engine.checkpoints.formats.pth_file import read_pth
from engine.checkpoints.formats.reading import opened, refusal, shortened
from engine.checkpoints.formats.safetensors_file import read_safetensors
from engine.checkpoints.formats.table import WeightFile

# What browsers and download managers call a file until it is whole: Firefox, huggingface_hub, Chrome, Safari, Opera,
# aria2, curl and wget wrappers, JDownloader, uTorrent, qBittorrent, BitComet, Thunder, FileZilla.
UNFINISHED = (
    ".part", ".partial", ".incomplete", ".crdownload", ".download", ".opdownload", ".aria2", ".tmp", ".temp",
    ".!ut", ".!qb", ".bc!", ".td", ".xltd", ".filepart",
)  # fmt: skip
# What lies beside a file, under its name and this, while one of them reserves its whole length and fills it.
SIDECARS = (".aria2", ".st", ".xltd.cfg", ".td.cfg")

_HEAD_BYTES = 512
_TORCH_BEFORE_1_6 = (
    b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the number that its pickles begin with
)
_READ = "a weight file that modiff reads (safetensors, .pth, GGUF)"
_PACKED = {
    b"\x1f\x8b": "gzip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x05\x06": "zip (empty)",
}  # fmt: skip


def read_weight_file(path: Path) -> WeightFile:
    """The directory of a safetensors, torch (.pth) or GGUF file.

    Raises CheckpointError, in one line with what to do, where it cannot be read, is none of these, or is
    damaged. Nothing in the file is run, and no memory is taken by what it says about itself.
    """
    with opened(path) as (file, facts):
        head = file.read(_HEAD_BYTES)
    ending = next((ending for ending in UNFINISHED if path.name.lower().endswith(ending)), None)
    if ending is not None:
        raise refusal(
            path, f"a half-finished download ({ending}); let it finish, or download it again"
        )
    for sidecar in sidecars(path):
        if os.path.lexists(sidecar):
            raise refusal(
                path, f"a half-finished download ({sidecar.name} lies beside it); let it finish"
            )
    read = _reader(head)
    if read is None:
        raise refusal(path, _in_words(head, facts.size))
    return read(path)


def sidecars(path: Path) -> list[Path]:
    """The files that lie beside a weight file while it is being downloaded by a manager that reserves its length."""
    return [path.with_name(path.name + ending) for ending in SIDECARS]


def _reader(head: bytes) -> Callable[[Path], WeightFile] | None:
    if head.startswith(b"GGUF"):
        return read_gguf
    if head.startswith(b"PK\x03\x04"):
        return read_pth
    # a header is shorter than 16 TiB, and text has no zero bytes: so a JSON text is no safetensors file
    if head[5:8] == b"\0\0\0" and head[8:].lstrip(b" \t\r\n").startswith(b"{"):
        return read_safetensors
    return None


def _in_words(head: bytes, size: int) -> str:
    """What a file is that begins with these bytes, and what to do."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not size:
        return "an empty file, expected weights; download it again"
    if not head.strip(b"\0"):
        return "begins with nothing but zeros, expected weights: a download that never arrived; download it again"
    if text.startswith(b"version https://git-lfs"):
        return (
            "a Git LFS pointer, not the weights themselves; run `git lfs pull` or download the file"
        )
    if text[:1] in (b"<", b"{", b"["):
        kind = "web page" if text[:1] == b"<" else "JSON text"
        return f"a {kind}, not weights: the download needs a login or failed; download it again"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickle_in_words(head)
    packed = next((kind for start, kind in _PACKED.items() if head.startswith(start)), None)
    if packed is None and head[257:262] == b"ustar":
        packed = "tar"
    if packed is not None:
        return f"a {packed} archive, expected weights; unpack it and name the file inside"
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg"):
        return "a ggml file from before GGUF; get a GGUF file of this model"
    if (
        head.isascii()
        and head.decode().replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable()
    ):
        return f"a text ({shortened(head.decode().strip())!r}), not {_READ}; download it again"
    return f"not {_READ}, or damaged from its first bytes; download it again"


def _pickle_in_words(head: bytes) -> str:
    if head[2:].startswith(_TORCH_BEFORE_1_6):
        return (
            "in the format of torch before 1.6, a bare pickle, which can hold code and is never run; "
            "convert it to safetensors where you trust it"
        )
    return "a bare pickle, which can hold code and is never run; convert it to safetensors where you trust it"
