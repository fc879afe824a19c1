"""Where a run can be branched, and what asking for it costs."""

from __future__ import annotations

from engine.runs import branch_points as branching
from store.store import open_store
from tests.stores.made_stores import make_run


def test_the_length_of_a_run_is_asked_for_once(tmp_path, monkeypatch):
    # of a thousand steps it takes a tenth of a second, and every look at the store waits behind it
    asked = []
    monkeypatch.setattr(branching, "num_steps", lambda record: asked.append(record.id) or 4)
    with open_store(tmp_path / "store") as store:
        made = make_run(store, "micro", num_steps=4)
        links = [link for link in store.links_of(made.id) if link.stage == "step"]
        points = branching.branch_points(store, store.run(made.id), links)
    assert points == [0, 1, 2, 3]  # after the last step there is nothing but the decoding
    assert asked == [made.id]
