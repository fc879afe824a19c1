"""The parts of a vocabulary under `tokenizer.ggml.` in a GGUF file.

Source of the names: the gguf package and llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoints.vocabulary.pieces import (
    BYTE,
    BYTES,
    EOS,
    PAD,
    UNK,
    Piece,
    Vocabulary,
    check_count,
    checked,
)

PREFIX = "tokenizer.ggml."
ARRAYS = ("tokens", "scores", "token_type", "precompiled_charsmap")
# No key of others: of a tokenizer.json that reads unknown characters as unknown, with pieces for bytes all the same.
_FALLS_BACK = "byte_fallback"
# What llama.cpp takes where it is not said; another value is none of T5's.
_EXPECTED = {
    "model": "t5",
    "add_space_prefix": "true",
    "add_bos_token": "false",
    "add_eos_token": "true",
    "eos_token_id": str(EOS),
    "unknown_token_id": str(UNK),
    "padding_token_id": str(PAD),
}


def of_gguf(said: Mapping[str, str], arrays: Mapping[str, Any]) -> Vocabulary:
    """said: the short values of the file, arrays: its ARRAYS, both without PREFIX. Raises ValueError where they are no
    vocabulary of T5's kind."""
    for name, expected in _EXPECTED.items():
        if said.get(name, expected) != expected:
            raise ValueError(f"{PREFIX}{name} is {said[name][:40]}, not {expected} as T5's is")
    tokens, scores, kinds = (_array(arrays, name) for name in ARRAYS[:3])
    check_count(len(tokens))
    if not len(tokens) == len(scores) == len(kinds):
        raise ValueError(
            f"{len(tokens):,} pieces with {len(scores):,} scores and {len(kinds):,} kinds"
        )
    charsmap = arrays.get("precompiled_charsmap", b"")
    if not isinstance(charsmap, bytes):
        raise ValueError(f"{PREFIX}precompiled_charsmap is no list of bytes")
    try:
        pieces = [
            Piece(text, float(score), int(kind))
            for text, score, kind in zip(tokens, scores, kinds, strict=True)
        ]
    except ValueError:
        raise ValueError("a piece has no number for a score") from None
    if not all(isinstance(piece.text, str) for piece in pieces):
        raise ValueError(f"{PREFIX}tokens is no list of texts")
    return checked(
        Vocabulary(
            tuple(pieces),
            charsmap,
            any(piece.kind == BYTE for piece in pieces) and said.get(_FALLS_BACK) != "false",
            said.get("remove_extra_whitespaces", "false") == "true",
        )
    )


def _array(arrays: Mapping[str, Any], name: str) -> Any:
    if name not in arrays:
        raise ValueError(f"{PREFIX}{name} is missing")
    return arrays[name]


def gguf_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    """What goes under PREFIX in a GGUF file: texts, numbers, and lists of them."""
    # where pieces for bytes are there, ComfyUI-GGUF reads by them, and fails where they do not say what they are
    has_bytes = {piece.text for piece in vocabulary.pieces} >= BYTES
    return {
        "model": "t5",
        "pre": "default",
        "tokens": [piece.text for piece in vocabulary.pieces],
        "scores": [piece.score for piece in vocabulary.pieces],
        "token_type": [
            BYTE if has_bytes and piece.text in BYTES else piece.kind for piece in vocabulary.pieces
        ],
        "add_space_prefix": True,
        "remove_extra_whitespaces": vocabulary.strips,
        **({_FALLS_BACK: False} if has_bytes and not vocabulary.byte_fallback else {}),
        **({"precompiled_charsmap": vocabulary.charsmap} if vocabulary.charsmap else {}),
        "eos_token_id": EOS,
        "unknown_token_id": UNK,
        "padding_token_id": PAD,
        "add_bos_token": False,
        "add_eos_token": True,
    }
