"""The prompts: two editors, what is to be said about the words, and the prompts of before."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import getters
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Static, TextArea

from tui.app.base import ModiffBase
from tui.app.compose.field_row import FieldEdited
from tui.app.widgets.list_panel import put
from tui.describe.given import kind_of
from tui.describe.runs.of_file import dropped_path
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from textual import events
    from textual.app import ComposeResult
    from textual.binding import BindingType


class PromptHistory:
    """A walk through the prompts of before, newest first, and back to what was being written."""

    def __init__(self, prompts: Sequence[str], present: str) -> None:
        """prompts: newest last."""
        self._all = [*(prompt for prompt in prompts if prompt != present), present]
        self._at = len(self._all) - 1

    def older(self) -> str:
        """Stays at the oldest."""
        self._at = max(0, self._at - 1)
        return self._all[self._at]

    def newer(self) -> str:
        """Ends at what was being written."""
        self._at = min(len(self._all) - 1, self._at + 1)
        return self._all[self._at]


class PromptArea(TextArea):
    """A prompt, of any number of lines."""

    app = getters.app(ModiffBase)

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+up,alt+up", "older", "Older prompt", id="prompt.older", show=False, tooltip="the one before"),
        Binding("ctrl+down,alt+down", "newer", "Newer prompt", id="prompt.newer", show=False, tooltip="the one after"),
    ]  # fmt: skip

    def __init__(self, key: str, placeholder: str) -> None:
        super().__init__(compact=True, placeholder=placeholder, highlight_cursor_line=False, id=key)
        self.key = key
        self._shown = ""
        self._walk: PromptHistory | None = None
        self._walked = ""

    async def _on_paste(self, event: events.Paste) -> None:
        """The path of a picture or a clip is what to begin from, not what to show; the app takes it."""
        event.prevent_default()
        path = dropped_path(event.text)
        if path is None or not kind_of(path):
            event.stop()
            await super()._on_paste(event)

    def show(self, text: str, *, is_source: bool = False) -> None:
        """What the field holds now. is_source: this editor told it, and may be ahead of it by now."""
        if text != self._shown:
            self._shown = text
            if not is_source:
                self.fill(text)

    def fill(self, text: str) -> None:
        """As if it were typed; the cursor goes to its end."""
        if text != self.text:
            self.text = text
            self.move_cursor(self.document.end)

    def action_older(self) -> None:
        self._go(lambda walk: walk.older())

    def action_newer(self) -> None:
        self._go(lambda walk: walk.newer())

    def _go(self, choose: Callable[[PromptHistory], str]) -> None:
        # a text that was changed since is where a new walk begins
        if self._walk is None or self.text != self._walked:
            self._walk = PromptHistory(self.app.preferences.prompts, self.text)
        self._walked = choose(self._walk)
        self.fill(self._walked)


class Prompts(Vertical):
    """Prompt and negative prompt; tells what is typed as FieldEdited."""

    def __init__(self) -> None:
        super().__init__(id="prompts", classes="panel")
        self.border_title = "prompt"
        self.border_subtitle = "ctrl+↑ older  f3 all  f4 editor"

    def compose(self) -> ComposeResult:
        yield PromptArea("prompt", "what to show")
        yield Static("", id="words", markup=False)
        yield Static("negative", id="negative-title")
        yield PromptArea("negative_prompt", "what to steer away from")

    def area(self, key: str) -> PromptArea:
        """The editor of a prompt by its key."""
        return self.query_one(f"#{key}", PromptArea)

    def show(self, texts: Mapping[str, str], source: str) -> None:
        """What the fields hold now, by key. source: the key of the one that was typed in just now, or nothing."""
        for key, text in texts.items():
            self.area(key).show(text, is_source=key == source)

    def warn(self, text: str, *, is_error: bool) -> None:
        """What is to be said about the prompt, empty for nothing."""
        words = self.query_one("#words", Static)
        put(words, f"{'✖' if is_error else '▲'} {printable(text)}" if text else "")
        words.display = bool(text)
        words.set_class(is_error, "error")

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        area = event.text_area
        assert isinstance(area, PromptArea)
        self.post_message(FieldEdited(area.key, area.text))
