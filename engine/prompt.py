"""Prompts into token ids, the published way: cleaned, ended, cut at 512 tokens. And what is cut off, to be told before
a run; the libraries come in where they are needed, so that a viewer may ask."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.checkpoints.formats.reading import refusal
from engine.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 512


class NoTokenizer(CheckpointError, ValueError):
    """A tokenizer.json with which no prompt can be read."""


@dataclass(frozen=True, slots=True)
class Cut:
    """num_tokens: all that a prompt has, its end-of-sequence token included, more than the MAX_TOKENS that are read.
    text: the end of the cleaned prompt, from the first word that is not read whole."""

    num_tokens: int
    text: str


def clean_prompt(text: str) -> str:
    """The published cleaning: mojibake repaired, HTML entities resolved (twice), white space collapsed."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def load_tokenizer(path: Path) -> Callable[[str], list[int]]:
    """prompt -> ids of its cleaned text, by a `tokenizer.json` or the vocabulary that a file holds: with the
    end-of-sequence token it appends, at most 512 of them.

    Raises ValueError where the file is not a tokenizer, be it that only a prompt brings that out, CheckpointError
    where it holds no vocabulary.
    """
    tokenizer = _opened(path)
    tokenizer.enable_truncation(MAX_TOKENS)
    return lambda prompt: _encoded(tokenizer, path, clean_prompt(prompt)).ids


def cut_of(path: Path, prompt: str) -> Cut | None:
    """What is cut off a prompt by the tokenizer of `load_tokenizer`, which is read only for one that is long enough;
    None where nothing is. Raises as `load_tokenizer` does."""
    if is_short(prompt):
        return None
    text = clean_prompt(prompt)
    encoding = _encoded(_opened(path), path, text)
    if len(encoding.ids) <= MAX_TOKENS:
        return None
    # the last of those that are read is the end of the sequence
    start = encoding.offsets[MAX_TOKENS - 1][0]
    while start and all(map(_is_within_word, text[start - 1 : start + 1])):
        start -= 1
    return Cut(len(encoding.ids), text[start:].strip())


def is_short(prompt: str) -> bool:
    """Whether no tokenizer can make more of a prompt than is read, told without one: no token stands for less than a
    byte of the normalised text, and the space before it and its end are two more."""
    if not prompt.isascii() or "&" in prompt:
        prompt = unicodedata.normalize("NFKC", clean_prompt(prompt))
    return len(prompt.encode("utf-8", "surrogatepass")) + 2 <= MAX_TOKENS


def _encoded(tokenizer: Tokenizer, path: Path, text: str) -> Any:
    try:
        return tokenizer.encode(text)
    except BaseException as error:
        # a panic of the library is no Exception, and would end the engine
        if type(error).__name__ != "PanicException":
            raise
        reason = f"not a tokenizer.json that can be used ({error}); download it again"
        raise NoTokenizer(str(refusal(path, reason))) from None


def _opened(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    from engine.checkpoints.vocabulary.held import is_tokenizer_json, tokenizer_json

    text = None if is_tokenizer_json(path) else tokenizer_json(path)
    try:
        tokenizer = Tokenizer.from_file(str(path)) if text is None else Tokenizer.from_str(text)
    except BaseException as error:
        # the library raises bare Exception for most faults, and for some its Rust code panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = f"not a tokenizer.json ({error}); download it again"
        raise ValueError(str(refusal(path, reason))) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _is_within_word(character: str) -> bool:
    """Also whether its script puts spaces between words, so that the word begins nearby."""
    return character.isalnum() and unicodedata.east_asian_width(character) not in "WF"
