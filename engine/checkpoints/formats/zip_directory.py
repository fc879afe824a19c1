"""The directory of a zip archive, and where the bytes of an unpacked member lie in it. Torch-free.

Stricter than zipfile, which reads a directory of any size and looks for it in trailing garbage. Nothing is
extracted; member names are only compared. The format: PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from engine.checkpoints.formats.reading import shortened

MAX_MEMBERS = 16_384  # a member holds the numbers of one tensor; published files have up to 1,331
MAX_DIRECTORY_BYTES = 4 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_EXTRA_64 = 1
_UTF_8 = 0x0800
_ENCRYPTED = 0x2041  # traditional, strong, and masked headers


@dataclass(frozen=True, slots=True)
class Member:
    """offset: of the local header that stands before its bytes. size: of its bytes in the file.

    encoded_name: as in the file. packing: `compressed` or `encrypted`, empty where its bytes lie as they are.
    """

    encoded_name: bytes
    offset: int
    size: int
    packing: str


def read_directory(file: BinaryIO, size: int) -> dict[str, Member]:
    """The members by name. Raises ValueError with the reason; EOFError where the archive has no end."""
    start, length, count = _find(file, size)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise ValueError(f"it names {count:,} members, expected at most {MAX_MEMBERS:,}")
    directory = _read(file, start, length)
    members: dict[str, Member] = {}
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > length:
            raise ValueError("its directory has fewer members than it says")
        signature, _, _, flags, method, _, _, _, packed, unpacked, *lengths, _, _, _, offset = (
            _ENTRY.unpack_from(directory, position)
        )
        if signature != b"PK\x01\x02":
            raise ValueError("its directory has bytes that are no member")
        name_end = position + _ENTRY.size + lengths[0]
        extra_end = name_end + lengths[1]
        encoded = directory[position + _ENTRY.size : name_end]
        name = encoded.decode("utf-8" if flags & _UTF_8 else "cp437")
        position = extra_end + lengths[2]
        if name in members:
            raise ValueError(f"the member {shortened(name)} is there twice")
        if 0xFFFFFFFF in (packed, unpacked, offset):
            unpacked, packed, offset = _wide(
                directory[name_end:extra_end], unpacked, packed, offset
            )
        if offset + _LOCAL.size + lengths[0] + packed > start:
            raise ValueError(f"the member {shortened(name)} ends after the archive")
        compressed = "compressed" if method != 0 or packed != unpacked else ""
        members[name] = Member(
            encoded, offset, packed, "encrypted" if flags & _ENCRYPTED else compressed
        )
    if position != length:
        raise ValueError("its directory has more bytes than its members")
    return members


def data_start(file: BinaryIO, member: Member, size: int) -> int:
    """Where the bytes of a member begin. size: of the archive. Raises ValueError where they are packed or not
    where the directory says."""
    name = shortened(member.encoded_name.decode(errors="replace"))
    if member.packing:
        raise ValueError(f"the member {name} is {member.packing}")
    header = _read(file, member.offset, _LOCAL.size + len(member.encoded_name))
    signature, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack_from(header)
    if signature != b"PK\x03\x04" or header[_LOCAL.size :] != member.encoded_name:
        raise ValueError(f"the member {name} is not where the directory says")
    if method != 0 or flags & _ENCRYPTED or name_length != len(member.encoded_name):
        raise ValueError(f"the member {name} is not what the directory says")
    start: int = member.offset + _LOCAL.size + name_length + extra_length
    if start + member.size > size:
        raise ValueError(f"the member {name} ends after the archive")
    return start


def _find(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(start, length, number of members) of the directory, which stands right before the end records."""
    tail_length = min(size, _END_64.size + _LOCATOR.size + _END.size)
    tail = _read(file, size - tail_length, tail_length)
    if tail[-_END.size :][:4] != b"PK\x05\x06" or len(tail) < _END.size:
        raise EOFError
    _, disk, first_disk, on_disk, count, length, start, comment = _END.unpack(tail[-_END.size :])
    before = size - _END.size
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator[:4] == b"PK\x06\x07":
        _, disk, before, num_disks = _LOCATOR.unpack(locator)
        if before != size - tail_length or num_disks > 1 or tail[:4] != b"PK\x06\x06":
            raise ValueError("its end records contradict each other")
        _, _, _, _, disk, first_disk, on_disk, count, length, start = _END_64.unpack(
            tail[: _END_64.size]
        )
    if disk or first_disk or comment or on_disk != count or start + length != before:
        raise ValueError("its end records contradict each other")
    return start, length, count


def _wide(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, those that did not fit 32 bits from the extra field, in which they have this order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        field = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind == _EXTRA_64:
            words = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            wide = [next(words, -1) if n == 0xFFFFFFFF else n for n in (unpacked, packed, offset)]
            if -1 in wide:
                break
            return wide[0], wide[1], wide[2]
    raise ValueError("a member of more than 4 GiB without its size")


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it became shorter while it was read")
    return data
