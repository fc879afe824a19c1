"""Which fields a section of the form shows."""

from __future__ import annotations

from presets.library.loading import load_preset
from presets.spec.sections import SECTIONS
from tui.app.compose.draft import Draft, check
from tui.app.compose.section_rows import rows


def shown(section: str, **edits: str) -> list[str]:
    draft = Draft("micro", load_preset("micro"))
    for key, text in edits.items():
        draft = draft.typed(key.replace("__", "."), text)
    (wanted,) = (each for each in SECTIONS if each.name == section)
    return [row.key for row in rows(wanted, draft, check(draft), {}) if row.is_shown]


def test_an_expansion_that_is_off_has_its_switch_alone() -> None:
    assert shown("expansion") == ["expansion.enabled"]
    first, *others = shown("expansion", expansion__enabled="true")
    assert first == "expansion.enabled"
    assert {"expansion.template", "components.prompt_expander.name"} <= set(others)


def test_what_differs_is_shown_also_where_it_has_no_use() -> None:
    assert shown("expansion", expansion__seed="3") == ["expansion.enabled", "expansion.seed"]


def test_the_task_is_what_the_models_of_the_preset_are_for() -> None:
    assert shown("preset") == []
    assert shown("preset", task="i2v") == ["task"]
