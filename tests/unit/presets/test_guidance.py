"""Guidance per step: what is taken, what is refused with which words, and which scale each step has."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.encoding import decode_spec, encode_spec, json_schema
from presets.errors import PresetError
from presets.guidance import scales
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from presets.spec.sampling import GuidancePiece, GuidanceSpec


def piece(start: float, stop: float, scale: float) -> GuidancePiece:
    return GuidancePiece(start=start, stop=stop, scale=scale)


def test_one_number_is_the_scale_of_all_steps() -> None:
    assert scales(GuidanceSpec(scale=4.5), 3) == (4.5, 4.5, 4.5)
    assert scales(GuidanceSpec(), 2) == (5.0, 5.0)


def test_a_list_has_the_scale_of_each_step() -> None:
    assert scales(GuidanceSpec(scale=(6.0, 3.0, 1.0)), 3) == (6.0, 3.0, 1.0)
    for num_steps in (2, 4):
        with pytest.raises(PresetError, match=rf"guidance\.scale: expected {num_steps} numbers"):
            scales(GuidanceSpec(scale=(6.0, 3.0, 1.0)), num_steps)


def test_a_piece_begins_with_its_first_step_and_ends_before_its_last() -> None:
    guidance = GuidanceSpec(scale=(piece(0.5, 0.75, 3.0), piece(0.0, 0.4, 6.0)))
    assert scales(guidance, 4) == (6.0, 6.0, 3.0, 1.0)
    assert scales(guidance, 10) == (6, 6, 6, 6, 1, 3, 3, 3, 1, 1)
    assert scales(GuidanceSpec(scale=(piece(0, 1, 2.0),)), 3) == (2.0, 2.0, 2.0)


@given(
    st.sets(st.integers(0, 100), min_size=2, max_size=6).map(sorted),
    st.data(),
    st.integers(1, 60),
)
def test_pieces_agree_with_exact_fractions(
    edges: list[int], data: st.DataObject, num_steps: int
) -> None:
    bounds = list(pairwise(edges))
    chosen = data.draw(st.lists(st.sampled_from(bounds), unique=True, min_size=1))
    pieces = tuple(piece(a / 100, b / 100, 2.0 + a / 2) for a, b in chosen)
    expected = []
    for index in range(num_steps):
        share = Fraction(100 * index, num_steps)
        expected.append(next((2.0 + a / 2 for a, b in chosen if a <= share < b), 1.0))
    assert scales(GuidanceSpec(scale=pieces), num_steps) == tuple(expected)
    spec = RunSpec(guidance=GuidanceSpec(scale=pieces))
    assert decode_spec(encode_spec(spec)) == spec


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("5", b'{"scale":5.0}'),
        ("[5, 5.5, 1]", b'{"scale":[5.0,5.5,1.0]}'),
        (
            "[{from=0,to=0.4,scale=6}, {from=0.4, to=1, scale=2}]",
            b'{"scale":[{"from":0.0,"scale":6.0,"to":0.4},{"from":0.4,"scale":2.0,"to":1.0}]}',
        ),
    ],
)
def test_the_three_forms_by_override_file_and_bytes(text: str, plain: bytes, tmp_path) -> None:
    spec = load_preset("micro", ["scheduler.steps=3", f"guidance.scale={text}"])
    encoded = encode_spec(spec)
    assert b'"guidance":' + plain in encoded
    assert decode_spec(encoded) == spec
    path = tmp_path / "own.toml"
    path.write_text(
        f'extends = "micro"\n[scheduler]\nsteps = 3\n[guidance]\nscale = {text}\n', encoding="utf-8"
    )
    assert load_preset(path) == spec


def test_the_bytes_of_a_number_are_those_of_before_there_was_anything_else() -> None:
    assert b'"guidance":{"scale":5.0},' in encode_spec(RunSpec())


def test_pieces_may_be_an_array_of_tables(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'extends = "micro"\n[[guidance.scale]]\nfrom = 0.0\nto = 0.5\nscale = 4.0\n',
        encoding="utf-8",
    )
    assert load_preset(path).guidance.scale == (piece(0, 0.5, 4),)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[5]", "guidance.scale: expected 3 numbers, one for each step, got 1"),
        ("[]", "guidance.scale: expected an array (at least 1, at most 1000)"),
        ("101", "guidance.scale: expected a finite number >= 0 and <= 100, got 101"),
        ("high", "guidance.scale: expected a finite number >= 0 and <= 100, an array of one for"),
        ("true", "guidance.scale: expected a finite number >= 0 and <= 100, an array of one for"),
        ("[5, 101, 1]", "guidance.scale[1]: expected a finite number >= 0 and <= 100, got 101"),
        ("[5, 'x']", "guidance.scale[1]: expected a finite number >= 0 and <= 100 or a piece like"),
        ("[5, nan, 1]", "guidance.scale[1]: expected a finite number"),
        ("{from=0, to=1, scale=2}", "guidance.scale: expected a finite number >= 0 and <= 100, an"),
        ("[5, {from=0, to=1, scale=2}]", "guidance.scale: expected numbers or pieces, got both"),
        (
            "[{from=0, to=0.4, scale=6}, {from=0.5, to=1.5, scale=2}]",
            "guidance.scale[1].to: expected a finite number >= 0 and <= 1, got 1.5",
        ),
        (
            "[{from=0.4, to=0.4, scale=6}]",
            "guidance.scale[0].to: expected more than 0.4, where the piece begins, got 0.4",
        ),
        (
            "[{from=0.3, to=0.5, scale=6}, {from=0, to=0.4, scale=2}]",
            "guidance.scale[1]: overlaps guidance.scale[0]: they are from 0.0 to 0.4 and from 0.3 to 0.5",
        ),
        (
            "[{from=0, to=0.4}]",
            "guidance.scale[0].scale: missing, expected a finite number >= 0 and <= 100",
        ),
        (
            "[{from=0, too=0.4, scale=6}]",
            "guidance.scale[0].too: unknown key, did you mean guidance.scale[0].to?",
        ),
    ],
)
def test_what_is_refused_is_named(text: str, line: str) -> None:
    with pytest.raises(PresetError) as caught:
        load_preset("micro", ["scheduler.steps=3", f"guidance.scale={text}"])
    assert str(caught.value).startswith(line)


def test_the_file_that_set_a_wrong_piece_is_named(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'extends = "micro"\n[guidance]\nscale = [{from = 0.5, to = 0.2, scale = 3}]\n',
        encoding="utf-8",
    )
    with pytest.raises(PresetError) as caught:
        load_preset(path)
    assert (caught.value.key, caught.value.source) == ("guidance.scale[0].to", str(path))


def test_the_schema_knows_the_three_forms() -> None:
    defs = json_schema()["$defs"]
    number, array = defs["GuidanceSpec"]["properties"]["scale"]["anyOf"]
    assert number == {"type": "number", "minimum": 0, "maximum": 100}
    assert array["items"]["anyOf"] == [number, {"$ref": "#/$defs/GuidancePiece"}]
    assert defs["GuidancePiece"]["required"] == ["from", "to", "scale"]
