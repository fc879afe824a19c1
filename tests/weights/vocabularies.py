"""Vocabularies as SentencePiece trains them, and the tokenizer.json that other tools make of one."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import sentencepiece

from engine.checkpoints.vocabulary.sentencepiece_model import of_sentencepiece

_TEXTS = (
    "a small red circle moves left over a dark background",
    "一个红色的圆圈在深色背景上向左移动，然后停下来。",
    "Der große Bär läuft über die Straße; c'est déjà l'été à Paris",
    "emoji 😀 🐻 and ａｂｃ １２３ ﬁne",
    "красный круг движется влево",
    "<extra>",
)


def trained(**options: object) -> bytes:
    """A small model of T5's kind, with the published normalisation. options: of SentencePiece's trainer."""
    model = io.BytesIO()
    settings = {
        "normalization_rule_name": "nmt_nfkc", "vocab_size": 460, "hard_vocab_limit": False, "pad_id": 0, "eos_id": 1,
        "unk_id": 2, "bos_id": -1, "num_threads": 1, "minloglevel": 2, "user_defined_symbols": ["<extra>"],
        "byte_fallback": True,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXTS * 20), model_writer=model, **settings | options
    )
    return model.getvalue()


def published_form(model: bytes) -> str:
    """The tokenizer.json of a model in the form of google/umt5-xxl's, as transformers' converter made it then: names
    of pieces are found before anything else, spaces around words and between them do not count."""
    pieces = of_sentencepiece(model)
    special = [(i, p.text) for i, p in enumerate(pieces.pieces) if p.kind in (2, 3, 4)]
    end = {"id": "</s>", "ids": [1], "tokens": ["</s>"]}
    added = [
        {
            "id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True,
        }
        for index, text in special
    ]  # fmt: skip
    charsmap = base64.b64encode(pieces.charsmap).decode()
    precompiled = [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    table = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            *precompiled,
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"</s>": end},
        },
        "decoder": None,
        "model": {
            "type": "Unigram", "unk_id": 2, "vocab": [[p.text, p.score] for p in pieces.pieces],
            "byte_fallback": pieces.byte_fallback,
        },
    }  # fmt: skip
    return json.dumps(table)


def write_tokenizer_json(folder: Path, model: bytes) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(published_form(model))
    return path
