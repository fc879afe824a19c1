"""Keys into lists and tables: what is read, what is written, and that nothing but a PresetError comes of any text."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.fields.checks import build
from presets.fields.keys import key_of, parse_key, split_key, value_at
from presets.fields.listing import fields, fields_of, value_of
from presets.library.loading import load_preset, override
from presets.settings.overrides import toml_value
from presets.spec.run import RunSpec
from presets.spec.sampling import ExtensionSpec
from presets.spec.sections import SECTIONS
from presets.validation import to_plain

few = settings(max_examples=30, deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
paths = st.builds(
    lambda first, rest: (first, *rest),
    texts,
    st.lists(texts | st.integers(-999_999, 999_999), max_size=4),
).map(tuple)

TEACACHE = '+extensions={name = "teacache", options = {threshold = 0.1}}'


def extensions_of(*overrides: str) -> tuple[ExtensionSpec, ...]:
    return load_preset("micro", overrides).extensions


@few
@given(paths)
def test_every_path_has_a_key_that_is_read_as_it(path: tuple[str | int, ...]) -> None:
    assert parse_key(key_of(path)) == path
    assert split_key(key_of(path) + "=x") == (key_of(path), "=x")


@pytest.mark.parametrize(
    "key", ["", ".", "a.", ".a", "a[", "a[x]", "a[0", "[0]", "a b", 'a."', "a..b"]
)
def test_what_is_no_key(key: str) -> None:
    assert parse_key(key) is None


KEYS = st.sampled_from(
    [field.key for field in fields(RunSpec)]
    + [
        "extensions[0]",
        "extensions[-1].options.threshold",
        "extensions.name",
        "guidance.scale[0].to",
    ]
    + ["scheduler.sigmas[0]", "components", "extensions[9].x", "extensions[0].enabled", "format"]
)
WORDS = st.sampled_from(
    ["1", "0.5", "[]", "[1.0, 0.5]", "teacache", "{}", "true", "{name='x'}", ""]
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.builds("{}{}={}".format, st.sampled_from(["", "+", "-"]), KEYS | texts, WORDS | texts)
        | st.builds("-{}".format, KEYS | texts),
        max_size=4,
    )
)
def test_any_overrides_are_applied_or_refused_in_a_line(overrides: list[str]) -> None:
    try:
        spec = load_preset("micro", overrides)
    except PresetError:
        return
    assert override(spec) == spec


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,8}", fullmatch=True)
options = st.dictionaries(
    texts.filter(bool), st.booleans() | st.integers(-9, 9) | texts, max_size=3
)
items = st.builds(ExtensionSpec, name=names, options=options, enabled=st.booleans())


@few
@given(st.lists(items, max_size=4), st.data())
def test_what_is_added_is_there_and_what_is_removed_is_gone(
    wanted: list[ExtensionSpec], data: st.DataObject
) -> None:
    typed = [f"+extensions={toml_value(to_plain(item))}" for item in wanted]
    assert extensions_of(*typed) == tuple(wanted)
    if wanted:
        index = data.draw(st.integers(-len(wanted), len(wanted) - 1))
        left = [*wanted]
        del left[index]
        assert extensions_of(*typed, f"-extensions[{index}]") == tuple(left)


@few
@given(st.lists(items, min_size=1, max_size=3))
def test_every_key_of_an_item_can_be_set(wanted: list[ExtensionSpec]) -> None:
    spec = load_preset("micro", values={"extensions": wanted})
    typed = [
        f"{field.key}={toml_value(to_plain(value_of(spec, field)))}"
        for field in fields_of(spec)
        if field.key.startswith("extensions[")
    ]
    blank = load_preset("micro", ["+extensions.name=x"] * len(wanted))
    assert encode_spec(override(blank, typed)) == encode_spec(spec)
    for index, item in enumerate(wanted):
        one_by_one = [
            f"{key_of(('extensions', index, 'options', name))}={toml_value(value)}"
            for name, value in item.options.items()
        ]
        made = override(blank, one_by_one).extensions[index]
        assert made.options == item.options


def test_overrides_are_applied_as_they_are_typed() -> None:
    first = "+extensions.name=skip-layer-guidance"
    assert [each.name for each in extensions_of(first, TEACACHE)] == [
        "skip-layer-guidance",
        "teacache",
    ]
    last = extensions_of(TEACACHE, first, "extensions[-1].options.blocks=3")[-1]
    assert last.options == {"blocks": 3}
    assert extensions_of(first, "extensions=[]", TEACACHE)[0].name == "teacache"
    assert extensions_of(TEACACHE, "-extensions[0].options.threshold")[0].options == {}
    assert extensions_of(TEACACHE, "extensions[0].enabled=false")[0].enabled is False


def test_items_of_other_lists() -> None:
    spec = load_preset("micro", ["scheduler.sigmas=[1.0, 0.5]", "+scheduler.sigmas=0.25"])
    assert (spec.scheduler.sigmas, spec.scheduler.steps) == ((1.0, 0.5, 0.25), 3)
    assert override(spec, ["-scheduler.sigmas[0]", "scheduler.sigmas[0]=0.6"]).scheduler.steps == 2
    assert load_preset("micro", ["+output.kinds=latents"]).output.kinds == ("video", "latents")
    piece = ["guidance.scale=[{from = 0, to = 0.4, scale = 6}]", "guidance.scale[0].to=0.5"]
    assert load_preset("micro", piece).guidance.scale[0].stop == 0.5


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("extensions[1].name=x", "extensions[1].name: extensions has no item 1; there is extensions[0] alone"),
        ("-extensions[3]", "extensions[3]: extensions has no item 3; there is extensions[0] alone"),
        ("scheduler.sigmas[0]=1", "scheduler.sigmas[0]: scheduler.sigmas has no item 0; it is empty"),
        (
            "extensions[0].nam=x",
            "extensions[0].nam: unknown key, did you mean extensions[0].name?",
        ),
        ("extensions[0].enabled=1", "extensions[0].enabled: expected true or false, got 1"),
        ("extensions[0].options.a=[1]", "extensions[0].options.a: expected true, false, a number"),
        ("seed[0]=1", "seed[0]: seed is no list"),
        ("seed.x=1", "seed.x: seed holds no other keys"),
        ("guidance.scale[0].to=1", "guidance.scale[0].to: guidance.scale is one value here, no list"),
        ("+seed=1", "seed: is no list; there are scheduler.sigmas, extensions, output.kinds, keep.steps"),
        ("+extension.name=x", "extension: unknown key, did you mean extensions?"),
        ("+extensions.enabled=true", "extensions.name: missing, expected a name of letters"),
        ("+extensions", 'expected an addition like extensions.name=teacache, got "+extensions"'),
        ("-seed", "seed: expected an item of a list, like extensions[1], or an option"),
        ("-extensions[0].options.no", "extensions[0].options.no: is not set, did you mean"),
        ("-extensions[0]=1", 'expected an item like extensions[1], got "extensions[0]=1"'),
    ],
)  # fmt: skip
def test_refusals_name_the_key_what_was_given_and_what_is_near(override: str, line: str) -> None:
    with pytest.raises(PresetError) as caught:
        load_preset("micro", [TEACACHE, override])
    assert str(caught.value).startswith(line)


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    strength: Annotated[float, Meta(ge=0, le=1, description="how much")] = 0.5


def test_known_options_are_fields_with_their_limits_and_unknown_ones_can_be_seen() -> None:
    item = ExtensionSpec(name="mine", options={"other": 3})
    spec = load_preset("micro", values={"extensions": [item, ExtensionSpec(name="what")]})
    schemas = {("extension", "mine"): Options}
    found = {
        field.key.removeprefix("extensions"): field
        for field in fields_of(spec, lambda kind, name: schemas.get((kind, name)))
        if field.section == "extensions"
    }
    assert list(found) == [
        "",
        *("[0].name", "[0].enabled", "[0].options.strength", "[0].options.other"),
        *("[1].name", "[1].enabled", "[1].options"),
    ]
    strength = found["[0].options.strength"]
    assert (strength.expected, strength.description) == (
        "a finite number >= 0 and <= 1",
        "how much",
    )
    assert (value_of(spec, strength), strength.title, strength.role) == (0.5, "strength", "")
    assert value_of(spec, found["[0].options.other"]) == 3
    assert found["[0].name"].role == "component:extension"


def test_every_field_is_in_a_section_that_there_is() -> None:
    assert {field.section for field in fields(RunSpec)} == {section.name for section in SECTIONS}


# Tagged unions, which no spec has yet


class Here(msgspec.Struct, frozen=True, tag="here", tag_field="kind"):
    device: str = "cpu"


class Remote(msgspec.Struct, frozen=True, tag="remote", tag_field="kind"):
    host: str = ""
    port: Annotated[int, Meta(ge=1, le=65535)] = 80


class Holder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    place: Here | Remote = Here()
    places: tuple[Here | Remote, ...] = ()


def test_of_a_tagged_union_the_tag_comes_first_and_then_the_keys_of_the_variant() -> None:
    held = Holder(place=Remote(host="a"), places=(Here(), Remote()))
    found = fields_of(held)
    assert [field.key for field in found] == [
        *("place.kind", "place.host", "place.port", "places"),
        *(
            "places[0].kind",
            "places[0].device",
            "places[1].kind",
            "places[1].host",
            "places[1].port",
        ),
    ]
    assert found[0].expected == '"here" or "remote"'
    assert [value_of(held, field) for field in found[:3]] == ["remote", "a", 80]
    assert [field.key for field in fields(Holder)] == [
        *("place.kind", "place.device", "place.host", "place.port", "places"),
    ]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"place": {"kind": "remot"}}, 'place.kind: expected "here" or "remote", got "remot", did'),
        ({"place": {"kind": "remote", "port": 0}}, "place.port: expected an integer >= 1 and <= 65535"),
        ({"places": [{"kind": "here", "device": 1}]}, "places[0].device: expected text, got 1"),
        ({"place": {}}, "place.kind: "),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_tagged_union_is_named(data: dict[str, Any], line: str) -> None:
    with pytest.raises(PresetError) as caught:
        build(data, Holder)
    assert str(caught.value).startswith(line)


def test_a_tagged_union_comes_back_from_plain_data() -> None:
    held = Holder(place=Remote(host="a"))
    assert build(to_plain(held), Holder) == held
    assert value_at(held, ("place", "kind")) == "remote"
