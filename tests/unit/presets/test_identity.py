"""Which options of a component count in a key."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta
from msgspec.structs import replace

from presets.fields.listing import fields
from presets.identity import counting
from presets.spec.components import ComponentSpec, DenoiserSpec, TextEncoderSpec, VAESpec
from presets.validation import to_plain

PARTS: tuple[type[ComponentSpec], ...] = (TextEncoderSpec, DenoiserSpec, VAESpec)

values = (
    st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.dictionaries(st.text(max_size=2), st.integers(0, 1), max_size=2)
)


def test_what_counts_of_the_defaults() -> None:
    assert counting(TextEncoderSpec()) == {"name": "umt5", "dtype": "bf16"}
    assert counting(DenoiserSpec()) == {"name": "wan-dit", "dtype": "bf16"}
    assert counting(VAESpec()) == {"name": "wan-vae", "dtype": "fp32", "chunk_frames": 2}


def test_where_something_runs_or_lies_does_not_count() -> None:
    moved = TextEncoderSpec(checkpoint="a.gguf", tokenizer="t.json", device="cuda:1")
    assert counting(moved) == counting(TextEncoderSpec())


def test_an_option_counts_where_it_is_not_neutral() -> None:
    assert counting(DenoiserSpec(attention="plain"))["attention"] == "plain"
    assert counting(VAESpec(tile_size=256))["tile_size"] == 256
    assert counting(VAESpec(options={"a": 1}))["options"] == {"a": 1}
    assert "chunk_frames" not in counting(VAESpec(chunk_frames=0))


@pytest.mark.parametrize("part", PARTS)
def test_an_option_that_is_added_changes_nothing_until_it_is_used(
    part: type[ComponentSpec],
) -> None:
    added = msgspec.defstruct(
        "Added",
        [("blocks_swapped", Annotated[int, Meta(ge=0, extra={"neutral": 0})], 0)],
        bases=(part,),
        frozen=True,
        kw_only=True,
    )
    assert counting(added()) == counting(part())
    assert counting(added(blocks_swapped=3)) == counting(part()) | {"blocks_swapped": 3}


@settings(max_examples=40, deadline=None)
@given(neutral=values, value=values, other=values)
def test_an_option_counts_just_where_it_is_written_otherwise_than_its_neutral_value(
    neutral: object, value: object, other: object
) -> None:
    # described, because typing takes equal annotations for one, and to Python false equals 0
    meta = Meta(description=repr(neutral), extra={"neutral": neutral, "expected": "any"})
    made = msgspec.defstruct(
        "Made",
        [
            ("name", str, "x"),
            ("option", Annotated[object, meta], 0),
            ("place", Annotated[object, Meta(extra={"place": True, "expected": "any"})], 0),
        ],
        frozen=True,
    )
    same = msgspec.json.encode(value, order="sorted") == msgspec.json.encode(
        neutral, order="sorted"
    )
    expected = {"name": "x"} | ({} if same else {"option": value})
    assert counting(made("x", value, other)) == expected


@pytest.mark.parametrize("part", PARTS)
def test_a_neutral_value_is_one_that_the_option_takes(part: type[ComponentSpec]) -> None:
    for field in fields(part):
        if "neutral" in field.extra:
            built = msgspec.convert({field.key: field.extra["neutral"]}, part)
            assert field.key not in counting(built)
            assert type(field.extra["neutral"]) is type(to_plain(field.default))


def test_parts_are_equal_where_they_are_written_alike() -> None:
    assert VAESpec(options={"a": 1, "b": 2}) == VAESpec(options={"b": 2, "a": 1})
    assert hash(VAESpec(options={"a": 1, "b": 2})) == hash(VAESpec(options={"b": 2, "a": 1}))
    whole, broken, switch = (VAESpec(options={"a": value}) for value in (1, 1.0, True))
    assert len({whole, broken, switch, replace(whole)}) == 3
    assert TextEncoderSpec(name="x") != DenoiserSpec(name="x")
