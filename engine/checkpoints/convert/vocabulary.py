"""The pieces of a tokenizer in the forms that other programs want inside a text encoder's file.

ComfyUI reads a SentencePiece model from the tensor `spiece_model`, ComfyUI-GGUF its parts from `tokenizer.ggml.*`.
Source of the SentencePiece fields: `sentencepiece_model.proto` of google/sentencepiece; of the GGUF ones: the gguf
package and llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.formats.reading import refusal
from engine.checkpoints.source import read_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PAD, EOS, UNK = 0, 1, 2  # of every T5
# of a file beside weights, of which the published one has 4.5 MB
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """charsmap: how characters are normalised, as SentencePiece compiles it; empty where they are not. byte_fallback:
    whether an unknown character is read as its bytes. lost: what of a tokenizer.json these forms cannot say."""

    pieces: tuple[Piece, ...]
    charsmap: bytes = b""
    byte_fallback: bool = False
    lost: tuple[str, ...] = ()


def of_tokenizer_json(path: Path) -> Vocabulary:
    """Raises CheckpointError where the file is no Unigram tokenizer."""
    table = read_json(path, max_bytes=MAX_BYTES)
    try:
        return _of_table(table)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise refusal(path, "not a Unigram tokenizer, as T5 and UMT5 have") from None


def _of_table(table: Mapping[str, Any]) -> Vocabulary:
    model = table["model"]
    pieces = model["vocab"]
    if model["type"] != "Unigram" or not isinstance(pieces, list) or len(pieces) <= UNK:
        raise ValueError("no pieces")
    charsmap, lost = _normalisation(table.get("normalizer"))
    special = {
        each["content"] for each in table.get("added_tokens") or () if each.get("special", False)
    }
    falls_back = bool(model.get("byte_fallback"))
    kinds = [_kind(index, text, special, falls_back) for index, (text, _) in enumerate(pieces)]
    found = [
        Piece(text, float(score), kind) for (text, score), kind in zip(pieces, kinds, strict=True)
    ]
    return Vocabulary(tuple(found), charsmap, falls_back, tuple(lost))


def of_sentencepiece(data: bytes, name: str = "spiece_model") -> Vocabulary:
    """Raises ValueError where `data` is no SentencePiece model."""
    pieces: list[Piece] = []
    charsmap, falls_back = b"", False
    for number, value in _fields(data, name):
        if number == 1:
            said = dict(_fields(_whole(value, name), name))
            score = struct.unpack("<f", _whole(said.get(2, bytes(4)), name))[0]
            text = _whole(said.get(1, b""), name).decode()
            pieces.append(Piece(text, score, int(said.get(3, NORMAL))))
        elif number == 2:
            falls_back = bool(dict(_fields(_whole(value, name), name)).get(35, 0))
        elif number == 3:
            charsmap = _whole(dict(_fields(_whole(value, name), name)).get(2, b""), name)
    if not pieces:
        raise ValueError(f"{name} is no SentencePiece model: it has no pieces")
    return Vocabulary(tuple(pieces), charsmap, falls_back)


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
            _number(4, 1),  # one space for several
            _number(5, 1),
        ]
    )
    return whole + _bytes(2, trainer) + _bytes(3, normaliser)


def gguf_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    """What goes under `tokenizer.ggml.` in a GGUF file: texts, numbers, and lists of them."""
    return {
        "model": "t5",
        "pre": "default",
        "tokens": [piece.text for piece in vocabulary.pieces],
        "scores": [piece.score for piece in vocabulary.pieces],
        "token_type": [piece.kind for piece in vocabulary.pieces],
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        **({"precompiled_charsmap": vocabulary.charsmap} if vocabulary.charsmap else {}),
        "eos_token_id": EOS,
        "unknown_token_id": UNK,
        "padding_token_id": PAD,
        "add_bos_token": False,
        "add_eos_token": True,
    }


def _normalisation(table: Mapping[str, Any] | None) -> tuple[bytes, list[str]]:
    """(the compiled map of a tokenizer.json's normalizer, the names of what else it does)."""
    if table is None:
        return b"", []
    steps: Sequence[Mapping[str, Any]] = table.get("normalizers", [table])
    charsmap, lost = b"", []
    for step in steps:
        if step.get("type") == "Precompiled":
            charsmap = base64.b64decode(step.get("precompiled_charsmap", ""))
        elif step.get("type") not in ("Replace", "Strip"):  # of spaces, which SentencePiece does
            lost.append(str(step.get("type")))
    return charsmap, lost


def _kind(index: int, text: str, special: set[str], falls_back: bool) -> int:
    if index == UNK:
        return UNKNOWN
    if index in (PAD, EOS):
        return CONTROL
    if falls_back and len(text) == 6 and text.startswith("<0x"):
        return BYTE
    return USER_DEFINED if text in special else NORMAL


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
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            if position >= len(data) or shift > 63:
                raise ValueError(f"{name} is no SentencePiece model: it ends in the middle")
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        length = {1: 8, 5: 4}.get(wire)
        if length is None and wire != 2:
            raise ValueError(f"{name} is no SentencePiece model: an unknown kind of field")
        length = varint() if length is None else length
        if position + length > len(data):
            raise ValueError(f"{name} is no SentencePiece model: it ends in the middle")
        yield number, data[position : position + length]
        position += length
