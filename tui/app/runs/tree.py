"""The runs as a tree: each below the one that it was branched from."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.widgets import Tree

from tui.describe.runs.families import mark_of, told
from tui.describe.runs.run import PIN, SYMBOLS, is_early, stars, status_word
from tui.text import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual import events
    from textual.binding import BindingType
    from textual.widgets.tree import TreeNode

    from tui.describe.runs.families import Relative


class RunTree(Tree[str]):
    """Runs below the ones that they were branched from; each node's data is a run id."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False, id="list.down"),
        Binding("k", "cursor_up", "Up", show=False, id="list.up"),
    ]

    def __init__(self) -> None:
        super().__init__("runs", id="tree")
        self.show_root = False
        self.guide_depth = 3
        self.auto_expand = False  # enter opens a run; space folds
        self._drawn: tuple[object, ...] = ()
        self._shape: Sequence[tuple[str, int]] = ()
        self._relatives: Sequence[Relative] = ()
        self._marks: Sequence[str] = ()

    @property
    def current(self) -> str:
        """The id of the run under the cursor, "" for none."""
        node = self.cursor_node
        return (node.data or "") if node is not None else ""

    def show(self, relatives: Sequence[Relative], marks: Sequence[str]) -> None:
        """Fills only where something has changed; what was folded stays so, the cursor stays on its run."""
        self._relatives, self._marks = tuple(relatives), tuple(marks)
        self._fill()

    def on_resize(self, _event: events.Resize) -> None:
        self._fill()

    def select(self, run_id: str) -> None:
        """Move the cursor to a run; to where it is for one that is not there."""
        if run_id and run_id != self.current:
            self._move_to(run_id)

    def _fill(self) -> None:
        state = (self._relatives, self._marks, self.size.width)
        if state == self._drawn:
            return
        self._drawn = state
        shape = [(each.row.record.id, each.depth) for each in self._relatives]
        if shape == self._shape:
            self._relabel()
            return
        self._shape = shape
        current = self.current
        folded = {
            node.data for node in self._all_nodes() if node.allow_expand and not node.is_expanded
        }
        self.clear()
        path: list[TreeNode[str]] = [self.root]
        for each in self._relatives:
            del path[each.depth + 1 :]
            run_id = each.row.record.id
            node = path[-1].add(
                self._label(each), run_id, expand=run_id not in folded, allow_expand=False
            )
            path[-1].allow_expand = True
            path.append(node)
        self.root.expand()
        self._move_to(current)

    def _relabel(self) -> None:
        """The same runs in the same places: only what they are called may differ."""
        labels = {each.row.record.id: self._label(each) for each in self._relatives}
        for node in self._all_nodes():
            if node.data and node.label != labels[node.data]:
                node.set_label(labels[node.data])

    def _move_to(self, run_id: str) -> None:
        _ = self.last_line  # nodes learn their lines from that
        for node in self._all_nodes():
            if node.data == run_id and node.line >= 0:
                self.move_cursor(node)
                return
        self.cursor_line = 0

    def _all_nodes(self) -> list[TreeNode[str]]:
        waiting, found = list(self.root.children), []
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.children
        return found

    def _label(self, each: Relative) -> Text:
        record = each.row.record
        room = self.size.width - self.guide_depth * (each.depth + 1) - 20
        mark = mark_of(record.id, self._marks)
        # the symbol alone, but for what no symbol tells
        status = status_word(record) if is_early(record) else SYMBOLS.get(record.status, "?")
        after = [PIN if record.pinned else "", stars(record.rating)]
        before = " ".join(filter(None, (f"[{mark}]" if mark else "", status, record.id, *after)))
        label = Text(before, style="" if each.fits else "dim", no_wrap=True)
        return label.append(
            f"  {shorten(told(each), max(12, room))}", "dim" if not each.fits else ""
        )
