"""The filter line of the list of runs: what it means, what it finds, how it is completed."""

from __future__ import annotations

import time

import pytest

from engine.errors import ComponentError
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.runs.finding import setting_keys
from tui.describe.runs.finding.filter import BadSearch, Search, complete, parse, search_of


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


@pytest.mark.parametrize(
    "line",
    ["status:", "tag: preset:", "since:", '"', "a 'b", "seed:", "seed:>=", "rating:>", "is:pin"],
)
def test_what_is_being_typed_is_no_error(line):
    parse(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("status:finished", "none of queued, running"),
        ("since:soon", "expected an age like 30min"),
        ("sed:7", "sed is no setting of a run, did you mean seed?"),
        ("output:7", "output is a table of settings: output.path, output.kinds, "),
        ("zzzz:7", "`modiff presets show --keys` lists"),
        ("name:euler", "said of components.text_encoder.name, .*scheduler.name; name one"),
        ("seed:red", "expected a number, as in seed:7"),
        ("seed:nan", "expected a number"),
        ("scheduler.name:>unipc", "only numbers are more or less"),
        ("overwrite:yes", "expected true or false"),
        ("rating:6", "expected 0 to 5 stars"),
        ("is:good", "expected is:pinned"),
    ],
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
        ("red se", "red seed:"),
        ("scheduler.name:dp", "scheduler.name:dpm++"),
        ("is:", "is:pinned"),
        ("", None),
        ("status:done ", None),
    ],
)
def test_completion(line, completed):
    assert complete(line, presets=["micro"], tags=["keep"]) == completed


def test_settings_by_their_short_names(store):
    def made(*overrides: str) -> str:
        return store.enqueue(
            encode_spec(load_preset("micro", overrides)), preset="micro", output=""
        )

    one = made("seed=7", "scheduler.steps=20", "guidance.scale=3")
    two = made("seed=8", "guidance.scale=[6, 1]", "scheduler.sigmas=[0.9, 0.5]")
    assert found(store, "seed:7") == [one]
    assert found(store, "seed:>=7") == [two, one]
    assert found(store, "steps:>=20") == [one]
    assert found(store, "guidance.scale:>3") == found(store, "guidance:>3") == [two]
    assert found(store, "sigmas:0.5") == [two]
    assert found(store, "scheduler.name:UNI*") == found(store, "scheduler:unipc") == [two, one]
    assert found(store, "keep.steps:1") == []
    assert found(store, "seed:7 seed:8") == []


def test_a_setting_that_a_spec_does_not_have_has_its_default(store):
    run_id = store.enqueue(b"{}", preset="p", output="")
    for line in ("guidance.scale:5", "steps:>40", "scheduler.name:unipc", "overwrite:false"):
        assert found(store, line) == [run_id], line
    for line in (
        "guidance.scale:<5",
        "scheduler.name:euler",
        "overwrite:true",
        "denoiser.options.x:5",
    ):
        assert found(store, line) == [], line


def test_what_is_inside_a_list_is_a_setting_too(store):
    def made(*overrides: str) -> str:
        return store.enqueue(
            encode_spec(load_preset("micro", overrides)), preset="micro", output=""
        )

    plain = made("guidance.scale=[{from=0, to=0.4, scale=6}]")
    one = made('extensions=[{name="teacache", options={threshold=0.3}}]')
    two = made(
        'extensions=[{name="nag"}, {name="teacache", enabled=false, options={threshold=0.1}}]'
    )
    assert found(store, "extensions:teacache") == [two, one]
    assert found(store, "extensions.name:TEA*") == [two, one]
    assert found(store, "extensions[0].name:teacache") == [one]
    assert found(store, "extensions[1].name:teacache") == [two]
    assert found(store, "extensions.options.threshold:>0.1") == [one]
    assert found(store, "extensions[0].options.threshold:0.3") == [one]
    assert found(store, "threshold:<=0.3") == [two, one]  # as it is told among what differs
    assert found(store, "extensions.enabled:false") == [two]
    assert found(store, "extensions.enabled:true") == [two, one]
    assert found(store, "guidance.scale.scale:>3") == [plain]
    for line in ("extensions.nam:x", "extensions[0]:x", "tresh:1", "extensions[x].name:y"):
        with pytest.raises(BadSearch):
            parse(line)


def test_an_option_is_unknown_where_extensions_cannot_be_listed(monkeypatch):
    def claimed():
        raise ComponentError("two packages claim one name")

    setting_keys._extension_options.cache_clear()
    monkeypatch.setattr("engine.extensions.registry.extensions", claimed)
    with pytest.raises(BadSearch, match="threshold is no setting of a run"):
        parse("threshold:0.3")
    setting_keys._extension_options.cache_clear()


def test_stars_pins_and_the_beginning_of_a_tag(store):
    one, two = add(store, "a star"), add(store, "a star")
    store.rate(one, 4)
    store.pin(two)
    store.tag(two, ["sweep/abc"])
    assert found(store, "rating:>=4") == found(store, "rating:4") == [one]
    assert found(store, "rating:0") == found(store, "is:pinned") == [two]
    assert found(store, "tag:sweep/*") == [two]
    assert found(store, "tag:sweep") == []


def test_on_a_command_line_nothing_is_still_being_typed():
    with pytest.raises(BadSearch, match="in quotes for the shell"):
        search_of(["seed:"])
    with pytest.raises(BadSearch, match="expected is:pinned"):
        search_of(["is:pin"])
    assert search_of(["a star", "text:seed:7"]) == Search(words=("a star", "seed:7"))
