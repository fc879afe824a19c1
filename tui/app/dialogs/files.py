"""A file, picked by walking through folders: those that fit, and a look at the one under the cursor."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.widgets import DirectoryTree, Input, Static
from textual.widgets.directory_tree import DirEntry

from tui.app.asking import asks
from tui.app.dialogs.base import Dialog
from tui.app.widgets.picture import Picture
from tui.describe.given import endings_of, kind_of
from tui.describe.runs.of_file import dropped_path
from tui.text import printable, shorten_front

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets import Tree

    from tui.app.widgets.graphics import ImageMaker
    from tui.describe.given import Kind, Look

# More than anybody walks through; what is typed narrows them.
MAX_LISTED = 1000
# The cursor may pass over many files on its way; only where it rests one is looked at.
_REST_SECONDS = 0.15
_TITLES = {"picture": "a picture", "clip": "a video", "file": "a file"}
_FOLDER_CELLS = 60


class Folder(DirectoryTree):
    """A folder's own folders, and its files that fit, as many as can be listed."""

    ICON_FILE = "  "
    ICON_NODE = "▸ "
    ICON_NODE_EXPANDED = "▾ "

    def __init__(self, path: Path, endings: Collection[str]) -> None:
        """endings: none for any file."""
        super().__init__(path)
        self._endings = tuple(endings)
        self.words: list[str] = []
        self.num_left_out = 0
        self.show_root = self.auto_expand = False

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """In a thread. Whether it is a folder is asked of those alone whose names do not say that they fit."""
        folders, files = [], []
        for path in paths:
            name = path.name.lower()
            if name.startswith(".") or not all(word in name for word in self.words):
                continue
            if self._endings and name.endswith(self._endings):
                files.append(path)
            elif self._safe_is_dir(path):
                folders.append(path)
            elif not self._endings:
                files.append(path)
        found = [*sorted(folders), *sorted(files)]
        self.num_left_out = max(0, len(found) - MAX_LISTED)
        return found[:MAX_LISTED]

    def process_label(self, label: Any) -> Text:
        return Text(printable(str(label)))

    async def _on_tree_node_expanded(self, event: Tree.NodeExpanded[DirEntry]) -> None:
        """A folder that is unfolded here is opened. Textual would wait for it to be read, for ever where another is
        opened meanwhile: then nothing of this could be closed any more."""
        event.stop()
        event.prevent_default()
        if event.node is not self.root and event.node.data is not None:
            self.post_message(self.DirectorySelected(event.node, event.node.data.path))

    async def open(self, path: Path, words: list[str], name: str = "") -> None:
        """Read a folder, of which names have these words. name: to go to."""
        self.words = words
        self.root.data = DirEntry(path)
        await self.reload()
        self.cursor_line = -1
        found = [node for node in self.root.children if node.data and node.data.path.name == name]
        if found:
            self.move_cursor(found[0])
        elif self.root.children:
            self.cursor_line = 0


class FilePicker(Dialog[Path | None]):
    """Ends with the file that was picked, or None. What is typed narrows the folder; a path that is typed or pasted
    leads there."""

    DEFAULT_CSS = """
    FilePicker.dialog > .box { width: 100; height: 90%; padding: 0 1; }
    FilePicker Input { background: $foreground 8%; }
    FilePicker #up { height: 1; color: $text-muted; }
    FilePicker #up:hover { text-style: underline; }
    FilePicker Horizontal { height: 1fr; margin-top: 1; }
    FilePicker Folder { width: 1fr; height: 1fr; background: transparent; scrollbar-size-vertical: 1; }
    FilePicker #look { width: 30; height: 1fr; margin-left: 1; }
    FilePicker #look Picture { height: 1fr; max-height: 16; }
    FilePicker #look Static { height: auto; max-height: 8; color: $text-muted; }
    FilePicker #told { height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Close", id="picker.close"),
        Binding("down", "move('down')", "Down", id="picker.down", show=False, priority=True),
        Binding("up", "move('up')", "Up", id="picker.up", show=False, priority=True),
        Binding("pagedown", "move('page_down')", "Page down", id="picker.page_down", show=False, priority=True),
        Binding("pageup", "move('page_up')", "Page up", id="picker.page_up", show=False, priority=True),
        Binding("shift+left,alt+up", "up", "Folder above", id="picker.above", priority=True),
    ]  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        start: Path,
        look: Callable[[Path, Kind], Awaitable[Look]],
        graphics: ImageMaker | None = None,
    ) -> None:
        """start: the folder to begin in, or a file in it. look: at a file; raises where it cannot be read."""
        super().__init__()
        self._kind: Kind = kind
        self._look_at, self._graphics = look, graphics
        is_folder = start.is_dir()
        self.folder, self._wanted = (start, "") if is_folder else (start.parent, start.name)
        self._base = self.folder  # which was walked to; a path that is typed leads on from there
        self._words: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = _TITLES[self._kind]
            yield Static(id="up", markup=False)
            yield Input(placeholder="part of a name, or a path", compact=True)
            with Horizontal():
                yield Folder(self.folder, endings_of(self._kind))
                with Vertical(id="look"):
                    yield Picture(graphics=self._graphics)
                    yield Static(id="lines", markup=False)
            yield Static(id="told", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._read()

    def _open(self, folder: Path, name: str = "") -> None:
        self.folder = self._base = folder
        self._wanted, self._words = name, []
        self.query_one(Input).value = ""
        self._read()

    @asks(exclusive=True, group="folder")
    async def _read(self) -> None:
        shown = shorten_front(printable(str(self.folder)), _FOLDER_CELLS)
        self.query_one("#up", Static).update(f"↰ {shown}")
        up = "shift+← goes up" if self.query_one(Input).value else "backspace goes up"
        self.query_one(".box").border_subtitle = f"type to narrow, enter opens, {up}, esc closes"
        tree, told = self.query_one(Folder), self.query_one("#told", Static)
        told.update("…")
        await tree.open(self.folder, self._words, self._wanted)
        more = f"{tree.num_left_out} more; type a part of the name" if tree.num_left_out else ""
        told.update(more if tree.root.children else f"nothing here fits; {up}")
        if not tree.root.children:
            self._show(None)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        text = event.value.strip()
        if not text.startswith(("/", "~")) and (dropped := dropped_path(text)) is not None:
            self.dismiss(dropped)
            return
        self._follow(text)
        self._read()

    def _follow(self, text: str) -> None:
        """Where it leads: a path to a folder and a part of a name there, anything else to a part of a name here."""
        head, slash, name = text.rpartition("/")
        folder = Path(os.path.abspath(os.path.join(self._base, os.path.expanduser(f"{head}/"))))
        if slash and folder.is_dir():
            self.folder, self._wanted, self._words = folder, name, [name.lower()]
        else:
            self.folder, self._words = self._base, text.lower().split()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one(Folder).action_select_cursor()

    def on_key(self, event: events.Key) -> None:
        if event.key == "backspace" and not self.query_one(Input).value:
            event.stop()
            self.action_up()

    def on_click(self, event: events.Click) -> None:
        if event.widget is self.query_one("#up"):
            self.action_up()

    def action_up(self) -> None:
        """To the folder that this one is in."""
        before = self.folder
        self._open(before.parent, before.name)

    def action_move(self, way: str) -> None:
        """Through the list, wherever the focus is."""
        tree = self.query_one(Folder)
        if way in ("up", "down"):
            getattr(tree, f"action_cursor_{way}")()
        else:
            getattr(tree, f"action_{way}")()

    def on_directory_tree_directory_selected(self, event: DirectoryTree.DirectorySelected) -> None:
        event.stop()
        self._open(event.path)

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        event.stop()
        self.dismiss(event.path)

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[DirEntry]) -> None:
        event.stop()
        self._rest_on(event.node.data.path if event.node.data else None, event.node.allow_expand)

    @asks(exclusive=True, group="look")
    async def _rest_on(self, path: Path | None, is_folder: bool) -> None:
        if path is None or is_folder:
            self._show(None)
            return
        await asyncio.sleep(_REST_SECONDS)
        kind = kind_of(path) if self._kind == "file" else self._kind
        if not kind:
            self._show(None)
            return
        try:
            self._show(await self._look_at(path, kind))
        except Exception as error:  # noqa: BLE001  # told beside the file, whatever it is
            told = str(error).rpartition(f"{path} ")[2]
            self._show(None, f"✖ {told}")

    def _show(self, look: Look | None, told: str = "") -> None:
        picture = self.query_one(Picture)
        if look is not None:
            picture.fps = look.fps
        picture.show(look.pixels if look else None)
        lines = "\n".join(map(printable, look.lines)) if look else printable(told)
        self.query_one("#lines", Static).update(lines)
