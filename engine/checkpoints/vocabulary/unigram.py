"""A vocabulary as a tokenizer.json of Hugging Face's library, read and made."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.checkpoints.formats.reading import refusal
from engine.checkpoints.source import read_json
from engine.checkpoints.vocabulary.pieces import (
    BYTE,
    CONTROL,
    EOS,
    MAX_BYTES,
    NORMAL,
    PAD,
    UNK,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    Vocabulary,
    checked,
    special,
)

_SPACE = "\u2581"


def of_tokenizer_json(path: Path) -> Vocabulary:
    """Raises CheckpointError where the file is no Unigram tokenizer of T5's kind."""
    table = read_json(path, max_bytes=MAX_BYTES)
    try:
        found = _of_table(table)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise refusal(path, "not a Unigram tokenizer, as T5 and UMT5 have") from None
    try:
        return checked(found)
    except ValueError as error:
        raise refusal(path, str(error)) from None


def _of_table(table: Mapping[str, Any]) -> Vocabulary:
    model = table["model"]
    pieces = model["vocab"]
    if model["type"] != "Unigram" or model["unk_id"] != UNK or not isinstance(pieces, list):
        raise ValueError("no pieces")
    charsmap, lost = _normalisation(table.get("normalizer"))
    lost += _splitting(table.get("pre_tokenizer"))
    added = {
        each["id"]: each["content"]
        for each in table.get("added_tokens") or ()
        if each.get("special", False)
    }
    names, falls_back = set(added.values()), bool(model.get("byte_fallback"))
    found = [
        Piece(text, float(score), _kind(index, text, names, falls_back))
        for index, (text, score) in enumerate(pieces)
    ]
    # UMT5's sentinels are numbered after the pieces of its model
    while len(found) in added:
        found.append(Piece(added[len(found)], 0.0, USER_DEFINED))
    return Vocabulary(tuple(found), charsmap, falls_back, lost=tuple(lost))


def as_tokenizer(vocabulary: Vocabulary) -> str:
    """The tokenizer.json that reads a text as SentencePiece does by this vocabulary, ended by EOS; but a special piece
    that a text names stands for itself, as in published ones."""
    steps: list[dict[str, Any]] = []
    if vocabulary.charsmap:
        encoded = base64.b64encode(vocabulary.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": encoded})
    if vocabulary.strips:
        steps += [_replace(r"\A +| +\z", ""), _replace(" {2,}", " ")]
    # a space is written before a text whether or not it begins with one, which Metaspace alone would not do
    steps += [_replace(" ", _SPACE), _replace(rf"\A{_SPACE}", 2 * _SPACE)]
    names = sorted(special(vocabulary.pieces), key=len, reverse=True)
    pieces = [
        (piece.text, piece.score if piece.kind == NORMAL else 0.0)
        # what no text can be, since each space has been replaced
        if piece.kind != UNUSED else (f" unused {index}", 0.0)
        for index, piece in enumerate(vocabulary.pieces)
    ]  # fmt: skip
    end = vocabulary.pieces[EOS].text
    table: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Metaspace",
                    "replacement": _SPACE,
                    "prepend_scheme": "always",
                    "split": False,
                },
                {
                    "type": "Split",
                    "pattern": {"Regex": "|".join(map(re.escape, names))},
                    "behavior": "Isolated",
                    "invert": False,
                },
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": end, "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {end: {"id": end, "ids": [EOS], "tokens": [end]}},
        },
        "decoder": None,
        "model": {
            "type": "Unigram",
            "unk_id": UNK,
            "vocab": pieces,
            "byte_fallback": vocabulary.byte_fallback,
        },
    }
    return json.dumps(table, ensure_ascii=False, separators=(",", ":"))


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


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


def _splitting(table: Mapping[str, Any] | None) -> list[str]:
    """The names of what a tokenizer.json splits texts by, other than a space before each word."""
    steps: Sequence[Mapping[str, Any]] = (
        [] if table is None else table.get("pretokenizers", [table])
    )
    kinds = [str(step.get("type")) for step in steps]
    lost = [kind for kind in kinds if kind not in ("WhitespaceSplit", "Metaspace")]
    return lost if "Metaspace" in kinds else [*lost, "no Metaspace"]


def _kind(index: int, text: str, names: set[str], falls_back: bool) -> int:
    if index == UNK:
        return UNKNOWN
    if index in (PAD, EOS):
        return CONTROL
    if falls_back and len(text) == 6 and text.startswith("<0x"):
        return BYTE
    return USER_DEFINED if text in names else NORMAL
