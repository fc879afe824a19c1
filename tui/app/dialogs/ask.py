"""Small questions over any screen: one line of text, or yes and no."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input, Static

from tui.app.dialogs.base import Dialog
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.suggester import Suggester

    from tui.describe.health import Status


class Ask(Dialog[str | None]):
    """Ends with the line that was typed, also an empty one, or None where it was left with esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave", id="app.back")
    ]
    DEFAULT_CSS = """
    Ask .error { color: $text-error; height: auto; }
    """

    def __init__(
        self,
        title: str,
        text: str,
        *,
        value: str = "",
        placeholder: str = "",
        check: Callable[[str], str] | None = None,
        suggester: Suggester | None = None,
    ) -> None:
        """text: what is asked, lines for people. check: what is wrong with a line, "" for nothing."""
        super().__init__()
        self._title, self._text, self._value = title, text, value
        self._placeholder, self._check, self._suggester = placeholder, check, suggester

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = "enter accepts, esc leaves"
            yield Static(self._text, markup=False)
            yield Input(
                self._value,
                placeholder=self._placeholder,
                suggester=self._suggester,
                select_on_focus=False,
            )
            yield Static("", classes="error", markup=False)

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(".error", Static).update(self._problem(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if not self._problem(event.value):
            self.dismiss(event.value)

    def _problem(self, line: str) -> str:
        return self._check(line) if self._check else ""


class Choose(Dialog[int | None]):
    """Ends with the number of the button that was pressed, from 0, or None where it was left with esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave", id="app.back"),
        Binding("right", "app.focus_next", "Next button", id="choose.next", show=False),
        Binding("left", "app.focus_previous", "Button before", id="choose.before", show=False),
    ]
    DEFAULT_CSS = """
    Choose Horizontal { height: auto; align-horizontal: right; margin-top: 1; }
    Choose Button { margin-left: 2; }
    """

    def __init__(self, title: str, lines: Sequence[str], buttons: Sequence[str]) -> None:
        """lines: what each choice means. The first button has the focus."""
        super().__init__()
        self._title, self._lines, self._buttons = title, lines, buttons

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = "enter chooses, esc leaves"
            yield Static("\n".join(self._lines), markup=False)
            with Horizontal():
                for number, word in enumerate(self._buttons):
                    yield Button(word, id=f"choice-{number}", compact=True)

    def on_mount(self) -> None:
        self.query(Button).first().focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(int((event.button.id or "0").rpartition("-")[2]))


class Confirm(Dialog[bool]):
    """Ends with whether it was agreed to: y or the button; esc, n and the other button do not."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "dismiss(False)", "No", id="confirm.no"),
        Binding("left,right", "other", "Other button", id="confirm.other"),
    ]
    DEFAULT_CSS = """
    Confirm VerticalScroll { height: auto; max-height: 16; }
    Confirm Horizontal { height: auto; align-horizontal: right; margin-top: 1; }
    Confirm Button { margin-left: 2; }
    """

    def __init__(self, title: str, lines: Sequence[str], yes: str) -> None:
        """lines: what will happen. yes: the word for it on the button, such as Remove."""
        super().__init__()
        self._title, self._lines, self._yes = title, lines, yes

    def compose(self) -> ComposeResult:
        with Vertical(classes="box") as box:
            box.border_title = self._title
            box.border_subtitle = "y yes, esc no"
            with VerticalScroll(can_focus=False):
                yield Static("\n".join(self._lines), markup=False)
            with Horizontal():
                yield Button("Keep", id="no", compact=True)
                yield Button(self._yes, id="yes", variant="warning", compact=True)

    def on_mount(self) -> None:
        self.query_one("#no", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_other(self) -> None:
        """The focus to the other of the two buttons."""
        self.focus_next(Button)


def confirm_cancel(run_id: str, status: Status | None) -> Confirm:
    """Whether a run is to be cancelled."""
    lines = [
        f"Run {run_id} stops when its present step ends.",
        "Steps that are done stay in the store: r resumes it where it was.",
    ]
    if status is not None and status.silence:
        lines.append(f"For now it hears nothing: {printable(status.silence)}.")
    return Confirm("cancel the run", lines, "Cancel the run")
