"""A file is picked by walking: what fits is listed, what is typed narrows it, a path leads there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from textual.app import App
from textual.widgets import Input, Static

from engine.errors import InputError
from tests.terminals.opened import WAIT_SECONDS
from tui.app.dialogs.files import MAX_LISTED, FilePicker, Folder
from tui.describe.given import Kind, Look, Pixels


async def look(path: Path, kind: Kind) -> Look:
    if path.name == "broken.png":
        raise InputError(f"{path} is empty", key="image.path")
    return Look((f"{kind} {path.name}",), Pixels(1, 1, 1, b"abc"))


def picked(start: Path, script: Callable[..., object], kind: Kind = "picture") -> Path | None:
    answers: list[Path | None] = []

    async def run() -> None:
        async with App().run_test(size=(100, 30)) as pilot:
            picker = FilePicker(kind, start, look)
            await pilot.app.push_screen(picker, answers.append)
            await script(pilot, picker)

    asyncio.run(run())
    return answers[0] if answers else None


def names(picker: FilePicker) -> list[str]:
    return [str(node.label) for node in picker.query_one(Folder).root.children]


async def until(pilot, condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await pilot.pause(0.02)


def told(picker: FilePicker, selector: str = "#lines") -> str:
    return str(picker.query_one(selector, Static).content)


def test_walking_and_narrowing(tmp_path):
    for name in ("sub/deep.jpg", "a.PNG", "broken.png", "note.txt", ".hidden.png", "evil\x1b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    async def script(pilot, picker):
        await until(pilot, lambda: len(names(picker)) == 4)
        assert names(picker) == ["sub", "a.PNG", "broken.png", "evil\\x1b.png"]
        await until(pilot, lambda: "is empty" in told(picker))  # where it begins
        assert told(picker) == "✖ is empty"
        await pilot.press("up")
        await until(pilot, lambda: told(picker) == "picture a.PNG")
        await pilot.press(*"su")
        await until(pilot, lambda: names(picker) == ["sub"])
        await pilot.press("enter")
        await until(pilot, lambda: names(picker) == ["deep.jpg"])
        await pilot.press("backspace")
        await until(pilot, lambda: "sub" in names(picker))
        assert picker.folder == tmp_path
        await pilot.click(Folder, offset=(4, 0))
        await until(pilot, lambda: names(picker) == ["deep.jpg"])
        await pilot.click("#up")
        await until(pilot, lambda: "sub" in names(picker))
        picker.query_one(Input).value = f"{tmp_path}/sub/de"
        await until(pilot, lambda: names(picker) == ["deep.jpg"])
        await pilot.press("enter")
        await until(pilot, lambda: not picker.is_active)

    assert picked(tmp_path / "broken.png", script) == tmp_path / "sub/deep.jpg"


def test_a_path_leads_on_from_the_folder_that_is_listed(tmp_path):
    path = tmp_path / "pictures/red/circle.png"
    path.parent.mkdir(parents=True)
    path.touch()

    async def script(pilot, picker):
        box, field = picker.query_one(".box"), picker.query_one(Input)
        await until(pilot, lambda: names(picker) == ["pictures"])
        assert "backspace goes up" in box.border_subtitle
        field.value = "nowhere/red"
        await until(pilot, lambda: told(picker, "#told") == "nothing here fits; shift+← goes up")
        assert "shift+← goes up" in box.border_subtitle
        await pilot.press("ctrl+u", *"pictures", "slash", *"red", "slash")
        await until(pilot, lambda: names(picker) == ["circle.png"])
        await pilot.press("backspace")
        await until(pilot, lambda: names(picker) == ["red"])
        await pilot.press("ctrl+u")
        await until(pilot, lambda: names(picker) == ["pictures"])
        field.value = "./pictures/red/cir"
        await until(pilot, lambda: names(picker) == ["circle.png"])
        await pilot.press("enter")

    assert picked(tmp_path, script) == path


def test_a_folder_of_any_size_and_one_of_nothing(tmp_path):
    for number in range(MAX_LISTED + 5):
        (tmp_path / f"{number:05}.png").touch()
    (tmp_path / "empty").mkdir()

    async def script(pilot, picker):
        await until(pilot, lambda: "more" in told(picker, "#told"))
        assert told(picker, "#told") == "6 more; type a part of the name"
        assert len(names(picker)) == MAX_LISTED
        picker.query_one(Input).value = f"{MAX_LISTED + 4}"
        await until(pilot, lambda: names(picker) == [f"{MAX_LISTED + 4:05}.png"])
        picker.query_one(Input).value = f"{tmp_path}/empty/"
        await until(pilot, lambda: "nothing here fits" in told(picker, "#told"))
        await pilot.press("escape")

    assert picked(tmp_path, script) is None


def test_a_folder_that_nobody_reads_any_more_keeps_nothing_open(tmp_path):
    (tmp_path / "sub").mkdir()
    seen = []

    async def script(pilot, picker):
        await until(pilot, lambda: names(picker) == ["sub"])
        tree = picker.query_one(Folder)
        # as where another one is opened between what was told of this one and its turn to be read
        tree.workers.cancel_group(tree, "_loader")
        tree.root.data.loaded = False
        tree.post_message(Folder.NodeExpanded(tree.root))
        tree.call_later(seen.append, "what comes after it")
        await until(pilot, lambda: seen)
        await pilot.press("escape")

    assert picked(tmp_path, script) is None


def test_a_folder_that_is_unfolded_is_opened(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/deep.png").touch()

    async def script(pilot, picker):
        await until(pilot, lambda: names(picker) == ["sub"])
        [sub] = picker.query_one(Folder).root.children
        sub.expand()
        await until(pilot, lambda: names(picker) == ["deep.png"])
        assert picker.folder == tmp_path / "sub"
        await pilot.press("escape")

    assert picked(tmp_path, script) is None
