"""Equal values have equal keys; nothing else has; what has no canonical form is refused."""

from __future__ import annotations

import collections
import enum
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from store.keys import MAX_DEPTH, canonical, derive_key

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = TEXT.filter(lambda name: not name.startswith("$"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)

# As first published. A difference here makes every stored link a miss: see store.keys.
GOLDEN = [
    (
        "step",
        {
            "parent": "k1:" + "0" * 64,
            "sigma": [1.0, 0.9375],
            "guidance": 5.0,
            "solver": {"name": "unipc", "order": 2},
            "denoiser": None,
        },
        "k1:e77990b00f76b1aa86206afefabfda61bb996031c654c7ff4ef00c625c6f64db",
    ),
    (
        "text",
        {"prompt": 'a "red" circle,\n\tein Kreis ünd 圆\u2028\x7f\x00\\', "max_tokens": 512},
        "k1:60b0a55dfd1e1349723fc1615c651e3eefbc54cf21e24b7b629217314e3da98f",
    ),
    (
        "text",
        [True, False, 0, 1, -(2**63), 2**64 - 1, -0.0, 5e-324, 1e308, "", [], {}],
        "k1:d42348034640359616c6c85b2f4abdd66d79786b5c84852572054b98b10e7b21",
    ),
]


@pytest.mark.parametrize(("domain", "value", "key"), GOLDEN)
def test_keys_are_those_that_were_published(domain, value, key):
    assert derive_key(domain, value) == key


def test_the_encoding_is_json_without_spaces_sorted_by_name():
    value = {"b": (1, 1.0, True, None), "a": "ü", "Z": {}, "é": [], "😀": 0}
    assert canonical(value).decode() == (
        '{"Z":{},"a":"ü","b":[1,{"$f":"0x1.0000000000000p+0"},true,null],"é":[],"😀":0}'
    )


def reordered(value):
    """The same value: dicts in another order, lists as tuples, zeros of the other sign."""
    if type(value) is dict:
        return {name: reordered(value[name]) for name in reversed(value)}
    if type(value) in (list, tuple):
        kind = tuple if type(value) is list else list
        return kind(reordered(item) for item in value)
    if type(value) is float and value == 0.0:
        return -value
    return value


def plain(value):
    """Type and value, without a sign of zero, so that == tells what keys must tell."""
    if type(value) is dict:
        return "dict", frozenset((name, plain(item)) for name, item in value.items())
    if type(value) in (list, tuple):
        return "list", tuple(plain(item) for item in value)
    return type(value).__name__, value


@given(VALUES)
def test_order_tuples_and_the_sign_of_zero_do_not_matter(value):
    assert canonical(reordered(value)) == canonical(value)


@given(VALUES, VALUES)
def test_different_values_have_different_encodings(one, other):
    assert (canonical(one) == canonical(other)) == (plain(one) == plain(other))


def places(value, path=()):
    """Where a scalar is in the value."""
    if type(value) is dict:
        return [place for name in value for place in places(value[name], (*path, name))]
    if type(value) is list:
        return [place for i in range(len(value)) for place in places(value[i], (*path, i))]
    return [path]


def changed(value, path, scalar):
    if not path:
        return scalar
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], scalar)
    return copy


@given(st.data(), VALUES, SCALARS)
def test_any_single_change_changes_the_key(data, value, scalar):
    found = places(value)
    assume(found)
    other = changed(value, data.draw(st.sampled_from(found)), scalar)
    assume(plain(other) != plain(value))
    assert derive_key("step", other) != derive_key("step", value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_next_float_is_another_one(value):
    following = math.nextafter(value, math.inf)
    assume(math.isfinite(following))
    assert canonical(value) != canonical(following)


def test_one_is_three_values_and_zero_one():
    assert len({canonical(value) for value in (1, 1.0, True, "1", [1])}) == 5
    assert canonical(0.0) == canonical(-0.0)
    assert len({canonical(value) for value in (0, 0.0, False, None, "", [], {})}) == 7


def test_a_float_is_not_a_dict_that_looks_like_one():
    with pytest.raises(ValueError, match="reserved"):
        canonical({"$f": "0x1.0000000000000p+0"})


def test_domains_do_not_share_keys():
    assert derive_key("step", {}) != derive_key("text", {})


@pytest.mark.parametrize("domain", ["", "Step", "a\nb", "a b", "step\n", "é", "a" * 65])
def test_what_is_no_domain_is_refused(domain):
    with pytest.raises(ValueError, match="domain"):
        derive_key(domain, {})


class Solver(enum.StrEnum):
    UNIPC = "unipc"


class Order(enum.IntEnum):
    TWO = 2


REFUSED = [
    math.nan,
    math.inf,
    -math.inf,
    b"bytes",
    bytearray(b"x"),
    {1, 2},
    frozenset(),
    np.float64(1.0),
    np.float32(1.0),
    np.int64(1),
    np.bool_(True),
    np.zeros(2),
    2**64,
    -(2**63) - 1,
    1j,
    pytest.param(object(), id="object"),  # its address is another one in every process
    Path("x"),
    Solver.UNIPC,
    Order.TWO,
    collections.OrderedDict(a=1),
    collections.namedtuple("Pair", "a b")(1, 2),
    range(3),
    "lone \ud800 surrogate",
    {"lone \udcff": 1},
    {1: "one"},
    {None: 1},
    {Solver.UNIPC: 1},
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: f"{type(value).__name__}-{value!a}")
def test_what_has_no_canonical_form_is_refused_with_the_path_to_it(value):
    with pytest.raises(ValueError, match=r"^scheduler\.options\[1\]\.x ") as caught:
        canonical({"a": 1, "scheduler": {"options": ["fine", {"x": value}]}})
    str(caught.value).encode()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^the value "):
        canonical(value)


def test_the_path_to_a_value_is_one_line():
    with pytest.raises(ValueError) as caught:
        canonical({"a\nb": [{"c.d": math.nan}]})
    assert str(caught.value) == "['a\\nb'][0]['c.d'] is nan, which is not finite"


def test_a_circle_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH}"):
        canonical(circle)
    nested = 0
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert canonical(nested) == b"[" * MAX_DEPTH + b"0" + b"]" * MAX_DEPTH


def test_another_process_with_another_hash_seed_derives_the_same_keys():
    code = (
        "import json, sys; from store.keys import derive_key; "
        "print(json.dumps([derive_key(d, v) for d, v in json.load(sys.stdin)]))"
    )
    asked = json.dumps([(domain, value) for domain, value, _ in GOLDEN])
    for seed in ("0", "1", "4242"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
            "PYTHONHASHSEED": seed,
        }
        derived = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            input=asked,
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(derived.stdout) == [key for _, _, key in GOLDEN]
