"""The micro model's tokenizer: a hand-built Unigram with one token per word of the world.

A trained Unigram prunes whole words of so small a grammar into letters (33 tokens a sentence instead of 12), so
the vocabulary is written down here. Token ids are part of the trained weights: the order is frozen. Some words
belong to earlier, larger worlds and are kept for their place only.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from torch import Tensor

PAD, EOS, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "</s>", "<unk>")
VOCABULARY = tuple(
    """
    a background blue on dark green right left that of up down square cross and small star triangle to large medium
    gray circle ring light brown in black moves goes moving the over with front backdrop video is purple yellow
    orange pink white red drifts diagonally huge big tiny little still gets travels from slides stands bigger stays
    place growing does not move shrinks staying smaller grows expands contracts shrinking downwards falls floats an
    upwards sinks rises rotates turns around spinning spins clip animation scene it behind shape object ball
    """.split()  # noqa: SIM905 - as a list it would fill two pages
)
WORD_SCORE, MARK_SCORE, LETTER_SCORE = -5.0, -6.0, -14.0  # whole words win over their letters
MARKS = "\u2581.,"
LETTERS = string.ascii_lowercase + string.digits + "'-!?:;"


def build_tokenizer() -> Tokenizer:
    """The tokenizer; every text ends with `</s>`, unknown characters become `<unk>`."""
    pieces = [(piece, 0.0) for piece in SPECIAL]
    pieces += [(f"\u2581{word}", WORD_SCORE) for word in VOCABULARY]
    pieces += [(mark, MARK_SCORE) for mark in MARKS]
    pieces += [(letter, LETTER_SCORE) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids [len(texts), max_tokens] padded with zeros, and the number of real tokens [len(texts)].

    A text that is too long loses its end, but keeps its `</s>`.
    """
    ids = torch.full((len(texts), max_tokens), PAD)
    lengths = torch.zeros(len(texts), dtype=torch.long)
    for row, encoding in enumerate(tokenizer.encode_batch(list(texts))):
        tokens = encoding.ids
        if len(tokens) > max_tokens:
            tokens = [*tokens[: max_tokens - 1], EOS]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        lengths[row] = len(tokens)
    return ids, lengths
