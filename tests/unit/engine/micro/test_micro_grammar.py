"""The world in words: what belongs to it, what is held out, and which sentences describe it."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import pytest

from engine.micro.grammar import (
    BACKGROUNDS,
    FOREGROUNDS,
    MOTION_PHRASES,
    MOTIONS,
    SHAPES,
    SIZES,
    SWAP_PAIRS,
    Attributes,
    attribute_indices,
    attributes_from_indices,
    canonical_sentence,
    heldout_prompts,
    in_world,
    is_heldout,
    is_visible,
    paraphrase,
    sample_attributes,
    sample_training_attributes,
    tables,
    training_caption,
    unknown_words,
)

EVERYTHING = [Attributes(*words) for words in itertools.product(*tables())]
WORLD = [attributes for attributes in EVERYTHING if in_world(attributes)]


def test_the_world_has_its_size() -> None:
    assert [len(table) for table in tables()] == [8, 6, 4, 2, 12]
    # 42 colour pairs, 2 sizes, 4 shapes with 12 motions less the spinning circle
    assert len(WORLD) == len(set(WORLD)) == 42 * 2 * (4 * 12 - 1)


def test_low_contrast_pairs_are_left_out() -> None:
    invisible = {(f, b) for f in FOREGROUNDS for b in BACKGROUNDS if not is_visible(f, b)}
    assert invisible == {
        ("red", "brown"),
        ("green", "gray"),
        ("green", "dark green"),
        ("blue", "dark blue"),
        ("purple", "gray"),
        ("white", "light blue"),
    }
    assert not any((a.foreground, a.background) in invisible for a in WORLD)


def test_no_circle_spins() -> None:
    spinning = {a.shape for a in WORLD if a.motion == "spin"}
    assert spinning == set(SHAPES) - {"circle"}


def test_indices_and_words_are_the_same_thing() -> None:
    for attributes in EVERYTHING:
        assert attributes_from_indices(attribute_indices(attributes)) == attributes
    assert attribute_indices(Attributes("red", "black", "circle", "small", "left")) == (0,) * 5


def test_about_one_triple_in_nine_is_held_out() -> None:
    triples = {(a.foreground, a.shape, a.motion): is_heldout(a) for a in EVERYTHING}
    # size and background have no part in the rule
    assert all(is_heldout(a) == triples[a.foreground, a.shape, a.motion] for a in EVERYTHING)
    assert sum(triples.values()) / len(triples) == pytest.approx(1 / 9, abs=0.01)


@pytest.mark.parametrize("field", ["foreground", "background", "shape", "size", "motion"])
def test_training_sees_every_word_and_so_do_the_heldout_prompts(field: str) -> None:
    for heldout in (True, False):
        seen = {getattr(a, field) for a in WORLD if is_heldout(a) == heldout}
        assert seen == {getattr(a, field) for a in EVERYTHING}


def test_samples_stay_in_the_world_and_training_away_from_what_is_held_out() -> None:
    rng = random.Random(0)
    drawn = [sample_attributes(rng) for _ in range(2000)]
    assert all(in_world(a) for a in drawn)
    assert any(is_heldout(a) for a in drawn)
    trained = [sample_training_attributes(rng, swap_share=0.3) for _ in range(2000)]
    assert all(in_world(a) and not is_heldout(a) for a in trained)


def test_swapped_colours_are_oversampled() -> None:
    rng = random.Random(0)
    drawn = [sample_attributes(rng, swap_share=1.0) for _ in range(100)]
    assert {(a.foreground, a.background) for a in drawn} == set(SWAP_PAIRS)


def test_the_canonical_sentence() -> None:
    attributes = Attributes("red", "dark blue", "circle", "large", "left")
    expected = "a large red circle moves left over a dark blue background"
    assert canonical_sentence(attributes) == expected
    sentences = {canonical_sentence(a) for a in WORLD}
    assert len(sentences) == len(WORLD)


def test_the_article_fits_the_next_word() -> None:
    attributes = Attributes("orange", "gray", "star", "small", "still")
    rng = random.Random(1)
    captions = [training_caption(attributes, rng).lower() for _ in range(400)]
    assert any("an orange star" in caption for caption in captions)
    assert not any("a orange" in caption or "an small" in caption for caption in captions)


def test_paraphrases_name_every_attribute() -> None:
    rng = random.Random(2)
    for attributes in rng.sample(WORLD, 300):
        text = paraphrase(attributes, rng)
        for word in (attributes.foreground, attributes.background, attributes.shape):
            assert f" {word}" in f" {text}"
        assert any(phrase in text for phrase in MOTION_PHRASES[attributes.motion])


def test_captions_leave_things_out_now_and_then() -> None:
    attributes = Attributes("red", "gray", "star", "small", "left")
    rng = random.Random(3)
    captions = [training_caption(attributes, rng).lower() for _ in range(3000)]
    without_background = sum("gray" not in caption for caption in captions) / 3000
    without_size = sum("small" not in c and "little" not in c for c in captions) / 3000
    assert without_background == pytest.approx(0.06, abs=0.02)
    assert without_size == pytest.approx(0.12, abs=0.03)
    assert all("red star" in caption for caption in captions)


def test_heldout_prompts_depend_on_the_seed_alone() -> None:
    prompts = heldout_prompts(40, 5)
    assert prompts == heldout_prompts(40, 5)
    assert prompts != heldout_prompts(40, 6)
    assert prompts[:10] == heldout_prompts(10, 5)
    assert all(is_heldout(a) and text == canonical_sentence(a) for a, text in prompts)
    seen = heldout_prompts(40, 5, paraphrased=True, heldout=False)
    assert not any(is_heldout(a) for a, _ in seen)


def test_every_sentence_of_the_world_is_known() -> None:
    rng = random.Random(4)
    for attributes in WORLD:
        assert unknown_words(canonical_sentence(attributes)) == []
    for attributes in rng.sample(WORLD, 500):
        assert unknown_words(training_caption(attributes, rng)) == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("", []),
        ("a cat plays the piano", ["cat", "plays", "piano"]),
        ("A LARGE Red Circle, MOVES left!", []),
        ("red dog chases red dog", ["dog", "chases"]),
        ("a ｒｅｄ circle", []),  # full-width letters
        ("一个红色的圆", ["一个红色的圆"]),
        ("a well-lit red star", ["well-lit"]),
        ("4 stars", ["4", "stars"]),
    ],
)
def test_unknown_words(prompt: str, unknown: list[str]) -> None:
    assert unknown_words(prompt) == unknown


def test_words_of_other_worlds_are_unknown() -> None:
    # the tokenizer has them, the grammar does not
    assert unknown_words("a tiny cross and a ring") == ["tiny", "cross", "ring"]


def test_the_grammar_needs_no_torch() -> None:
    code = "import sys, engine.micro.grammar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_motions_and_sizes_have_words() -> None:
    assert set(MOTION_PHRASES) == set(MOTIONS)
    assert SIZES == ("small", "large")
