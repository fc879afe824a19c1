"""What the app remembers: of two apps that are open at once, neither loses what the other did."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from tui.app import preferences
from tui.app.preferences import (
    MAX_PROMPTS,
    Preferences,
    load_preferences,
    preferences_path,
    save_preferences,
)


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "config"))


def test_what_was_saved_is_loaded_again():
    save_preferences(Preferences(screen="runs", prompts=["a circle"]))
    assert load_preferences() == Preferences(screen="runs", prompts=["a circle"])
    names = sorted(path.name for path in preferences_path().parent.iterdir())
    assert names == [".app.json.lock", "app.json"]


def test_of_two_apps_each_keeps_what_it_changed():
    save_preferences(Preferences(prompts=["old"], theme="nord"))
    first, second = load_preferences(), load_preferences()
    before = replace(first)
    first.runs_filter = "status:done"
    first.remember_prompt("a circle")
    second.preset = "wan2.1-t2v-14b"
    second.remember_prompt("a square")
    save_preferences(first, before)
    save_preferences(second, before)
    assert load_preferences() == Preferences(
        prompts=["old", "a circle", "a square"],
        theme="nord",
        runs_filter="status:done",
        preset="wan2.1-t2v-14b",
    )


def test_the_newest_prompts_are_kept():
    loaded = load_preferences()
    before = replace(loaded)
    for number in range(MAX_PROMPTS + 5):
        loaded.remember_prompt(str(number))
    save_preferences(loaded, before)
    assert load_preferences().prompts == [str(number) for number in range(5, MAX_PROMPTS + 5)]


def test_a_folder_that_takes_no_file_costs_the_memory_only(monkeypatch, caplog):
    def refused(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preferences, "_write", refused)
    with caplog.at_level(logging.WARNING):
        save_preferences(Preferences())
    assert "could not be saved" in caplog.text
