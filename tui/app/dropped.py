"""A file that is dropped on the terminal, or pasted where no text is typed: what it is taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.messages import ComposeWith, ShowRun
from tui.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from tui.app.base import ModiffBase


async def dropped_run(app: ModiffBase, path: Path) -> ShowRun | ComposeWith | None:
    """The run that wrote a file; where that is not here, the settings in the file, if they are wanted. Raises
    UnknownRun, PresetError."""
    from tui.app.dialogs.ask import Confirm
    from tui.describe.runs import of_file

    try:
        return ShowRun((await app.lab.work(of_file.written_by, path)).run_id)
    except of_file.RunElsewhere as elsewhere:
        mark = elsewhere.mark
        if mark.settings is None:
            raise
    lines = [
        f"Run {mark.run}, which made it, is not in this store, so its steps are not here.",
        "Take the settings that travelled with it into Compose?",
    ]
    if not await app.push_screen_wait(Confirm(printable(path.name), lines, "Its settings")):
        return None
    spec, preset = await app.lab.work(of_file.settings_of_file, path)
    return ComposeWith(spec, preset)


async def dropped_in_compose(app: ModiffBase, path: Path) -> ComposeWith | None:
    """The settings of the run that wrote a file, or None where the form begins from it; where it may be meant in two
    ways, which one is asked. Raises UnknownRun where it is neither, PresetError."""
    from store.errors import UnknownRun
    from tui.app.compose.screen import Compose
    from tui.app.dialogs.ask import Choose
    from tui.describe.given import kind_of
    from tui.describe.runs import of_file

    kind = kind_of(path)
    try:
        spec, preset = await app.lab.work(of_file.settings_of_file, path)
    except UnknownRun:
        if not kind:
            raise
    else:
        lines = [
            f"{printable(path.name)} was made by a run.",
            "Begin from it, or take the settings that made it?",
        ]
        buttons = ["Begin from it", "Its settings"]
        answer: int | None = 1
        if kind:
            answer = await app.push_screen_wait(Choose("a file", lines, buttons))
        if answer == 1:
            return ComposeWith(spec, preset)
        if answer != 0:
            return None
    form = app.get_screen_stack("compose")[0]
    if kind and isinstance(form, Compose):
        form.begin_from(path, kind)
    return None
