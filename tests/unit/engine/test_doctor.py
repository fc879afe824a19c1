"""What the doctor finds where the store cannot be, and in how many words it tells what a library said."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import doctor
from engine.models import attention


def found(root: Path) -> dict[str, str]:
    return {row.name: row.status for row in doctor._store(root)}


def test_a_store_that_is_no_folder_is_not_called_one(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("notes")
    told = found(file)
    assert (told["folder"], told["database"]) == ("fail", "fail")


def test_a_store_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    told = found(tmp_path / "store")
    assert (told["folder"], told["database"]) == ("ok", "ok")


def test_what_a_library_says_at_length_ends_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("No viable backend was found, " * 9)

    monkeypatch.setattr(attention, "BACKENDS", {"plain": broken})
    (row,) = doctor._attention()
    assert row.status == "fail"
    assert row.value.startswith("does not work here: No viable backend was found, No viable")
    assert row.value.endswith(" ...")
    assert len(row.value) < 130
