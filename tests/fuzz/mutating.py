"""Changes of files: of bytes, of text, of JSON, and of what safetensors and zip archives hold, their checksums kept."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    *(0, 1, 2, 7, 8, 31, 32, 127, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32),
    *(1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
# Written in the place of a JSON value once the rest is text, as json.dumps would not write them.
_WRITTEN = {
    "@deep@": "[" * 3000 + "]" * 3000,
    "@open@": "[" * 100_000,
    "@digits@": "9" * 5000,
    "@fraction@": "0." + "1" * 5000,
    "@exponent@": "1e999999999",
    "@NaN@": "NaN",
    "@twice@": '{"a": 1, "a": 2}',
}
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 10**9, 10**18, 2**63, 2**64, 10**400, 1e308, -0.0, 0.5),
    *("", ".", "..", "../../x", "/etc/passwd", "~", "a\0b", "\x1b[31m\n", "\u202e", "\ud800"),
    *("x" * 300, "x" * 70_000, "F32", "F8_E4M3", "U8", "int8_tensorwise", "{}", "[]", "null"),
    *([], {}, [[]], [1], [0, 0], [-1, 2], [2**63, 2], {"a": {}}, ["a"] * 2000, [0] * 5000),
    *_WRITTEN,
)
_TEXTS = (
    *("", " ", "\n", "\t", "\0", "\x1b[2J", "\ufeff", "=", "[", "]", "{", "}", "[[", '"', '"""', "'", "#"),
    *(".", ",", ":", "-", "&a", "*a", "<<: *a", "!!python/object/apply:os.system", "!!binary", "---"),
    *("true", "nan", "inf", "-1", "0x10", "1e400", "9" * 5000, "1:" * 2000, "2024-99-99", "10:00"),
    *("é", "\U0001f3ac", "x" * 1000, "[" * 2000, "{a: " * 500, "../..", "~nobody-here/x", "$HOME", "|", ">-"),
)  # fmt: skip


def of_bytes(random: Random, content: bytes, *, within: int = 0) -> bytes:
    """A few changes: bits, numbers of every width, cuts, copies, and bytes anywhere.

    within: mostly among so many first bytes, and after as many last ones; 0 for anywhere.
    """
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        size = len(changed)
        place = random.randrange(size + 1)
        if within and random.random() < 0.9:
            place = min(size, random.randrange(within))
            if random.random() < 0.3:
                place = max(0, size - place)
        match random.randrange(8):
            case 0 | 1 if place < size:
                changed[place] ^= 1 << random.randrange(8)
            case 2 | 3:
                width = random.choice(("<B", "<H", "<I", "<Q"))
                count = struct.calcsize(width)
                number = random.choice(NUMBERS) % (1 << 8 * count)
                changed[place : place + count] = struct.pack(width, number)
            case 4:
                del changed[place:]
            case 5:
                del changed[place : place + random.randint(1, 64)]
            case 6:
                piece = changed[place : place + random.randint(1, 200)]
                changed[place:place] = piece * random.randint(1, 3)
            case _:
                changed[place:place] = random.randbytes(random.randint(1, 20))
    return bytes(changed)


def of_text(random: Random, content: bytes) -> bytes:
    """Lines that go, come twice or change places, and pieces of text that go or come in."""
    lines = content.decode(errors="replace").splitlines(keepends=True) or [""]
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(lines))
        line = lines[place]
        at = random.randrange(len(line) + 1)
        match random.randrange(8):
            case 0 if len(lines) > 1:
                del lines[place]
            case 1:
                lines.insert(random.randrange(len(lines) + 1), line)
            case 2:
                lines[place], lines[0] = lines[0], lines[place]
            case 3:
                lines[place] = line[:at] + line[at + random.randint(1, 9) :]
            case 4 if "=" in line or ":" in line:
                key = line.partition("=" if "=" in line else ":")
                lines[place] = f"{key[0]}{key[1]} {random.choice(_TEXTS)}\n"
            case 5:
                most = 1 + 1_000_000 // (1 + len(line))
                lines[place] = line * min(most, random.choice((2, 50, 2000)))
            case _:
                lines[place] = line[:at] + random.choice(_TEXTS) + line[at:]
    text = "".join(lines)
    return text.encode(errors="surrogatepass")


def of_json(random: Random, content: bytes) -> bytes:
    """Values that are replaced, go, or come under another name; now and then only the bytes change."""
    if random.random() < 0.15:
        return of_bytes(random, content)
    try:
        table = json.loads(content)
    except ValueError:
        return of_bytes(random, content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        table = _of_value(random, table)
    return dumped(table)


def dumped(table: object) -> bytes:
    text = json.dumps(table)
    for mark, written in _WRITTEN.items():
        text = text.replace(f'"{mark}"', written)
    return text.encode(errors="surrogatepass")


def _of_value(random: Random, value: Any) -> Any:
    """A value of which one part, found by going in at random, is another."""
    if isinstance(value, dict) and value and random.random() < 0.93:
        key = random.choice(list(value))
        match random.randrange(12):
            case 0:
                return {name: held for name, held in value.items() if name != key}
            case 1:
                other = random.choice([text for text in VALUES if isinstance(text, str)])
                return {other if name == key else name: held for name, held in value.items()}
            case 2:
                return {**value, random.choice(("zz", "a.weight", "__metadata__")): value[key]}
        return {**value, key: _of_value(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.9:
        place = random.randrange(len(value))
        match random.randrange(8):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
        return [*value[:place], _of_value(random, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and abs(value) < 1 << 64 and random.random() < 0.5:
        return random.choice((value + 1, value - 1, -value, 2 * value, value << 32, float(value)))
    if isinstance(value, str) and random.random() < 0.4:
        if value.startswith("{"):  # JSON within JSON, as metadata is
            return of_json(random, value.encode()).decode(errors="replace")
        return of_text(random, value.encode(errors="replace")).decode(errors="replace")
    return random.choice(VALUES)


def of_safetensors(random: Random, content: bytes) -> bytes:
    """Changes of the header as JSON, of the bytes about it, or of the small tensors, which may hold JSON too."""
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8 or (way := random.random()) < 0.25:
        return of_bytes(random, content, within=4096)
    header, data = content[8 : 8 + length], content[8 + length :]
    table = json.loads(header)
    small = [
        entry["data_offsets"]
        for name, entry in table.items()
        if name != "__metadata__" and 0 < entry["data_offsets"][1] - entry["data_offsets"][0] < 600
    ]
    if way < 0.5 and small:
        start, stop = random.choice(small)
        held = data[start:stop]
        change = of_json if held[:1] == b"{" else of_bytes
        held = change(random, held)[: stop - start].ljust(stop - start)
        return content[: 8 + length] + data[:start] + held + data[stop:]
    header = of_json(random, header)
    if random.random() < 0.5:
        header += b" " * (-(8 + len(header)) % 64)
    return struct.pack("<Q", len(header)) + header + data


def of_zip(random: Random, content: bytes, change: Callable[[Random, bytes], bytes]) -> bytes:
    """Changes of what the members hold, written anew with right checksums, of their names, or of the file's bytes."""
    if random.random() < 0.4:
        return of_bytes(random, content, within=600)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = random.randrange(len(members)) if random.random() < 0.3 else 0
    name, data = members[place]
    match random.randrange(8):
        case 0:
            del members[place]
        case 1:
            members.append((name, data))
        case 2:
            other = random.choice([text for text in VALUES if isinstance(text, str)])
            members[place] = (other.encode(errors="replace").decode()[:300] or "x", data)
        case _:
            members[place] = (name, change(random, data))
    random.random() < 0.1 and random.shuffle(members)
    packing = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()
