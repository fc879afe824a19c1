"""The file of a bundle: a zip of unpacked members, in the one layout in which there is no doubt.

Members stand one after the other from the first byte on, then the directory, then its end; local
headers and directory say the same. So nothing can overlap, hide or unpack to more than it is.
Written by zipfile; read without it, because it believes whatever it finds. Nothing is extracted.
The format: PKWARE's APPNOTE 6.3, sections 4.3, 4.4 and 4.5.3.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple

from store.blobs.files import SLICE_BYTES
from store.bundle.strict import BundleRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "manifest.json"
MAX_DIRECTORY_BYTES = 16 * 1024 * 1024

_NAME = re.compile(rb"manifest\.json|blobs/[0-9a-f]{64}")
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_IS_WIDE = 0xFFFFFFFF  # the number stands in the zip64 field
_IS_MANY = 0xFFFF
_UTF_8 = 0x0800  # the only flag that changes nothing for an ASCII name
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Member:
    """`size` bytes of the file from `start` on; crc32 is of them."""

    name: str
    start: int
    size: int
    crc32: int


class _Entry(NamedTuple):
    """What the directory says of a member whose local header is at `offset`."""

    encoded_name: bytes
    flags: int
    crc32: int
    size: int
    offset: int


def blob_name(digest: str) -> str:
    """The member that holds the blob of that digest."""
    return f"blobs/{digest.removeprefix('sha256:')}"


def new_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """An empty archive in an empty file that can be sought in; close it to write its directory."""
    return zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)


def add_member(archive: zipfile.ZipFile, name: str, data: bytes | bytearray) -> None:
    """Add a member; equal members make equal archives, at any time and on any system."""
    member = zipfile.ZipInfo(name, _EPOCH)
    member.create_system = 3
    member.external_attr = (stat.S_IFREG | 0o600) << 16
    archive.writestr(member, data)


def read_members(file: BinaryIO, size: int) -> dict[str, Member]:
    """The members by name of an archive of `size` bytes; raises BundleRefused."""
    start, length, count = _find_directory(file, size)
    if length > MAX_DIRECTORY_BYTES:
        raise BundleRefused(
            f"its directory has {length:,} bytes, expected at most {MAX_DIRECTORY_BYTES:,}"
        )
    directory = _read(file, start, length)
    entries: dict[bytes, _Entry] = {}
    position = 0
    for _ in range(count):
        entry, position = _entry(directory, position)
        if entry.encoded_name in entries:
            raise BundleRefused(f"the member {entry.encoded_name.decode()} is there twice")
        entries[entry.encoded_name] = entry
    if position != length:
        raise BundleRefused("its directory has more bytes than its members")
    members: dict[str, Member] = {}
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.offset):
        if entry.offset != end:
            raise BundleRefused("its members overlap or leave gaps")
        member = _member(file, entry)
        end = member.start + member.size
        members[member.name] = member
    if end != start:
        raise BundleRefused("it has bytes that belong to no member")
    return members


def read_slices(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The bytes of a member, a few MiB at a time; BundleRefused at the end if they are not its."""
    crc32 = 0
    for begin in range(0, member.size, SLICE_BYTES):
        data = _read(file, member.start + begin, min(SLICE_BYTES, member.size - begin))
        crc32 = zlib.crc32(data, crc32)
        yield data
    if crc32 != member.crc32:
        raise BundleRefused(f"the member {member.name} does not have the checksum that it says")


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(start, length, number of members) of the directory, which ends where its end begins."""
    tail_start = max(0, size - _END.size - _MAX_COMMENT)
    tail = _read(file, tail_start, size - tail_start)
    found = [match.start() for match in re.finditer(rb"PK\x05\x06", tail)]
    # A comment may hold what looks like an end: only one may reach to the end of the file.
    found = [
        at
        for at in found
        if at + _END.size <= len(tail)
        and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail)
    ]
    if not found:
        raise BundleRefused("it is no zip archive, or not all of one")
    if len(found) > 1:
        raise BundleRefused("it has more than one end")
    end = tail_start + found[0]
    _, disk, first_disk, on_disk, count, length, start, _ = _END.unpack_from(tail, found[0])
    if end >= _LOCATOR.size + _END_64.size:
        before = _read(file, end - _LOCATOR.size - _END_64.size, _LOCATOR.size + _END_64.size)
        signature, locator_disk, at, disks = _LOCATOR.unpack_from(before, _END_64.size)
        if signature == b"PK\x06\x07":
            end -= _LOCATOR.size + _END_64.size
            narrow = (on_disk, count, length, start)
            signature, num_bytes, _, _, disk_64, first_64, on_disk, count, length, start = (
                _END_64.unpack_from(before)
            )
            wide = (on_disk, count, length, start)
            limits = (_IS_MANY, _IS_MANY, _IS_WIDE, _IS_WIDE)
            if (
                signature != b"PK\x06\x06"
                or (at, num_bytes) != (end, _END_64.size - 12)
                or any((locator_disk, disk_64, first_64))
                or disks > 1
                or narrow != tuple(map(min, wide, limits))
            ):
                raise BundleRefused("its two ends say different things")
    if disk or first_disk or on_disk != count or start + length != end:
        raise BundleRefused("its end does not fit its directory")
    return start, length, count


def _entry(directory: bytes, position: int) -> tuple[_Entry, int]:
    """The member that the directory names at `position`, and where the next one is named."""
    if position + _ENTRY.size > len(directory):
        raise BundleRefused("its directory has fewer members than it says")
    signature, version, _, flags, method, _, _, crc32, packed, unpacked, *rest = _ENTRY.unpack_from(
        directory, position
    )
    name_length, extra_length, comment_length, disk, _, attributes, offset = rest
    name_end = position + _ENTRY.size + name_length
    end = name_end + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(directory):
        raise BundleRefused("its directory holds what is no member")
    name = directory[position + _ENTRY.size : name_end]
    if not _NAME.fullmatch(name):
        raise BundleRefused(
            f"it has the member {name[:100]!r}, expected {MANIFEST} and blobs/<64 hex digits>"
        )
    what = f"the member {name.decode()}"
    if method != zipfile.ZIP_STORED or flags & ~_UTF_8:
        raise BundleRefused(f"{what} is compressed, encrypted or of unknown size")
    mode = stat.S_IFMT(attributes >> 16) if version >> 8 == 3 else 0
    if mode not in (0, stat.S_IFREG) or disk:
        raise BundleRefused(f"{what} is no plain file")
    extra = directory[name_end : name_end + extra_length]
    unpacked, packed, offset = _widened(what, extra, unpacked, packed, offset)
    if packed != unpacked:
        raise BundleRefused(f"{what} has two sizes")
    return _Entry(name, flags, crc32, unpacked, offset), end


def _member(file: BinaryIO, entry: _Entry) -> Member:
    """Where the bytes of a member are, once its local header agreed with the directory."""
    name = entry.encoded_name.decode()
    what = f"the member {name}"
    header = _read(file, entry.offset, _LOCAL.size)
    signature, _, flags, method, _, _, crc32, packed, unpacked, name_length, extra_length = (
        _LOCAL.unpack(header)
    )
    begin = entry.offset + _LOCAL.size
    names = _read(file, begin, name_length + extra_length)
    unpacked, packed = _widened(what, names[name_length:], unpacked, packed)
    if (signature, names[:name_length], flags, method, crc32, packed, unpacked) != (
        b"PK\x03\x04",
        entry.encoded_name,
        entry.flags,
        zipfile.ZIP_STORED,
        entry.crc32,
        entry.size,
        entry.size,
    ):
        raise BundleRefused(f"{what} is not what the directory says")
    return Member(name, begin + len(names), entry.size, entry.crc32)


def _widened(what: str, extra: bytes, *numbers: int) -> list[int]:
    """The numbers, those that do not fit 32 bits from the zip64 field, the only one that may be."""
    num_wide = numbers.count(_IS_WIDE)
    if not num_wide and not extra:
        return list(numbers)
    if (
        not num_wide
        or extra[:4] != struct.pack("<2H", 1, 8 * num_wide)
        or len(extra) != 4 + 8 * num_wide
    ):
        raise BundleRefused(f"{what} has fields beside its name and sizes, or lacks one")
    wide = iter(struct.unpack(f"<{num_wide}Q", extra[4:]))
    return [next(wide) if number == _IS_WIDE else number for number in numbers]


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    try:
        file.seek(start)
        data = file.read(length)
    except OSError as error:
        raise BundleRefused(f"it cannot be read ({error.strerror})") from error
    except (ValueError, OverflowError):
        data = b""
    if len(data) < length:
        raise BundleRefused("it is shorter than it says")
    return data
