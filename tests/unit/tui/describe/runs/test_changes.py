"""Runs as families: their order, what a branch changed, and parents that are not shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.lineage.records import RunRecord, Segment
from store.store import open_store
from tui.describe.runs.changes import (
    preset_changes,
    settings_in,
    value_told,
    values_told,
    values_within,
    varying,
)
from tui.describe.runs.families import families, mark_of, told
from tui.describe.runs.run import RunRow


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def add(store, *overrides: str, parent: str = "", at: int | None = None) -> str:
    spec = encode_spec(load_preset("micro", ["scheduler.steps=5", *overrides]))
    segments = []
    if at:
        segments = [*store.run(parent).segments, Segment(at, store.run(parent).spec_json)]
    return store.enqueue(
        spec, preset="micro", output="", parent=parent, parent_step=at, segments=segments
    )


def row(record: RunRecord) -> RunRow:
    return RunRow(record, (), "a star")


def rows(store, *run_ids: str) -> list[RunRow]:
    """Those runs, or all of them, newest first."""
    records = store.runs(limit=100)
    return [row(run) for run in records if not run_ids or run.id in run_ids]


def lines(relatives) -> list[str]:
    return [
        f"{'  ' * each.depth}{each.row.record.id} {told(each)}{'' if each.fits else ' (not asked for)'}"
        for each in relatives
    ]


def test_branches_come_below_their_parents_in_their_order(store):
    old = add(store)
    one = add(store, "guidance.scale=4", parent=old, at=2)
    lone = add(store)
    two = add(store, "seed=9", "scheduler.name=euler", parent=old, at=0)
    below = add(store, "guidance.scale=4", 'prompt="a circle"', parent=one, at=3)
    assert lines(families(rows(store))) == [
        f"{old} a star",
        f"  {one} @2 guidance 2.5→4",
        f'    {below} @3 prompt "a circle"',
        f"  {two} @0 seed 0→9, scheduler unipc→euler",
        f"{lone} a star",
    ]


def test_a_family_that_was_branched_lately_comes_first(store):
    old, lone = add(store), add(store)
    add(store, parent=old, at=1)
    assert [each.row.record.id for each in families(rows(store)) if not each.depth] == [old, lone]


def test_ancestors_that_do_not_fit_are_there_for_their_branches(store):
    old = add(store)
    one = add(store, "guidance.scale=4", parent=old, at=2)
    two = add(store, "guidance.scale=6", parent=one, at=3)
    found = families(rows(store, two), rows(store, old, one))
    assert lines(found) == [
        f"{old} a star (not asked for)",
        f"  {one} @2 guidance 2.5→4 (not asked for)",
        f"    {two} @3 guidance 4→6",
    ]


def test_a_branch_of_a_removed_run_begins_a_family(store):
    old = add(store)
    one = add(store, parent=old, at=2)
    assert lines(families(rows(store, one))) == [f"{one} @2 a star"]


def test_every_run_is_there_once_also_where_the_store_goes_in_circles(store):
    records = [store.run(add(store)) for _ in range(3)]
    a, b, c = records
    looped = [
        row(replace(a, parent=b.id)),
        row(replace(b, parent=a.id)),
        row(replace(c, parent=c.id)),
    ]
    assert sorted(each.row.record.id for each in families(looped)) == sorted(r.id for r in records)


def test_long_families_need_no_deep_stack(store):
    first = store.run(add(store))
    chain = [first]
    for number in range(3000):
        chain.append(replace(first, id=f"r{number}", parent=chain[-1].id, created_ns=number))
    found = families([row(record) for record in reversed(chain)])
    assert [each.depth for each in found] == list(range(3001))


def test_what_is_told_of_values():
    assert value_told(2.5) == "2.5"
    assert value_told(True) == "true"
    assert value_told("euler") == "euler"
    assert value_told("http://10.0.0.7:8000/v1", 14) == "http://10.0.0…"
    assert value_told("/models/wan/vae.safetensors", 16) == "vae.safetensors"
    assert value_told("a star") == '"a star"'
    assert value_told("") == '""'
    assert value_told(None) == "–"
    assert value_told("\x1b[2J" * 9, 12) == r"\x1b[2J\x1b…"
    assert value_told(4.0) == "4"
    assert value_told(2**64 - 1) == "18446744073709551615"
    assert value_told((6, 6, 1)) == "6×2 1×1"
    assert value_told("/models/of/somebody/wan.safetensors") == "wan.safetensors"
    assert len(value_told("a very long prompt that goes on and on")) == 24


def test_a_branch_that_changes_nothing(store):
    old = add(store)
    add(store, "output.path=/tmp/x.mp4", "keep.every=2", parent=old, at=2)
    assert told(families(rows(store))[1]) == "@2 the same"


def test_marks():
    marks = ["x", "y", "z"]
    assert [mark_of(run_id, marks) for run_id in ("x", "y", "z", "w")] == ["A", "B", "+", ""]


def test_guidance_that_changes_between_steps_is_told_in_words(store):
    old = add(store)
    pieces = "guidance.scale=[{from=0,to=0.4,scale=6}]"
    one = add(store, pieces, parent=old, at=2)
    add(store, "guidance.scale=[" + "6," * 2 + "1," * 3 + "]", parent=one, at=3)
    said = "\n".join(told(each) for each in families(rows(store)))
    assert "guidance 2.5→6 in 0–0.4" in said
    assert "guidance 6 in 0–0.4→6×2 1×3" in said


def test_what_varies_among_the_runs_of_a_preset(store):
    one = add(
        store, "seed=1", 'prompt="a star"', "output.path=/tmp/x.mp4", "components.vae.dtype=bf16"
    )
    two = add(store, "seed=2", "guidance.scale=4", "components.vae.dtype=bf16")
    three = add(store, "seed=3", "guidance.scale=4", "keep.every=2", "components.vae.dtype=bf16")
    lone = store.enqueue(encode_spec(load_preset("micro", ["seed=9"])), preset="mine", output="")
    found = varying(store.runs(limit=9))
    assert found[one] == {"seed": 1, "guidance.scale": 2.5}
    assert found[three] == {"seed": 3, "guidance.scale": 4.0}
    assert values_told(found[two]) == "seed 2, guidance 4"
    assert found[lone] == {}
    assert varying([store.run(two), store.run(three)])[two] == {"seed": 2}


def test_what_most_others_have_otherwise_comes_first(store):
    usual = [add(store, f"seed={seed}") for seed in (1, 2, 2)]
    odd = add(store, "seed=2", "guidance.scale=4")
    found = varying(store.runs(limit=9))
    assert values_told(found[odd]) == "guidance 4, seed 2"
    assert values_told(found[usual[0]]) == "seed 1, guidance 2.5"


def test_true_is_not_one_and_a_key_may_be_missing(store):
    def made(**spec):
        return store.run(store.enqueue(json.dumps(spec).encode(), preset="p", output=""))

    runs = [made(a=1, b=2), made(a=True), made(a=1)]
    found = varying(runs)
    assert [values_told(found[run.id]) for run in runs] == ["b 2, a 1", "a true, b –", "a 1, b –"]


def test_what_a_run_changes_of_its_preset(store):
    run = store.run(add(store, "seed=7", 'prompt="a star"', "components.vae.dtype=bf16"))
    preset = settings_in(encode_spec(load_preset("micro")))
    assert values_told(preset_changes(run, preset)) == "vae.dtype bf16, seed 7, steps 5"
    assert preset_changes(run, {}) == {}


@pytest.mark.parametrize(
    ("width", "told"),
    [
        (30, "seed 7, width 48, guidance 2.5"),
        (29, "seed 7, width 48 +1"),
        (18, "seed 7 +2"),
        (8, "seed… +2"),
        (1, "… +2"),
    ],
)
def test_of_values_that_have_no_room_the_number_is_told(width, told):
    assert values_within({"seed": 7, "width": 48, "guidance.scale": 2.5}, width) == told
    assert values_within({}, width) == ""
    # the first one has the most values, and tells runs apart however little of it is shown
    assert values_within({"seed": 2**63, "width": 48}, 16) == "seed 9223372… +1"
    assert values_within({"width": 48, "seed": 2**63}, 16) == "width 48 +1"
    assert values_within({"image.path": "/a/cat.png", "seed": 7}, 16) == "image cat.png +1"
    assert values_within({"image.path": "/a/black-cat.png", "seed": 7}, 16) == "image black-… +1"
