"""Prompts are cleaned, ended and cut as published."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine import prompt
from engine.checkpoints.formats.reading import MAX_REASON
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.errors import CheckpointError
from engine.prompt import MAX_TOKENS, clean_prompt, cut_of, is_short, load_tokenizer


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  a   red\n\tcircle ", "a red circle"),
        ("a &amp;amp; b", "a & b"),
        ("schÃ¶n", "schön"),
        ("红色 圆", "红色 圆"),
        ("", ""),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean_prompt(text) == cleaned


def test_tokenizer_appends_the_end_and_cuts_at_512(tmp_path) -> None:
    tokenizer = Tokenizer(
        models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.enable_padding(length=600)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded(" a&nbsp;a ") == [3, 3, 1]
    ids = loaded("a " * 700)
    assert len(ids) == MAX_TOKENS
    assert ids[-1] == 1


NO_TOKENIZER = [
    "<html>",
    f'{{"truncation": "{"x" * 70_000}"}}',  # which the library quotes whole
    '{"added_tokens": [], "model": {"type": "alway\\ts"}}',
    '{"padding": {"strategy": "BatchLongest\\u001b[2J"}}',
]


@pytest.mark.parametrize("text", NO_TOKENIZER, ids=["a page", "long", "a tab", "an escape"])
def test_a_file_that_is_no_tokenizer_is_named_so(tmp_path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer\.json \(") as told:
        load_tokenizer(path)
    assert str(told.value).isprintable()
    assert len(str(told.value)) <= len(f"{path}: ") + MAX_REASON


class PanicException(BaseException):
    """As the tokenizers library raises where its own code gives up."""


def test_a_tokenizer_at_which_its_library_panics_is_refused(tmp_path) -> None:
    class Panicking:
        def encode(self, text: str) -> None:
            raise PanicException("no entry found for key")

    with pytest.raises(CheckpointError, match=r"x\.json: .*\(no entry found for key\)"):
        prompt._encoded(Panicking(), tmp_path / "x.json", "a")  # type: ignore[arg-type]


def words(count: int, word: str = "star") -> str:
    return " ".join(f"{word}{index}" for index in range(count))


@pytest.mark.parametrize(
    ("prompt", "num_tokens", "text"),
    [
        (f"{'a ' * 511}", None, ""),
        (f"{'a ' * 511}b", 513, "b"),
        (f"{'a ' * 511}b &amp;amp;  c", 515, "b & c"),
        (f"{'a ' * 510}small red circle", 514, "red circle"),
        ("圆 " * 512, 513, "圆"),
    ],
)
def test_the_words_that_are_cut_off_are_those_that_are_not_read(
    tmp_path, prompt, num_tokens, text
) -> None:
    tokenizer = Tokenizer(models.WordLevel({"</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    cut = cut_of(path, prompt)
    assert (cut and cut.num_tokens, cut.text if cut else "") == (num_tokens, text)
    read = load_tokenizer(path)(prompt)
    assert len(read) == min(MAX_TOKENS, num_tokens or MAX_TOKENS)


def test_a_word_that_is_half_read_is_named_whole() -> None:
    path = locate("tokenizer", BUILTIN_MICRO)
    prompt = f"{words(60)} extraordinary {words(400)}"
    cut = cut_of(path, prompt)
    assert cut is not None
    kept = clean_prompt(prompt).removesuffix(cut.text)
    assert kept.endswith(" ")
    assert cut.num_tokens > MAX_TOKENS


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a" * 510, True), ("a" * 511, False), ("ﷺ" * 20, False), ("&#65018;" * 20, False)],
)
def test_whether_a_prompt_can_be_too_long_is_told_without_a_tokenizer(
    tmp_path, prompt, expected
) -> None:
    assert is_short(prompt) == expected
    if expected:
        assert cut_of(tmp_path / "not there", prompt) is None
