"""What is told of a queued run before it starts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine import client
from engine.errors import ComponentError
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.runs.queued import expected

STORED = SimpleNamespace(states={"text": "skip", "decode": "stored"})
NEW = SimpleNamespace(states={"text": "stored", "decode": "compute"})


@pytest.mark.parametrize(("made", "is_stored"), [(STORED, True), (NEW, False), (None, False)])
def test_nothing_is_left_of_a_run_that_is_all_stored(tmp_path, monkeypatch, made, is_stored):
    def plan(*_run, **_part):
        if made is None:
            raise ComponentError("a plugin is gone")
        return made

    monkeypatch.setattr(client, "plan", plan)
    with open_store(tmp_path) as store:
        run_id = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="")
        record = store.run(run_id)
        found = expected(store, [record])[run_id]
    assert found.is_stored is is_stored
    assert found.seconds_left(record, 0) == (0.0 if is_stored else None)
