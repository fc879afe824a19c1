"""SentencePiece models, as `spiece.model` files and the tensor `spiece_model` of ComfyUI's encoders hold them.

Source of the fields: `sentencepiece_model.proto` of google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator

from engine.checkpoints.vocabulary.pieces import (
    EOS,
    NORMAL,
    PAD,
    UNK,
    Piece,
    Vocabulary,
    check_count,
    checked,
)

_FLOAT = struct.Struct("<f")
_PIECE, _TRAINER, _NORMALISER, _SELF_TEST, _DENORMALISER = 1, 2, 3, 4, 5
_UNIGRAM = 1
# fields of the trainer's part, by which prompts are read otherwise than here where they are set
_MODEL_TYPE, _SPACE_LAST, _BYTE_FALLBACK = 3, 24, 35
# of the normaliser's part
_CHARSMAP, _SPACE_FIRST, _STRIPS, _ESCAPES = 2, 3, 4, 5
_NORMALISER_FIELDS = range(1, 7)
_TRAINER_FIELDS = (_MODEL_TYPE, _SPACE_LAST, _BYTE_FALLBACK)
# of which the published one has 4.5 MB
MAX_MODEL_BYTES = 16 << 20


def of_sentencepiece(data: bytes, name: str = "spiece_model") -> Vocabulary:
    """Raises ValueError where `data` is no SentencePiece model, or none of T5's kind."""
    if len(data) > MAX_MODEL_BYTES:
        raise ValueError(
            f"{name} is no SentencePiece model: {len(data):,} bytes are more than any has"
        )
    pieces: list[Piece] = []
    trainer: dict[int, bytes | int] = {}
    normaliser: dict[int, bytes | int] = {}
    for number, value in _fields(data, name):
        if number == _PIECE:
            check_count(len(pieces) + 1)
            pieces.append(_piece(_whole(value, name), name))
        elif number == _TRAINER:
            trainer |= _said(_whole(value, name), name, _TRAINER_FIELDS)
        elif number == _NORMALISER:
            normaliser |= _said(_whole(value, name), name, _NORMALISER_FIELDS, only=True)
        elif number not in (_SELF_TEST, _DENORMALISER):
            raise ValueError(
                f"{name} is no SentencePiece model that is known: it has a part with the number {number}"
            )
    if not pieces:
        raise ValueError(f"{name} is no SentencePiece model: it has no pieces")
    _check_ways(trainer, normaliser, name)
    return checked(
        Vocabulary(
            tuple(pieces),
            _whole(normaliser.get(_CHARSMAP, b""), name),
            bool(trainer.get(_BYTE_FALLBACK, 0)),
            bool(normaliser.get(_STRIPS, 1)),
        )
    )


def _piece(data: bytes, name: str) -> Piece:
    # how all pieces of published models are written: three times as fast for a quarter of a million
    size = len(data) - 7
    if size > 0 and data[0] == 0x0A and data[1] == size < 0x80 and data[size + 2] == 0x15:
        return Piece(data[2 : size + 2].decode(), _FLOAT.unpack_from(data, size + 3)[0], NORMAL)
    text: bytes | int = b""
    score: bytes | int = bytes(4)
    kind: bytes | int = NORMAL
    for number, value in _fields(data, name):
        if number == 1:
            text = value
        elif number == 2:
            score = value
        elif number == 3:
            kind = value
    if (
        isinstance(text, int)
        or isinstance(score, int)
        or isinstance(kind, bytes)
        or len(score) != 4
    ):
        raise ValueError(f"{name} is no SentencePiece model: a piece is no text with a score")
    return Piece(text.decode(), _FLOAT.unpack(score)[0], kind)


def _check_ways(
    trainer: dict[int, bytes | int], normaliser: dict[int, bytes | int], name: str
) -> None:
    """Raises ValueError for a model that splits texts in another way than T5's."""
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise ValueError(f"{name} is not of the kind Unigram, as T5's is")
    if (
        trainer.get(_SPACE_LAST, 0)
        or not normaliser.get(_SPACE_FIRST, 1)
        or not normaliser.get(_ESCAPES, 1)
    ):
        raise ValueError(f"{name} does not write a space before each word, as T5's does")


def _said(
    data: bytes, name: str, numbers: Container[int], *, only: bool = False
) -> dict[int, bytes | int]:
    """The fields of a part that have one of these numbers. Raises ValueError where only they may be there."""
    said = {}
    for number, value in _fields(data, name):
        if number in numbers:
            said[number] = value
        elif only:
            raise ValueError(f"{name} normalises by the rule {number}, which is not known")
    return said


def sentencepiece(vocabulary: Vocabulary) -> bytes:
    """A SentencePiece model, Unigram, with T5's numbers for padding, end and unknown."""
    whole = b"".join(
        _bytes(
            1,
            _bytes(1, piece.text.encode())
            + _tag(2, 5) + struct.pack("<f", piece.score)
            + _number(3, piece.kind),
        )
        for piece in vocabulary.pieces
    )  # fmt: skip
    trainer = (
        _number(3, 1)  # Unigram
        + _number(4, len(vocabulary.pieces))
        + _number(35, vocabulary.byte_fallback)
        + _number(40, UNK) + _number(41, -1) + _number(42, EOS) + _number(43, PAD)
        + _bytes(45, vocabulary.pieces[UNK].text.encode())
        + _bytes(47, vocabulary.pieces[EOS].text.encode())
        + _bytes(48, vocabulary.pieces[PAD].text.encode())
    )  # fmt: skip
    normaliser = b"".join(
        [
            _bytes(1, b"nmt_nfkc" if vocabulary.charsmap else b"identity"),
            _bytes(2, vocabulary.charsmap) if vocabulary.charsmap else b"",
            _number(3, 1),  # a space before the first word
            _number(4, vocabulary.strips),  # one space for several, none around
            _number(5, 1),
        ]
    )
    return whole + _bytes(2, trainer) + _bytes(3, normaliser)


# The wire format of Protocol Buffers, as far as these messages go


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _number(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(int(value))


def _bytes(number: int, value: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(value)) + value


def _whole(value: bytes | int, name: str) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"{name} is no SentencePiece model: a number where a message should be")
    return value


def _fields(data: bytes, name: str) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of each field of a message. Raises ValueError where it does not parse."""
    position, end = 0, len(data)
    while position < end:
        key = data[position]
        # one byte in nearly all of the million fields of a published model: no call for each
        if key < 0x80:
            position += 1
        else:
            key, position = _varint_at(data, position, name)
        wire = key & 7
        if wire == 2 or wire == 0:
            value = data[position] if position < end else 0x80
            if value < 0x80:
                position += 1
            else:
                value, position = _varint_at(data, position, name)
            if wire == 0:
                yield key >> 3, value
                continue
        elif wire in (1, 5):
            value = 8 if wire == 1 else 4
        else:
            raise ValueError(f"{name} is no SentencePiece model: an unknown kind of field")
        start, position = position, position + value
        if position > end:
            raise _cut_short(name)
        yield key >> 3, data[start:position]


def _varint_at(data: bytes, position: int, name: str) -> tuple[int, int]:
    """(a number, where it ends)."""
    value = 0
    for shift, byte in zip(range(0, 70, 7), data[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise _cut_short(name)


def _cut_short(name: str) -> ValueError:
    return ValueError(f"{name} is no SentencePiece model: it ends in the middle")
