"""What a terminal pastes when a file is dropped on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tui.describe.given import kind_of
from tui.describe.runs.of_file import dropped_path, no_file_told


def test_paths_as_terminals_paste_them(tmp_path: Path):
    path = tmp_path / "it's a video.mp4"
    path.touch()
    escaped = str(path).replace("'", "\\'").replace(" ", "\\ ")
    quoted = str(path).replace("'", "'\\''")
    address = f"file://{path}".replace(" ", "%20")
    for text in (str(path), f"{path}\n", escaped, f"'{quoted}' ", f'"{path}"', address):
        assert dropped_path(text) == path, text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "/gone.mp4",
        "/",
        "a.mp4",
        "/etc/passwd",
        "x" * 100_000,
        "\0.mp4",
        "'",
        "~",
    ],
)
def test_other_texts_are_no_files(text: str):
    assert dropped_path(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("'/gone/a b.mp4'", "/gone/a b.mp4: no such file"),
        ("/gone/a b.mp4", "/gone/a b.mp4: no such file"),
        ("file:///gone/a%20b.mp4", "/gone/a b.mp4: no such file"),
        ("/", "/: expected a picture"),
        ("a red circle", "text is pasted into a field"),
        ("", "text is pasted into a field"),
    ],
)
def test_what_is_no_file_is_told(text: str, told: str):
    assert no_file_told(text).startswith(told)


def test_two_files_are_not_one(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    assert dropped_path(f"{tmp_path}/a.mp4 {tmp_path}/b.mp4") is None
    assert dropped_path(f"{tmp_path}/a.mp4\n{tmp_path}/b.mp4") is None


def test_pictures_that_are_not_read_are_told_apart_from_text(tmp_path: Path):
    path = tmp_path / "IMG_1.HEIC"
    path.touch()
    assert dropped_path(str(path)) == path
    assert kind_of(path) == "picture"
