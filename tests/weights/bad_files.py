"""Files that are no weights, half of them, or made to do harm: how each is made, and what its refusal says.

Made for real in a folder that the caller gives; what runs when a pickle is loaded touches `canary` in it.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.checkpoints.formats.gguf_file import MAX_KEYS, MAX_TEXTS
from engine.checkpoints.formats.safetensors_file import MAX_HEADER_BYTES
from engine.checkpoints.formats.state_dict_pickle import MAX_OPCODES
from engine.checkpoints.formats.table import MAX_TENSORS
from engine.checkpoints.formats.zip_directory import MAX_MEMBERS


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- safetensors ------------------------------------------------------------------------------------------------


def safetensors_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def truncated_safetensors(kept: Callable[[int], int]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "model.safetensors"
        save_file({"a": torch.ones(500), "b": torch.ones(500)}, path)
        os.truncate(path, kept(path.stat().st_size))
        return path

    return make


def bomb(start: bytes, filling: bytes, end: bytes = b"") -> Callable[[Path], Path]:
    """A header of the longest allowed length."""
    count = (MAX_HEADER_BYTES - len(start) - len(end)) // len(filling)
    return lambda folder: written(
        folder, "bomb.safetensors", safetensors_of(start + filling * count + end)
    )


def many_tensors(count: int, last: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        entry = b'"%d":{"dtype":"I8","shape":[1],"data_offsets":[%d,%d]}'
        header = b"{" + b",".join(entry % (n, n, n + 1) for n in range(count)) + last + b"}"
        return written(folder, "many.safetensors", safetensors_of(header, bytes(count)))

    return make


SAFETENSORS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one byte": (truncated_safetensors(lambda size: 1), "download it again"),
    "half a length": (truncated_safetensors(lambda size: 5), "download it again"),
    "only a length": (truncated_safetensors(lambda size: 8), "download it again"),
    "half a header": (truncated_safetensors(lambda size: 60), "truncated .* download it again"),
    "half of the data": (
        truncated_safetensors(lambda size: size // 2),
        r"it has 2,\d\d\d of 4,\d\d\d bytes; download",
    ),
    "all but one byte": (
        truncated_safetensors(lambda size: size - 1),
        r"truncated, it has .* of .* bytes",
    ),
    "one byte more": (
        lambda folder: written(folder, "more.safetensors", safetensors_of(b"{}", b"x")),
        "1 bytes follow the last tensor",
    ),
    "a header of half a tebibyte": (
        lambda folder: written(
            folder, "x.safetensors", struct.pack("<Q", 1 << 39) + b"{" + bytes(100)
        ),
        "a header of 549,755,813,888 bytes in a file of",
    ),
    "nested lists": (bomb(b'{"a":', b"["), "damaged safetensors header"),
    "nested tables": (bomb(b"", b'{"a":'), "damaged safetensors header"),
    "a list of numbers": (bomb(b'{"a":[', b"1,", b"1]}"), "more values than its tensors need"),
    "a list of lists": (bomb(b'{"a":[', b"[],", b"[]]}"), "more values than its tensors need"),
    "a list of tables": (bomb(b'{"a":[', b"{},", b"{}]}"), "more than .* entries"),
    "one number": (bomb(b'{"a":', b"9", b"}"), "a number of 4,194,298 digits"),
    "long numbers": (bomb(b'{"a":[', b"9" * 4000 + b",", b"1]}"), "a number of 4,000 digits"),
    "a long fraction": (bomb(b'{"a":0.', b"9", b"}"), "damaged safetensors header"),
    "a large exponent": (bomb(b'{"a":1e', b"9", b"}"), "damaged safetensors header"),
    "a long name": (
        bomb(b'{"', b"n", b'":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
        "a name of more than",
    ),
    "a wide name": (
        bomb(b'{"', "🎬".encode(), b'":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
        "a name of more than",
    ),
    "an endless name": (bomb(b'{"', b"n"), "damaged safetensors header"),
    "spaces": (bomb(b"{", b" "), "damaged safetensors header"),
    "too many tensors": (
        many_tensors(MAX_TENSORS + 3),
        "expected at most|more than .* entries|tensors need",
    ),
    "many tensors, the last one bad": (
        many_tensors(10_000, b',"x":{}'),
        "damaged safetensors header",
    ),
}

# --- torch ------------------------------------------------------------------------------------------------------


class Payload:
    """What it names is called by whoever loads the pickle."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def archive_of(members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def torch_members() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(500), "b": torch.ones(500)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def pth(
    change: Callable[[bytes], bytes] = lambda content: content, **members: bytes
) -> Callable[[Path], Path]:
    """A torch archive with further members, then with other bytes."""

    def make(folder: Path) -> Path:
        further = {
            name.replace("__", "/").replace("_", "."): content for name, content in members.items()
        }
        return written(folder, "model.pth", change(archive_of({**torch_members(), **further})))

    return make


def pickled(data: bytes) -> Callable[[Path], Path]:
    return pth(archive__data_pkl=data)


def with_payload(folder: Path) -> Path:
    return pickled(pickle.dumps({"a": Payload(folder / "canary")}, protocol=2))(folder)


def with_members(names: list[str], packing: int = zipfile.ZIP_STORED) -> Callable[[Path], Path]:
    return lambda folder: written(
        folder, "model.pth", archive_of({**torch_members(), **dict.fromkeys(names, b"x")}, packing)
    )


def twice(folder: Path) -> Path:
    path = pth()(folder)
    with zipfile.ZipFile(path, "a") as archive:
        name = archive.namelist()[0]
        archive.fp.seek(archive.start_dir)  # type: ignore[union-attr]
        archive.NameToInfo.pop(name)
        archive.writestr(name, b"\x80\x02}.")
    return path


def flagged(content: bytes) -> bytes:
    """The encryption flag of every member, in the directory and in front of the data."""
    content = re.sub(rb"(?s)(PK\x03\x04..)..", lambda match: match[1] + b"\x01\x00", content)
    return re.sub(rb"(?s)(PK\x01\x02....)..", lambda match: match[1] + b"\x01\x00", content)


def end_record(count: int, length: int, start: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, length, start, 0)


def without_local_header(content: bytes) -> bytes:
    place = content.index(b"archive/data/0") - 30
    return content[:place] + b"PK\x03\x05" + content[place + 4 :]


TORCH: dict[str, tuple[Callable[[Path], Path], str]] = {
    "its start": (pth(lambda content: content[:4]), "truncated; download it again"),
    "half of it": (
        pth(lambda content: content[: len(content) // 2]),
        r"a zip archive without its end .* truncated",
    ),
    "all but one byte": (pth(lambda content: content[:-1]), "a zip archive without its end"),
    "one byte more": (pth(lambda content: content + b"x"), "a zip archive without its end"),
    "a hole in the middle": (
        pth(lambda content: content[:200] + content[300:]),
        "contradict each other",
    ),
    "os.system": (
        with_payload,
        r"it holds code \((posix|nt)\.system\), which is never run; convert it to safetensors",
    ),
    "a member twice": (twice, "the member archive/data.pkl is there twice"),
    "compressed members": (
        with_members([], zipfile.ZIP_DEFLATED),
        r"the member archive/\S+ is compressed",
    ),
    "encrypted members": (pth(flagged), r"the member archive/\S+ is encrypted"),
    "a way out": (
        with_members(["archive/../../etc/passwd"]),
        r"a member has the name 'archive/\.\./\.\./etc/passwd'",
    ),
    "another way out": (with_members(["/etc/passwd"]), "a member has the name '/etc/passwd'"),
    "a back slash": (with_members(["archive\\x"]), r"a member has the name"),
    "a name with an escape": (
        with_members(["archive/\x1b[2J"]),
        r"a member has the name 'archive/\\x1b\[2J'",
    ),
    "two pickles": (with_members(["other/data.pkl"]), "2 members are called data.pkl"),
    "too many members": (
        with_members([f"archive/data/{n}" for n in range(2, MAX_MEMBERS)]),
        "expected at most 16,384",
    ),
    "a directory of four gibibytes": (
        lambda folder: written(
            folder, "x.pth", b"PK\x03\x04" + bytes(100) + end_record(65535, 0xFFFFFFF0, 8)
        ),
        "damaged torch archive",
    ),
    "a directory of nothing": (
        lambda folder: written(
            folder, "x.pth", b"PK\x03\x04" + bytes(460) + end_record(10, 460, 4)
        ),
        "bytes that are no member",
    ),
    "no local header": (
        pth(without_local_header),
        "the member archive/data/0 is not where the directory says",
    ),
    "numbers that are not there": (
        lambda folder: written(
            folder,
            "x.pth",
            archive_of({name: b for name, b in torch_members().items() if not name.endswith("/1")}),
        ),
        "the numbers of b are not in it",
    ),
    "numbers that are too few": (
        pth(archive__data__0=b"1234"),
        "the storage of a has 4 bytes, which is not",
    ),
    "a pickle that is too long": (
        pickled(bytes((4 << 20) + 1)),
        "data.pkl has 4,194,305 bytes, expected at most",
    ),
    "no end": (pickled(b"\x80\x02}q\x00"), "damaged torch archive"),
    "nothing": (pickled(b""), "damaged torch archive"),
    "an empty stack": (pickled(b"\x80\x020000."), "it holds code"),
    "opcodes that make no sense": (pickled(b"\x80\x02uuuu."), "opcodes that make no sense"),
    "endless opcodes": (
        pickled(b"\x80\x02" + b"N" * ((4 << 20) - 100) + b"."),
        f"more than {MAX_OPCODES:,} opcodes",
    ),
    "nested tuples": (
        pickled(b"\x80\x02)" + b"\x85" * (MAX_OPCODES - 10) + b"."),
        "expected a dict of tensors",
    ),
    "nested dicts": (
        pickled(b"\x80\x02" + b"}X\x01\0\0\0a" * 26_000 + b"}" + b"s" * 26_000 + b"."),
        "no tensors in it",
    ),
    "marks": (pickled(b"\x80\x02" + b"(" * (MAX_OPCODES - 10) + b"."), "damaged torch archive"),
    "a billion laughs": (
        pickled(
            b"\x80\x02)q\x00"
            + b"".join(b"(" + b"h\x00" * 10 + b"tq\x00" for _ in range(6_000))
            + b"."
        ),
        "expected a dict of tensors",
    ),
    "colliding keys": (
        pickled(
            b"\x80\x02}("
            + b"".join(
                b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(39_000)
            )
            + b"u."
        ),
        "no tensors in it",
    ),
    "a long number": (
        pickled(b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b"."),
        "it holds",
    ),
    "a number in digits": (
        pickled(b"\x80\x02I" + b"9" * ((4 << 20) - 100) + b"\n."),
        "damaged torch archive",
    ),
    "a text of four gibibytes": (
        pickled(b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"."),
        "damaged torch",
    ),
    "a place of four billion": (pickled(b"\x80\x02}r\xff\xff\xff\xff."), "no tensors in it"),
    "itself": (pickled(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."), "no tensors in it"),
    "an extension": (pickled(b"\x80\x02\x82\x01."), "it holds code .the opcode EXT1"),
}

# --- GGUF -------------------------------------------------------------------------------------------------------


def gguf(
    *numbers: int,
    content: bytes = b"",
    repeated: Callable[[int], bytes] = lambda n: b"",
    times: int = 0,
) -> Callable[[Path], Path]:
    """version, number of tensors, number of keys, then what stands behind them."""

    def make(folder: Path) -> Path:
        start = b"GGUF" + struct.pack("<IQQ", *numbers) + content
        return written(folder, "model.gguf", start + b"".join(map(repeated, range(times))))

    return make


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def sparse_gguf(content: bytes, *numbers: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = gguf(*numbers, content=content)(folder)
        os.truncate(path, 16 << 30)
        return path

    return make


ARRAY = text(b"a") + struct.pack("<I", 9)
GGUF: dict[str, tuple[Callable[[Path], Path], str]] = {
    "only its name": (
        lambda folder: written(folder, "x.gguf", b"GGUF"),
        "truncated in its header, it has 4 bytes",
    ),
    "no tensors after all": (gguf(3, 1, 0), "truncated in its header"),
    "tensors without end": (gguf(3, 1 << 63, 0), "tensors, expected at most"),
    "as many as allowed": (gguf(3, MAX_TENSORS, 0), "truncated in its header"),
    "keys without end": (gguf(3, 0, (1 << 64) - 1), "metadata keys, expected at most"),
    "a name without end": (
        gguf(3, 1, 0, content=struct.pack("<Q", (1 << 64) - 1)),
        "a name of .* bytes, expected",
    ),
    "a text without end": (
        gguf(3, 0, 1, content=text(b"a") + struct.pack("<IQ", 8, 1 << 63)),
        "truncated in its",
    ),
    "an array without end": (
        gguf(3, 0, 1, content=ARRAY + struct.pack("<IQ", 4, 1 << 63)),
        "truncated in its header",
    ),
    "texts without end": (
        gguf(3, 0, 1, content=ARRAY + struct.pack("<IQ", 8, 1 << 63)),
        "texts, expected at most",
    ),
    "as many texts as allowed": (
        sparse_gguf(ARRAY + struct.pack("<IQ", 8, MAX_TEXTS), 3, 0, 2),
        "a tensor has the name",
    ),
    "arrays in arrays": (
        gguf(3, 0, 1, content=ARRAY + struct.pack("<IQ", 9, 1 << 63)),
        "of the unknown kind 9",
    ),
    "a long array": (
        sparse_gguf(ARRAY + struct.pack("<IQ", 4, 1 << 30), 3, 0, 1),
        "more than 33,554,432 bytes",
    ),
    "a long text": (
        sparse_gguf(text(b"a") + struct.pack("<IQ", 8, 1 << 32), 3, 0, 1),
        "more than 33,554,432 bytes",
    ),
    "long texts": (
        gguf(
            3,
            0,
            513,
            repeated=lambda n: text(b"%d" % n) + b"\x08\0\0\0" + text(bytes(65536)),
            times=512,
        ),
        "more than 33,554,432 bytes",
    ),
    "as many keys as allowed, the last one twice": (
        gguf(
            3,
            0,
            MAX_KEYS,
            repeated=lambda n: text(b"%d" % (n % (MAX_KEYS - 1))) + b"\0\0\0\0\1",
            times=MAX_KEYS,
        ),
        "the key 0 is there twice",
    ),
    "many tensors, the last one twice": (
        gguf(
            3,
            10_000,
            0,
            repeated=lambda n: text(b"%d" % (n % 9_999)) + struct.pack("<IIQ", 0, 0, 32 * n),
            times=10_000,
        ),
        "0 is there twice",
    ),
    "axes without end": (
        gguf(3, 1, 0, content=text(b"w") + b"\xff\xff\xff\xff"),
        "w has 4,294,967,295 axes",
    ),
    "more numbers than exist": (
        gguf(3, 1, 0, content=text(b"w") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0)),
        "truncated, it has",
    ),
    "a place that does not exist": (
        gguf(3, 1, 0, content=text(b"w") + struct.pack("<IQIQ", 1, 1, 0, (1 << 64) - 1)),
        "truncated, it has",
    ),
}

# --- other files ------------------------------------------------------------------------------------------------


def bare_payload(folder: Path) -> Path:
    return written(folder, "model.pth", pickle.dumps(Payload(folder / "canary"), protocol=2))


def legacy_payload(folder: Path) -> Path:
    path = folder / "model.pt"
    torch.save(Payload(folder / "canary"), path, _use_new_zipfile_serialization=False)
    return path


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.safetensors")
    return folder / "model.safetensors"


def listening(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(
            os.path.relpath(folder / "s")
        )  # the name of a socket has at most a hundred bytes
    return folder / "s"


def folder_of(folder: Path) -> Path:
    (folder / "model.safetensors").mkdir()
    return folder / "model.safetensors"


def link_to(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").symlink_to(target)
        return folder / "model.safetensors"

    return make


def sparse_zeros(folder: Path) -> Path:
    path = written(folder, "model.safetensors", b"")
    os.truncate(path, 16 << 30)
    return path


OTHER: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "nothing.safetensors", "no such file; check the path"),
    "below a file": (
        lambda folder: written(folder, "a", b"x") / "model.safetensors",
        "no such file",
    ),
    "a folder": (folder_of, "a folder, expected a weight file; name a file inside it"),
    "a pipe": (pipe, "a pipe, expected a weight file"),
    "a socket": (listening, "a socket, expected a weight file"),
    "a device": (lambda folder: Path("/dev/zero"), "a device, expected a weight file"),
    "a link to nothing": (
        link_to("/nowhere/model"),
        "a link to /nowhere/model, where nothing is; correct the link",
    ),
    "a link to itself": (link_to("model.safetensors"), "cannot be read .*symbolic links"),
    "a name that is too long": (lambda folder: folder / ("n" * 300), "cannot be read"),
    "zeros for sixteen gigabytes": (sparse_zeros, "begins with nothing but zeros"),
    "nothing in it": (lambda folder: written(folder, "x.safetensors", b""), "an empty file"),
    "a pickle that runs a program": (
        bare_payload,
        "a bare pickle, which can hold code and is never run; convert it",
    ),
    "an old pickle that runs a program": (legacy_payload, "of torch before 1.6, a bare pickle"),
    "a Git LFS pointer": (
        lambda folder: written(
            folder, "x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
        ),
        "Git LFS pointer",
    ),
    "a web page": (
        lambda folder: written(folder, "x.gguf", b"<!DOCTYPE html>"),
        "a web page, not weights",
    ),
    "half of a download": (
        lambda folder: written(folder, "model.safetensors.part", safetensors_of(b"{}")),
        r"a half-finished download \(\.part\)",
    ),
}

CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("safetensors", SAFETENSORS),
        ("torch", TORCH),
        ("GGUF", GGUF),
        ("other", OTHER),
    )
    for name, case in cases.items()
}
