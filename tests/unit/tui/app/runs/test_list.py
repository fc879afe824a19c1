"""The table of runs: which columns it has, and how wide they are."""

from __future__ import annotations

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tui.app.runs.list import RUN_LIMIT, found_told, table
from tui.describe.runs.run import RunRow, run_rows


def rows(*overrides: list[str]) -> list[RunRow]:
    with open_store() as store:
        for changes in overrides:
            spec = load_preset("micro", ['prompt="a large red circle moves left"', *changes])
            store.enqueue(encode_spec(spec), preset="micro", output="")
        return run_rows(store, store.runs(limit=9))


def columns(shown: list[RunRow], width: int) -> dict[str, int]:
    found, _ = table(shown, (), shown[0].record.created_ns, width)
    return {column.title: column.width for column in found}


def test_a_column_is_there_where_it_says_something():
    one = rows(["seed=1"])
    assert "DIFFERS" not in columns(one, 200)
    assert "STARS" not in columns(one, 200)
    assert columns(one, 200)["STATUS"] == len("○ queued")
    assert columns(rows(["seed=2"]), 200)["DIFFERS"] == len("DIFFERS")


def test_what_differs_takes_no_more_than_is_told_of_it():
    many = rows(*([f"seed={seed}", f"scheduler.shift={seed}.5"] for seed in (1, 2)))
    assert columns(many, 140)["DIFFERS"] == len("seed 1, scheduler.shift 1.5") - len("scheduler.")
    assert columns(many, 56)["DIFFERS"] == len("seed 1 +1")


@pytest.mark.parametrize("width", [60, 63, 76, 104, 140, 198])
def test_the_prompt_has_room_at_any_width(width):
    many = [
        [f"seed={2**63 + seed}", f"guidance.scale={seed}", f"width={64 + 16 * seed}"]
        for seed in (1, 2, 3)
    ]
    found = columns(rows(*many), width)
    others = sum(cells + 2 for title, cells in found.items() if title != "PROMPT")
    assert width - others >= 16
    assert found["DIFFERS"] >= 7


def test_how_many_are_shown_of_how_many():
    assert found_told(1, None) == "1 run"
    assert found_told(11, 28) == "11 of 28 runs"
    assert found_told(RUN_LIMIT, None) == f"{RUN_LIMIT}+ runs"
    assert found_told(RUN_LIMIT, 900) == f"{RUN_LIMIT}+ of 900 runs"
