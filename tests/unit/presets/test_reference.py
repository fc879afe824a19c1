"""The page about presets cannot fall behind the code: its table is what the annotations say."""

from __future__ import annotations

import runpy
from pathlib import Path

from presets.output.formats import FORMATS

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_of_keys_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_reference.py"))
    page = (DOCS / "presets.md").read_text(encoding="utf-8")
    assert "`scheduler.steps`" in page
    assert script["with_table"](page) == page, "run python docs/make_reference.py"


def test_the_table_of_formats_is_that_of_the_code() -> None:
    page = (DOCS / "outputs.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| `")]
    told = [[cell.strip(" `") for cell in row] for row in rows if row[0].strip(" `") in FORMATS]
    assert told == [[name, each.ending, each.description] for name, each in FORMATS.items()]
