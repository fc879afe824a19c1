"""Runs in their families: what each is called in a tree."""

from __future__ import annotations

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.runs.families import families, told
from tui.describe.runs.run import run_rows


def test_runs_of_one_prompt_are_told_apart():
    with open_store() as store:
        for seed in (1, 2):
            spec = load_preset("micro", ['prompt="a star"', f"seed={seed}"])
            store.enqueue(encode_spec(spec), preset="micro", output="")
        both = run_rows(store, store.runs(limit=9))
        one = run_rows(store, store.runs(limit=1))
    assert [told(each) for each in families(both)] == ["seed 2 · a star", "seed 1 · a star"]
    assert [told(each) for each in families(one)] == ["a star"]
