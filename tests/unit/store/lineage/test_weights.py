"""Names of weights: the first bytes of a sample have it for a name, whoever else comes, and for ever."""

from __future__ import annotations

from store.lineage.weights import name_of, shared_samples

A, B = "a" * 64, "b" * 64
SHA = [f"{i:064x}" for i in (1 << 200, 2 << 200, 3 << 200)]


def test_who_was_first_has_the_plain_name_and_others_are_marked(store):
    lineage = store.lineage
    assert name_of(lineage, A, SHA[0]) == A
    assert shared_samples(lineage) == frozenset()
    assert name_of(lineage, A, SHA[1]) == f"{A}+{SHA[1][:16]}"
    assert name_of(lineage, B, SHA[1]) == B
    assert shared_samples(lineage) == {A}
    for _ in range(2):
        assert [name_of(lineage, A, sha256) for sha256 in SHA[1::-1]] == [
            f"{A}+{SHA[1][:16]}",
            A,
        ]
    assert lineage.db.execute("SELECT count(*) FROM weights").fetchone() == (3,)


NAME = """
import sys
from store.lineage.weights import name_of
from store.store import open_store
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(30):
        print(name_of(store.lineage, f"{i:064x}", sys.argv[2] * 64))
"""


def test_processes_that_are_first_at_once_agree_on_who_was(start, root, store):
    processes = [start(NAME, root, letter) for letter in "cdd"]
    for process in processes:
        process.read()
    for process in processes:
        process.go()
    names = [process.finish() for process in processes]
    assert names[1] == names[2]
    for mine, other in zip(names[0], names[1], strict=True):
        assert {len(mine), len(other)} == {64, 81}
