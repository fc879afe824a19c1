"""Prompts into token ids, the published way: cleaned, ended, cut at 512 tokens."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import ftfy
from tokenizers import Tokenizer

MAX_TOKENS = 512


def clean_prompt(text: str) -> str:
    """The published cleaning: mojibake repaired, HTML entities resolved (twice), white space collapsed."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def load_tokenizer(path: Path) -> Callable[[str], list[int]]:
    """prompt -> ids of its cleaned text, by a `tokenizer.json`: with the end-of-sequence token it appends,
    at most 512 of them.

    Raises ValueError where the file is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every fault
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return lambda prompt: tokenizer.encode(clean_prompt(prompt)).ids
