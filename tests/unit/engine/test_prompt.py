"""Prompts are cleaned, ended and cut as published."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from engine.prompt import MAX_TOKENS, clean_prompt, load_tokenizer


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


def test_a_file_that_is_no_tokenizer_is_named_so(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("<html>")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        load_tokenizer(path)
