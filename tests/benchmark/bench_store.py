"""Questions to a large store: CPU milliseconds, limits of the design beside them, and ratios to the same rows fetched
by Python's own sqlite3 and left as they come.

A search of ten thousand runs; all rows of 3,200 runs with a hundred thousand links, as before a clean-up; and the
plan of one that removes most of those links, against the plan for a quarter of them.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from store.database.database import immediate
from store.store import Store, open_store
from store.upkeep.contents import look
from store.upkeep.removal import Policy, make_plan
from tests.benchmark import timing
from tests.stores.made_stores import DAY_NS, large, put_rows

RUNS, STEPS = 3200, 50
Figures = dict[str, object]


def fetched(store: Store, statements: Sequence[str]) -> int:
    """How many rows another connection gets."""
    with closing(sqlite3.connect(f"file:{store.root / 'lineage.db'}?mode=ro", uri=True)) as reader:
        return sum(len(reader.execute(statement).fetchall()) for statement in statements)


def search(store: Store, rounds: int) -> Figures:
    """A text that is in no run, so that each is looked at."""
    spec = json.dumps({"prompt": "a word " * 30, "more": {f"k{i}": i for i in range(60)}})
    with immediate(store.lineage) as connection:
        connection.executemany(
            "INSERT INTO runs (id, status, preset, spec, output, created_ns) "
            "VALUES (?, 'done', 'p', ?, '/v/o.mp4', 0)",
            [(f"r{i}", spec) for i in range(10_000)],
        )
    spent = timing.seconds(
        {
            "ours": lambda: store.search(limit=20, words=["not there"]),
            "fetched": lambda: fetched(store, ["SELECT * FROM runs"]),
        },
        rounds=rounds,
    )
    return figures(spent, limit=500)


def rows(store: Store, rounds: int) -> Figures:
    """All rows before a clean-up; a link has 900 bytes of facts, which are not fetched where a run has it."""
    put_rows(store.lineage, large(RUNS, STEPS))
    statements = [
        "SELECT key, kind, digest, latents, state, bytes, seconds, used_ns FROM links",
        "SELECT run_id, stage, idx, key, digest, latents, seconds FROM run_links",
        "SELECT id, status, is_paused, pinned, parent, latents, preset, created_ns FROM runs",
    ]
    spent = timing.seconds(
        {"ours": lambda: look(store.lineage), "fetched": lambda: fetched(store, statements)},
        rounds=rounds,
    )
    return figures(spent, limit=5000)


def plan(store: Store, rounds: int) -> Figures:
    """What goes of a hundred thousand links, and of a quarter of them: the time should be a quarter, too."""
    whole, quarter = large(RUNS, STEPS), large(RUNS // 4, STEPS)
    now_ns = 10_000 * DAY_NS
    spent = timing.seconds(
        {
            "ours": lambda: make_plan(whole, Policy(budget_bytes=3_000_000), now_ns=now_ns),
            "a quarter": lambda: make_plan(quarter, Policy(budget_bytes=750_000), now_ns=now_ns),
        },
        rounds=rounds,
    )
    return figures(spent, limit=5000)


def figures(spent: dict[str, list[float]], *, limit: float) -> Figures:
    ours, peer = spent
    found: Figures = {
        f"{name} ms": round(1e3 * statistics.median(values), 1) for name, values in spent.items()
    }
    return found | {"limit ms": limit, "ratio": timing.ratio(spent, ours, peer)}


CASES = (search, rows, plan)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", choices=[*(case.__name__ for case in CASES), "all"], default="all"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the store lies; a disk, not memory")
    options = parser.parse_args()
    result: Figures = dict(timing.settings(torch.get_num_threads()))
    for case in CASES:
        if options.case in (case.__name__, "all"):
            with (
                tempfile.TemporaryDirectory(dir=options.folder) as folder,
                open_store(Path(folder) / "store") as store,
            ):
                result[case.__name__] = case(store, options.rounds)
    timing.show(result)


if __name__ == "__main__":
    main()
