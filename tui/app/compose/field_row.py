"""One field of the form: its name, the right editor, what the preset says, and what is wrong with it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Input

from tui.app.compose.section_rows import stepped, takes_number
from tui.app.desktop import PathSuggester
from tui.app.form_words import form_words
from tui.app.widgets.choice_line import ChoiceLine
from tui.describe.given import endings_of, kind_of
from tui.describe.runs.of_file import dropped_path
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.style import Style
    from textual import events
    from textual.app import ComposeResult, RenderResult
    from textual.binding import BindingType
    from textual.geometry import Size

    from presets.fields.listing import Field
    from tui.app.compose.draft import Checked, Draft
    from tui.app.compose.section_rows import FormRow
    from tui.describe.given import Kind

# Where the editor of a row begins, and how wide one is whose values are short.
LABEL_CELLS = 18
SHORT_CELLS = 20
# Roles of fields that hold the path of a file, and what lies there.
PATH_ROLES: Mapping[str, Kind] = {"picture": "picture", "clip": "clip", "file": "file"}


class FieldEdited(Message):
    """Somebody changed what a field holds."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__()
        self.key = key
        self.text = text


class DraftEdited(Message):
    """Somebody changed more than one field, or which there are. focus: the key to go on from, empty for where it is."""

    def __init__(self, edit: Callable[[Draft, Checked], Draft], focus: str = "") -> None:
        super().__init__()
        self.edit = edit
        self.focus = focus


class NumberInput(Input):
    """A number. Letters that no number holds are commands: `u`, `U` undo, and `r` in the seed draws one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("pageup", "step(1)", "More", id="form.more", show=False, tooltip="a step more"),
        Binding("pagedown", "step(-1)", "Less", id="form.less", show=False, tooltip="a step less"),
    ]

    def __init__(self, field: Field, value: str) -> None:
        super().__init__(value, compact=True)
        self.field = field

    def _on_paste(self, event: events.Paste) -> None:
        """A picture or a clip that is dropped here is the app's affair."""
        path = dropped_path(event.text)
        if path is not None and kind_of(path):
            event.prevent_default()

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return not self._is_command(character) and super().check_consume_key(key, character)

    async def _on_key(self, event: events.Key) -> None:
        if self._is_command(event.character):
            event.prevent_default()  # goes on to the bindings of the screen

    def _is_command(self, character: str | None) -> bool:
        return character in ("u", "U") or (character == "r" and self.field.role == "seed")

    def action_step(self, up: int) -> None:
        self.value = stepped(self.field, self.value, up)
        self.cursor_position = len(self.value)


class PathInput(Input):
    """The path of a file: completed as it is typed; one that is pasted or dropped takes the place of what was there."""

    def __init__(self, value: str, kind: Kind) -> None:
        super().__init__(
            value,
            compact=True,
            select_on_focus=False,
            suggester=PathSuggester(endings_of(kind)),
            placeholder="" if kind == "file" else "enter walks through folders",
        )
        self.kind = kind

    def on_mount(self) -> None:
        self.show_end()

    def show_end(self) -> None:
        """Where the name of the file is."""
        self.cursor_position = len(self.value)
        self.call_after_refresh(self._scroll_to_end)

    def _scroll_to_end(self) -> None:
        self.scroll_to(x=self.max_scroll_x, animate=False, force=True)

    def _on_paste(self, event: events.Paste) -> None:
        event.prevent_default()
        path = dropped_path(event.text)
        if path is None:
            super()._on_paste(event)
        elif self.kind == "file" or kind_of(path) in ("", self.kind):
            self.value = str(path)
            self.show_end()
            event.stop()


class RowEditor(Widget):
    """Draws the name and the notes itself, around its one child: a form of many rows stays cheap."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "row-editor--label",
        "row-editor--changed",
        "row-editor--note",
        "row-editor--error",
    }
    DEFAULT_CSS = """
    RowEditor { height: auto; }
    RowEditor > .row-editor--label { color: $foreground; }
    RowEditor > .row-editor--changed { color: $text-warning; text-style: bold; }
    RowEditor > .row-editor--note { text-style: dim; }
    RowEditor > .row-editor--error { color: $text-error; }
    RowEditor > Input, RowEditor > ChoiceLine { margin-left: 18; width: 1fr; }
    RowEditor > NumberInput { width: 20; }
    RowEditor > NumberInput.-long { width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "Field above", show=False, id="form.previous"),
        Binding("down", "app.focus_next", "Field below", show=False, id="form.next"),
    ]

    def __init__(self, row: FormRow) -> None:
        super().__init__()
        self.row = row
        self.display = row.is_shown
        self._editor: Widget | None = None
        self._composed = row

    def on_mount(self) -> None:
        """The field may have changed since its editor was made, which would take that back."""
        self._editor = self.children[0]
        if self.row.text != self._composed.text:
            self._show_text()

    def on_unmount(self) -> None:
        """The screen would keep the editor for as long as no text is selected: Textual's Input subscribes to that."""
        if self._editor is not None:
            self.screen.text_selection_started_signal.unsubscribe(self._editor)

    def compose(self) -> ComposeResult:
        row = self._composed = self.row
        if row.choices:
            yield ChoiceLine(row.choices, self._chosen(), many=row.kind == "list")
        elif row.kind == "number" or takes_number(row.field):
            editor = NumberInput(row.field, row.text)
            editor.set_class(row.kind != "number", "-long")
            yield editor
        elif row.field.role in PATH_ROLES:
            yield PathInput(row.text, PATH_ROLES[row.field.role])
        else:
            suggester = SuggestFromList(row.suggestions) if row.suggestions else None
            yield Input(row.text, compact=True, select_on_focus=False, suggester=suggester)

    @property
    def is_filled(self) -> bool:
        """Whether its editor is there, which comes a moment after the row."""
        return self._editor is not None and bool(self.children)

    @property
    def editor(self) -> Input | ChoiceLine:
        """The child that takes the keys."""
        child = self.children[0]
        assert isinstance(child, Input | ChoiceLine)
        return child

    @property
    def text(self) -> str:
        """What the editor holds now, told already or not."""
        editor = self.editor
        if isinstance(editor, Input):
            return editor.value
        return _listed(editor.chosen) if self.row.kind == "list" else editor.chosen[0]

    @property
    def help(self) -> str:
        """What the field is, what it takes, and the keys that fill it."""
        row = self.row
        is_path = isinstance(self.editor, PathInput)
        told = [row.field.description]
        if not is_path:
            told.append(f"takes {form_words(row.field.expected)}")
        if row.is_changed and not (is_path and not row.base_text):
            told.append(f"preset: {row.base_text or '(empty)'}")
        if row.key == "seed":
            told.append("-1 draws one too")
        if is_path:
            told.append("enter picks one, → takes what is offered; a file can be dropped here")
        elif row.suggestions:
            told.append("f2 lists what is known, → takes what is offered")
        return "\n".join(told)

    def show(self, row: FormRow, *, is_source: bool = False) -> None:
        """The field as it is now. is_source: the editor itself told its text, and may be ahead of it by now."""
        before, self.row = self.row, row
        if row == before:
            return
        if row.text != before.text and not is_source and self.is_filled:
            self._show_text()
        if self.is_filled and isinstance(self.editor, NumberInput):
            self.editor.set_class(row.kind != "number", "-long")
        self.display = row.is_shown
        self.refresh(layout=True)

    def _show_text(self) -> None:
        editor = self.editor
        if isinstance(editor, Input):
            self._fill(editor, self.row.text)
        else:
            editor.show(self.row.choices, self._chosen())

    def put(self, text: str) -> None:
        """Fill in a text as if it were typed."""
        editor = self.editor
        if isinstance(editor, Input):
            self._fill(editor, text)
        else:
            self.post_message(FieldEdited(self.row.key, text))

    def _fill(self, editor: Input, text: str) -> None:
        editor.value = text
        editor.cursor_position = len(text)
        if isinstance(editor, PathInput):
            editor.show_end()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._tell(self.text)

    def on_choice_line_chosen(self, event: ChoiceLine.Chosen) -> None:
        event.stop()
        self._tell(self.text)

    def _tell(self, text: str) -> None:
        if text != self.row.text:
            self.post_message(FieldEdited(self.row.key, text))

    def _chosen(self) -> tuple[str, ...]:
        if self.row.kind != "list":
            return (self.row.text,)
        try:
            items = tomllib.loads(f"value = {self.row.text}")["value"]
        except ValueError:
            items = []
        return tuple(map(str, items))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return 1 + len(self._error_lines(width))

    def render(self) -> RenderResult:
        row = self.row
        mark = "✖" if row.error else "*" if row.is_changed else " "
        style = "error" if row.error else "changed" if row.is_changed else "label"
        line = Text(no_wrap=True)
        line.append(f"{mark} {row.label}"[: LABEL_CELLS - 1], self._style(style))
        if row.is_changed and (note := self._note()):
            line.pad_right(max(0, self.size.width - line.cell_len - cell_len(note)))
            line.append(note, self._style("note"))
        lines = [line, *self._error_lines(self.size.width)]
        return Text("\n").join(lines)

    def _note(self) -> str:
        """What the preset says, where the editor leaves room for it."""
        if self.row.kind not in ("number", "choice", "switch"):
            return ""
        room = self.size.width - LABEL_CELLS - SHORT_CELLS - 1
        editor = self.editor
        if isinstance(editor, ChoiceLine):
            room = self.size.width - LABEL_CELLS - editor.cells - 1
        note = printable(f"preset {self.row.base_text}")
        return shorten(note, room) if room >= len("preset 1") else ""

    def _error_lines(self, width: int) -> list[Text]:
        if not self.row.error or width <= LABEL_CELLS:
            return []
        told = self.row.error.removeprefix(f"{self.row.key}: ")
        text = Text(told, self._style("error"))
        lines = text.wrap(self.app.console, width - 2)
        for line in lines:
            line.pad_left(2)
        return list(lines)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"row-editor--{name}", partial=True)


def _listed(chosen: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in chosen) + "]"
