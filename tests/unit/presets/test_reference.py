"""The page about presets cannot fall behind the code: its table is what the annotations say."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_of_keys_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_reference.py"))
    page = (DOCS / "presets.md").read_text(encoding="utf-8")
    assert "`scheduler.steps`" in page
    assert script["with_table"](page) == page, "run python docs/make_reference.py"
