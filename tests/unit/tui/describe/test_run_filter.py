"""The filter line of the list of runs: what it means, what it finds, how it is completed."""

from __future__ import annotations

import time

import pytest

from presets.encoding import encode_spec
from presets.library import load_preset
from store.store import open_store
from tui.describe.run_filter import BadSearch, Search, complete, parse


def add(store, prompt: str, preset: str = "micro") -> str:
    spec = load_preset("micro", [f'prompt="{prompt}"'])
    return store.enqueue(encode_spec(spec), preset=preset, output="")


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def found(store, line: str, limit: int = 500) -> list[str]:
    return [run.id for run in parse(line).find(store, limit)]


def test_keys_and_words():
    assert parse("") == Search()
    assert parse("star preset:micro status:done tag:a tag:b/c pinned") == Search(
        words=("star",), tags=("a", "b/c"), status="done", preset="micro", is_pinned=True
    )
    assert parse('"a star" up') == Search(words=("a star", "up"))
    assert parse("http://x") == Search(words=("http://x",))  # no key of ours


def test_moments():
    day = 86_400 * 10**9
    assert parse("since:2d").since_ns == pytest.approx(time.time_ns() - 2 * day, abs=10**10)
    one = parse("since:2026-11-01 until:2026-11-01")
    assert one.until_ns - one.since_ns == pytest.approx(day, abs=day // 20)


@pytest.mark.parametrize("line", ["status:", "tag: preset:", "since:", '"', "a 'b"])
def test_what_is_being_typed_is_no_error(line):
    parse(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("status:finished", "none of queued, running"), ("since:soon", "expected an age like 30min")],
)
def test_what_means_nothing(line, expected):
    with pytest.raises(BadSearch, match=expected):
        parse(line)


def test_all_words_must_fit(store):
    one = add(store, "a red star moves up")
    two = add(store, "a red circle moves up")
    assert found(store, "") == [two, one]
    assert found(store, "red star") == [one]
    assert found(store, "RED Up") == [two, one]
    assert found(store, "red square") == []


def test_what_was_added(store):
    one, two = add(store, "a star"), add(store, "a star", preset="other")
    store.tag(one, ["keep"])
    store.pin(two)
    store.note(one, "the hand is right")
    assert found(store, "tag:keep") == [one]
    assert found(store, "pinned") == [two]
    assert found(store, "preset:other star") == [two]
    assert found(store, "star hand") == [one]
    assert found(store, "status:done") == []


def test_older_ones_are_found_where_newer_do_not_fit(store):
    old = add(store, "a red star")
    store.pin(old)
    for _ in range(3):
        add(store, "a red circle")
    assert found(store, "pinned", limit=2) == [old]
    assert found(store, "red star", limit=2) == [old]
    assert len(found(store, "red", limit=2)) == 2


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("st", "status:"),
        ("star pi", "star pinned"),
        ("status:in", "status:interrupted"),
        ("red preset:m", "red preset:micro"),
        ("tag:k", "tag:keep"),
        ("since:2", None),
        ("star", None),
        ("", None),
        ("status:done ", None),
    ],
)
def test_completion(line, completed):
    assert complete(line, presets=["micro"], tags=["keep"]) == completed
