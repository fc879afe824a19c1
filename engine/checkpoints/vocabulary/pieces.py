"""A vocabulary as plain data, and what it must be before anything reads prompts by it."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PAD, EOS, UNK = 0, 1, 2  # of every T5
BYTES = frozenset(f"<0x{value:02X}>" for value in range(256))

# Of a file beside weights, of which the published one has 17 MB, or of what lies within them.
MAX_BYTES = 64 << 20
# UMT5 has 256,384 rows, and pieces of 2 MB in all; the longest piece of any T5 has 50 bytes.
MAX_PIECES = 1 << 19
MAX_PIECE_BYTES = 1024
MAX_TEXT_BYTES = 8 << 20
MAX_SPECIAL = 4096
# A character becomes at most 18 others under the published rules.
_MAX_REPLACEMENT_BYTES = 1024


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """charsmap: how characters are normalised, as SentencePiece compiles it; empty where they are not. byte_fallback:
    whether an unknown character is read as its bytes. strips: whether spaces around a text do not count, and several
    are one. lost: what of a tokenizer.json the other forms cannot say."""

    pieces: tuple[Piece, ...]
    charsmap: bytes = b""
    byte_fallback: bool = False
    strips: bool = True
    lost: tuple[str, ...] = ()


def checked(vocabulary: Vocabulary) -> Vocabulary:
    """The same. Raises ValueError where it is none of T5's kind, or larger than any."""
    pieces = vocabulary.pieces
    check_count(len(pieces))
    kinds = [piece.kind for piece in pieces]
    if (
        len(pieces) <= UNK
        or kinds[PAD] != CONTROL
        or kinds[EOS] != CONTROL
        or [index for index, kind in enumerate(kinds) if kind == UNKNOWN] != [UNK]
    ):
        raise ValueError(
            "its pieces 0, 1 and 2 are not padding, end and unknown, as those of every T5 are"
        )
    strange = set(kinds) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}
    if strange:
        raise ValueError(f"a piece is of the unknown kind {min(strange)}")
    if not all(math.isfinite(piece.score) for piece in pieces):
        raise ValueError("the score of a piece is no number")
    _check_texts(pieces)
    if vocabulary.byte_fallback and {piece.text for piece in pieces if piece.kind == BYTE} != BYTES:
        raise ValueError("it reads unknown characters as bytes, but has no piece for each byte")
    if vocabulary.charsmap:
        _check_charsmap(vocabulary.charsmap)
    return vocabulary


def check_count(count: int) -> None:
    """Raises ValueError for more pieces than any vocabulary has."""
    if count > MAX_PIECES:
        raise ValueError(f"it has more than {MAX_PIECES:,} pieces")


def special(pieces: Sequence[Piece]) -> list[str]:
    """The pieces that a prompt may name, and no text is split into."""
    return [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED)]


def _check_texts(pieces: Sequence[Piece]) -> None:
    texts = [piece.text for piece in pieces if piece.kind != UNUSED]
    if not all(texts):
        raise ValueError("a piece is empty")
    if len(set(texts)) != len(texts):
        ((twice, _),) = Counter(texts).most_common(1)
        raise ValueError(f"the piece {twice[:40]!r} is there twice")
    if (
        max(map(len, texts)) > MAX_PIECE_BYTES
        or len("".join(texts).encode()) > MAX_TEXT_BYTES
        or len(special(pieces)) > MAX_SPECIAL
    ):
        raise ValueError("its pieces are longer, or more of them special, than any vocabulary's")


def _check_charsmap(charsmap: bytes) -> None:
    """The library follows the numbers of this table, a double array of the darts-clone kind, wherever they lead."""
    if len(charsmap) < 4:
        raise ValueError("its table of characters ends in the middle")
    (num_bytes,) = struct.unpack_from("<I", charsmap)
    if not num_bytes or num_bytes % 4 or num_bytes > len(charsmap) - 4:
        raise ValueError("its table of characters ends in the middle")
    units = struct.unpack_from(f"<{num_bytes // 4}I", charsmap, 4)
    replacements = charsmap[4 + num_bytes :]
    try:
        replacements.decode()
    except UnicodeDecodeError:
        raise ValueError("its table of characters is no UTF-8") from None
    if max(map(len, replacements.split(b"\0"))) > _MAX_REPLACEMENT_BYTES:
        raise ValueError("its table of characters makes a text of one character")
    for place, unit in enumerate(units):
        if unit >> 31:  # where a replacement begins
            continue
        base = place ^ (unit >> 10 << ((unit >> 9 & 1) << 3))
        if base | 0xFF >= len(units):
            raise ValueError("its table of characters leads out of itself")
        if unit >> 8 & 1:
            start = units[base] & 0x7FFFFFFF
            if start >= len(replacements) or replacements[start] & 0xC0 == 0x80:
                raise ValueError("its table of characters leads out of itself")
