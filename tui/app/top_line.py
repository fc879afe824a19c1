"""The frame around every screen: the line of tabs with the engine's state on top, the keys below."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, TextArea

from tui.describe.health import at_work_told

if TYPE_CHECKING:
    from textual import events
    from textual.app import RenderResult

    from tui.describe.health import Status

# mode: (its number, its name, its short name)
TABS = {
    "compose": ("1", "Compose", "Comp"),
    "live": ("2", "Live", "Live"),
    "runs": ("3", "Runs", "Runs"),
    "queue": ("4", "Queue", "Queue"),
    "store": ("5", "Store", "Store"),
    "components": ("6", "Components", "Parts"),
}
_WIDE = 100


class TopLine(Widget):
    """Tabs left, engine and queue right; a click on a tab opens it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "topline--tab",
        "topline--active",
        "topline--trouble",
        "topline--running",
        "topline--idle",
    }

    class TabChosen(Message):
        """A tab was clicked."""

        def __init__(self, mode: str) -> None:
            super().__init__()
            self.mode = mode

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self._chosen = mode
        self._status: Status | None = None
        self._trouble = ""
        self._job = ""
        self._is_typing = False

    def on_mount(self) -> None:
        self.watch(self.screen, "focused", self._follow_focus)

    def _follow_focus(self, focused: Widget | None) -> None:
        """Where a digit is text, the screens have theirs with alt."""
        is_typing = isinstance(focused, Input | TextArea)
        if is_typing != self._is_typing:
            self._is_typing = is_typing
            self.refresh()

    def show(self, status: Status | None, trouble: str, job: str = "") -> None:
        """trouble: what keeps the store from being read, job: what the app itself is at, or nothing."""
        if (status, trouble, job) != (self._status, self._trouble, self._job):
            self._status, self._trouble, self._job = status, trouble, job
            self.refresh()

    def choose(self, mode: str) -> None:
        """Show a tab as the chosen one, whose screen is yet to be made."""
        self._chosen = mode
        self.refresh()

    def render(self) -> RenderResult:
        line = self._tabs()
        room = self.size.width - line.cell_len - 1
        right = next((text for text in self._right() if cell_len(text) <= room), "")
        gap = " " * max(1, room + 1 - cell_len(right))
        style = self.get_component_rich_style(f"topline--{self.state}")
        return Text.assemble(line, gap, (right, style))

    @property
    def state(self) -> str:
        """Which colour what goes on has."""
        status = self._status
        if self._trouble or (status is not None and (status.is_full or status.is_stuck)):
            return "trouble"
        if status is None or not (status.running or status.engines):
            return "tab"
        return "running" if status.running else "idle"

    def _tabs(self) -> Text:
        line = Text(" modiff " if not self._is_typing else "   alt+ ", style="bold", no_wrap=True)
        for mode, (number, name, short) in TABS.items():
            label = name if self.size.width >= _WIDE else short
            is_active = mode == self._chosen
            style = self.get_component_rich_style(
                "topline--active" if is_active else "topline--tab"
            )
            line.append(f"[{number} {label}]" if is_active else f" {number} {label} ", style)
        return line

    def _right(self) -> tuple[str, ...]:
        """What goes on, in the words that say most first."""
        status = self._status
        if self._trouble:
            return "✖ store cannot be read ", "✖ store ", "✖"
        if status is None:
            return (f"{self._job}  … ", "… ") if self._job else ("… ",)
        if status.is_full:
            return f"✖ disk full  {_at_work(status)[0]}", "✖ disk full ", "✖ full", "✖"
        if status.unwritable:
            return f"▲ read-only  {_at_work(status)[0]}", "▲ read-only ", "▲"
        told = _at_work(status)
        if not self._job:
            return told
        short = f"⟳ {self._job.rpartition(' ')[2]} "
        return *(f"{self._job}  {each}" for each in told), f"{self._job} ", short, *told

    def on_click(self, event: events.Click) -> None:
        x = cell_len(" modiff ")
        for mode, (number, name, short) in TABS.items():
            x += cell_len(number) + 3 + cell_len(name if self.size.width >= _WIDE else short)
            if event.x < x:
                if event.x >= cell_len(" modiff "):
                    self.post_message(self.TabChosen(mode))
                return


def _at_work(status: Status) -> tuple[str, ...]:
    """Engine and queue, the longest words first."""
    long, short = "", ""
    if status.num_queued:
        long, short = f"  queue {status.num_queued}", f" q{status.num_queued}"
    run_id = at_work_told(status)
    if status.is_stuck:
        at_work = f"  {run_id}" if run_id else ""
        stuck = f"▲ engine stuck{long} "
        return f"▲ engine stuck{at_work}{long} ", stuck, f"▲ stuck{short}", f"▲{short}"
    if run_id:
        words = status.progress.words if status.progress else ""
        far = f"{words} " if words else ""
        percent = f" {words.partition(' ')[0]}" if words else ""
        return (
            f"▶ {far}{run_id}{long} ",
            f"▶ {far}{run_id}{short}",
            f"▶ {far}{run_id if len(status.running) > 1 else run_id[:5]}{short}",
            f"▶{percent}{short}",
            f"▶{short}",
        )
    if not status.engines:
        return f"○ no engine{long} ", f"○ engine{short}", f"○{short}"
    return f"● engine idle{long} ", f"● idle{short}", f"●{short}"
