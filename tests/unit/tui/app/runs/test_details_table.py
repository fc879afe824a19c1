"""What the summary of a run says beside its own words."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from engine import client
from presets.library.loading import load_preset
from store.store import open_store
from tui.app.runs.details import table
from tui.describe.runs.detail import detail


@pytest.mark.parametrize("silence", ["", "the engine is suspended"])
def test_an_engine_that_gives_no_sign_of_life_is_told(own_folders, silence):
    with open_store() as store:
        run_id = client.submit(store, load_preset("micro"), preset="micro", is_checked=True)
        shown = table(detail(store, run_id), silence)
    console = Console(file=StringIO(), width=100)
    console.print(shown)
    printed = console.file.getvalue()
    assert ("▲ the engine is suspended" in printed) is bool(silence)
    assert run_id in printed
