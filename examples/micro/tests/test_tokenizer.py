"""The tokenizer that ships: the file is what the code builds, and sentences survive the round trip."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.micro.grammar import WORDS, canonical_sentence, sample_attributes, training_caption
from examples.micro.model.architecture import MAX_TOKENS, TextShape
from examples.micro.model.tokenizer import EOS, PAD, UNKNOWN, VOCABULARY, build_tokenizer, tokenize


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(locate("tokenizer", BUILTIN_MICRO)))


def sentences(count: int) -> list[str]:
    rng = random.Random(9)
    return [training_caption(sample_attributes(rng), rng) for _ in range(count)]


def test_the_shipped_file_is_what_the_code_builds() -> None:
    file: Path = locate("tokenizer", BUILTIN_MICRO)
    assert file.read_text(encoding="utf-8") == build_tokenizer().to_str(pretty=False)


def test_ids_are_frozen(shipped: Tokenizer) -> None:
    assert shipped.get_vocab_size() == TextShape().vocab_size == 138
    ids = shipped.encode("a large red circle moves left over a dark blue background").ids
    assert ids == [3, 22, 46, 25, 31, 10, 35, 3, 7, 5, 4, EOS]
    assert [shipped.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")] == [
        PAD,
        EOS,
        UNKNOWN,
    ]


def test_sentences_survive_the_round_trip(shipped: Tokenizer) -> None:
    for text in sentences(300):
        assert shipped.decode(shipped.encode(text).ids[:-1]) == text.lower()


def test_every_word_of_the_grammar_is_one_token(shipped: Tokenizer) -> None:
    assert set(VOCABULARY) >= WORDS
    for word in WORDS:
        assert len(shipped.encode(word).ids) == 2, word


def test_no_sentence_is_too_long_for_training(shipped: Tokenizer) -> None:
    assert max(len(shipped.encode(text).ids) for text in sentences(3000)) <= MAX_TOKENS


def test_other_words_fall_to_letters_and_other_letters_to_unknown(shipped: Tokenizer) -> None:
    assert shipped.decode(shipped.encode("a zebra").ids[:-1]) == "a zebra"
    assert len(shipped.encode("zebra").ids) > 2
    ids = shipped.encode("红").ids
    assert UNKNOWN in ids
    assert ids[-1] == EOS
    assert shipped.encode("").ids == [EOS]


def test_batches_are_padded_and_keep_the_end_of_long_texts() -> None:
    rng = random.Random(1)
    text = canonical_sentence(sample_attributes(rng))
    ids, lengths = tokenize(build_tokenizer(), ["", text, " ".join([text] * 4)], 23)
    assert ids.shape == (3, 23)
    assert lengths.tolist()[0] == 1
    assert lengths.tolist()[2] == 23
    assert ids[0].tolist() == [EOS] + [PAD] * 22
    assert ids[2, -1] == EOS
    assert ids[1, : lengths[1]].tolist() == build_tokenizer().encode(text).ids
