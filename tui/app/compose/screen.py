"""The compose screen: a preset, what is changed of it, what that would compute, and the start of the run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from textual.binding import Binding

from presets.errors import PresetError
from presets.library import files, loading
from presets.library.files import read_preset_text
from presets.settings.seeds import random_seed
from presets.spec.sections import SECTIONS
from tui.app.asking import asks
from tui.app.compose.draft import Draft, edited, line_of
from tui.app.compose.field_row import FieldEdited, PathInput
from tui.app.compose.form import FormScreen
from tui.app.compose.list_section import ListSection
from tui.app.compose.panels import Changes, Problems, Stages
from tui.app.compose.plan_panel import PlanPanel
from tui.app.compose.prompts import PromptArea, Prompts
from tui.app.compose.section_rows import keys_of, section_of
from tui.app.desktop import EditorFailed, edit_file, edit_text, start_of
from tui.describe.given import field_for, picture_preset
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from textual.binding import BindingType
    from textual.widgets import Input, OptionList
    from textual.worker import Worker

    from presets.spec.run import RunSpec
    from tui.app.compose.field_row import RowEditor
    from tui.describe.given import Kind, Look

# What one has written oneself stays when another preset is picked; the rest belongs to the model.
_TAKEN_ALONG = ("prompt", "seed")


class Compose(FormScreen):
    """Choose a preset, change what you like, see what it would compute, start it."""

    NEAR_ONLY = frozenset({"undo", "suggest", "section", "back", "panel"})
    HELP = (
        "Compose: the pipeline on the left, the fields of one stage in the middle, the plan beside it.\n"
        "Enter goes from a stage to its fields, esc goes back. * differs from the preset, ✖ is wrong.\n"
        "Extensions are a list: a adds one, del takes out, ctrl+↑ ctrl+↓ move the one you are in."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "run", "Run", id="compose.run", tooltip="start the run and watch it"),
        Binding("ctrl+t", "queue", "Queue", id="compose.queue", tooltip="queue the run and stay here"),
        Binding("ctrl+g", "variants", "Variants", id="compose.variants", tooltip="a sweep over seeds and values"),
        Binding("ctrl+s", "save", "Save", id="compose.save", tooltip="save as a preset"),
        Binding("ctrl+o", "pick", "Preset", id="compose.preset", tooltip="pick another preset"),
        Binding("f3", "history", "Prompts", id="compose.prompts", show=False, tooltip="the prompts of before"),
        Binding("f4", "editor", "Editor", id="compose.editor", show=False,
            tooltip="the prompt, or the preset's file, in $EDITOR"),
        Binding("u", "undo", "Undo", id="compose.undo", tooltip="the field as the preset has it"),
        Binding("U", "undo_all", "Undo all", id="compose.undo_all", show=False,
            tooltip="all fields as the preset has them"),
        Binding("a", "add", "Add", id="compose.add", show=False, tooltip="add to the list of this stage"),
        Binding("f2", "suggest", "Known values", id="compose.suggest", show=False,
            tooltip="what a field can be set to"),
        Binding("r", "random_seed", "Random seed", id="compose.random", show=False),
        Binding("f6", "random_prompt", "Random prompt", id="compose.random_prompt", show=False,
            tooltip="a sentence that the micro model was trained on"),
        Binding("f7", "begin", "Picture or clip", id="compose.begin", show=False,
            tooltip="pick what the video begins from"),
        Binding("e", "edit_file", "Edit preset file", id="compose.file", show=False,
            tooltip="edit the preset's file here"),
        Binding("left_square_bracket", "section(-1)", "Stage before", id="compose.previous", show=False),
        Binding("right_square_bracket", "section(1)", "Stage after", id="compose.next", show=False),
        Binding("y", "copy", "Copy as command", id="app.copy", show=False,
            tooltip="the command line that makes this run"),
        Binding("p", "panel('problems')", "Plan", id="compose.plan", tooltip="the plan, and what is wrong"),
        Binding("d", "panel('changes')", "Differences", id="compose.diff", show=False),
        Binding("escape", "back", "Back to the stages", id="compose.back", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        # by preset, the edits with which it was left
        self._left: dict[str, Mapping[str, str]] = {}
        # asked for before the first preset was read: whether to watch the run
        self._start_asked: bool | None = None
        self._launch: Worker[None] | None = None

    def load_run(self, spec: RunSpec, preset: str, field: str = "") -> None:
        """Put the settings of a run into the form, as changes of the preset that they came from. field: to go to."""
        self._start_asked = None  # which was of what is in the form now
        stages = self.query_one(Stages)
        stages.focus()  # where u takes back what they replace
        if field:
            stages.highlighted = SECTIONS.index(section_of(field))
        self.open_run(spec, preset)

    async def show_draft(
        self, draft: Draft | None, broken: tuple[str, PresetError] | None = None
    ) -> None:
        await super().show_draft(draft, broken)
        if self._start_asked is not None:
            self.call_next(self._start, watch=self._start_asked)
            self._start_asked = None

    def begin_from(self, path: Path, kind: Literal["picture", "clip"]) -> None:
        """Fill the field that a file fits, and show it; where the run's task takes no picture, with the preset of its
        family that does."""
        if self.draft is None or self.checked is None:
            return
        spec = self.checked.shown
        name = field_for(spec, kind)
        stages = self.query_one(Stages)
        stages.focus()  # where the next file that is dropped is taken in as well
        stages.highlighted = SECTIONS.index(section_of("image.path"))
        if name:
            self._change(self.draft.typed(f"{name}.path", str(path)))
            return
        preset, present = picture_preset(spec), self.draft.preset
        self._left[present] = self.draft.edits
        edits = {key: text for key, text in self.draft.edits.items() if key in _TAKEN_ALONG}
        self.notify(
            f"preset {preset} makes a video from a picture; ctrl+o goes back to {printable(present)}",
            markup=False,
        )
        self.open_preset(preset, {**edits, "image.path": str(path)})

    # Changing and starting

    async def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if isinstance(event.option_list, Stages):
            await self.show_section(SECTIONS[event.option_index])
            if self.section.name == "preset":
                self.action_pick()
            elif isinstance(self.view, ListSection) and not self.view.editors():
                self.action_add()
            else:
                shown = (row for row in self._rows() if row.is_shown)
                own = (row.key for row in shown if row.field.section == self.section.name)
                await self.go_to(next(own, keys_of(self.section)[0]))
        elif self.broken:
            self.action_edit_file()
        elif isinstance(event.option_list, Problems | Changes) and event.option_list.key:
            await self.go_to(event.option_list.key)

    def action_undo(self) -> None:
        """The focused field, or the one that a list names, or all of the stage, as the preset has it. Right after
        another draft took the place of one, on the stages: that one again."""
        if self.draft is None:
            return
        replaced, self.replaced = self.replaced, None
        if replaced is not None and self.draft == replaced[1] and isinstance(self.focused, Stages):
            self._restore(replaced[0])
            return
        focused, row = self.focused, self.focused_row
        if row is not None:
            self._change(self.draft.without(row.row.key))
        elif isinstance(focused, Changes | Problems):
            self._change(self.draft.without(focused.key))
        elif isinstance(focused, Stages):
            self._change(self.draft.without(*keys_of(self.section)))

    def action_add(self) -> None:
        """Another item, where the stage is a list."""
        if self.draft is not None and isinstance(self.view, ListSection):
            self.view.add()

    def action_undo_all(self) -> None:
        """Everything as the preset has it."""
        if self.draft is not None:
            before = self.draft
            self._change(Draft(before.preset, before.base))
            if before != self.draft:
                self.replaced = before, self.draft
                self.notify("all is as the preset has it; u, on the stages, takes that back")

    @asks(exclusive=True, group="preset")
    async def _restore(self, draft: Draft) -> None:
        await self.show_draft(draft)

    def on_field_edited(self, event: FieldEdited) -> None:
        """A seed of -1 is a random one, as elsewhere."""
        if event.key == "seed" and event.text.strip() == "-1":
            event.stop()
            event.prevent_default()  # the form does not take it as it is
            self.action_random_seed()

    def action_random_seed(self) -> None:
        """Another noise to begin with."""
        if self.draft is None:
            return
        seed = str(random_seed())
        self._change(self.draft.typed("seed", seed))
        if self.section is not section_of("seed"):
            self.notify(f"the seed is {seed} now")

    def action_random_prompt(self) -> None:
        """A sentence that the model was trained on, where that knows but some; what was there can be taken back."""
        if self.draft is None or self.checked is None:
            return
        from tui.describe.prompts.warnings import random_prompt

        prompt = random_prompt(self.checked.shown)
        if not prompt:
            self.notify("this model takes any sentence; f6 draws one for the micro model")
            return
        self.query_one(Prompts).area("prompt").fill(prompt)

    async def action_run(self) -> None:
        await self._start(watch=True)

    async def action_queue(self) -> None:
        await self._start(watch=False)

    async def _start(self, *, watch: bool) -> None:
        """Queue the run, or go to the first thing that is wrong; once there is a draft. A key that is pressed twice in
        one moment queues one run."""
        if self.draft is None and self.broken is None:
            self._start_asked = watch
            return
        if self._launch is not None and not self._launch.is_finished:
            return
        spec = await self.valid_spec()
        if spec is None or self.draft is None:
            return
        if self.query_one(PlanPanel).is_refused:
            self.action_panel("problems")
            return
        self._launch = self.app.launch(spec, self.draft.preset, watch=watch)

    async def valid_spec(self) -> RunSpec | None:
        """The run as it is in the form; where something is wrong, None, and that is gone to."""
        self._gather()
        if self.checked is None:
            self.action_panel("problems")
        elif self.checked.spec is not None:
            return self.checked.spec
        else:
            key, line = next(iter(self.checked.errors.items()))
            self.notify(line, title="wrong", severity="error", markup=False)
            if key:
                await self.go_to(key)  # which says what is wrong with it
            else:
                self.action_panel("problems")
        return None

    async def action_variants(self) -> None:
        """Several seeds, and values of settings, of the run in the form."""
        spec = await self.valid_spec()
        if spec is None or self.draft is None:
            return
        if self.query_one(PlanPanel).is_refused:
            self.action_panel("problems")
            return
        from tui.app.compose.variants.dialog import Variants

        self.app.push_screen(Variants(spec, self.draft.preset))

    @asks(group="copy")
    async def action_copy(self) -> None:
        """The command line of what is in the form, or what is wrong where a list names that, into the clipboard."""
        if isinstance(self.focused, Problems) and self._problems():
            text = "\n".join(problem.text for problem in self._problems())
        else:
            spec = await self.valid_spec()
            if spec is None or self.draft is None:
                return
            from tui.describe.runs.command_line import command_from_preset, run_command

            draft = self.draft
            if draft.preset:
                text = run_command(spec, draft.preset, draft.base)
            else:
                text = await asyncio.to_thread(command_from_preset, spec, "")
        self.app.copy(text)

    # Presets

    @asks(exclusive=True, group="preset")
    async def open_preset(self, name: str, edits: Mapping[str, str]) -> None:
        """Begin from a preset, with these edits; a broken one is shown with what is wrong."""
        try:
            base = await asyncio.to_thread(loading.load_preset, name)
        except PresetError as error:
            self._left[name] = edits  # for when it is mended
            await self.show_draft(None, (name, error))
            self.query_one(Stages).highlighted = 0
            return
        self.app.preferences.preset = name
        await self.show_draft(edited(Draft(name, base), edits))

    @asks(group="pick")
    async def action_pick(self) -> None:
        """Pick another preset. What was changed of this one comes back with it."""
        from tui.app.compose.presets.pick import pick_preset

        self._start_asked = None  # which was of the one before
        present, _ = self.name_and_error
        name = await pick_preset(self.app, present)
        if name is None or (self.draft and name == present):
            return
        left = self.draft.edits if self.draft else self._left.get(present, {})
        self._left[present] = left
        edits = {k: v for k, v in left.items() if k in _TAKEN_ALONG}
        self.open_preset(name, {**self._left.get(name, {}), **edits})

    async def action_save(self) -> None:
        """Save the form as a preset of one's own, and go on from that."""
        spec = await self.valid_spec()
        if spec is not None and self.draft is not None:
            self._save_as(spec, self.draft)

    @asks(group="pick")
    async def _save_as(self, spec: RunSpec, draft: Draft) -> None:
        from tui.app.compose.presets.save import SavePreset

        own = self.info if self.info is not None and not self.info.shipped else None
        name, description = (own.name, own.description) if own else ("", "")
        path = await self.app.push_screen_wait(SavePreset(spec, draft.preset, name, description))
        if path is not None:
            self.notify(f"saved {path}", markup=False)
            self.open_preset(path.stem, {})

    @asks(group="pick")
    async def action_edit_file(self) -> None:
        """The preset's file, here."""
        from tui.app.compose.presets.edit import PresetFile

        path = self._file()
        if path is None:
            return
        with self.app.opening():
            text = await asyncio.to_thread(files.read_preset_text, path)
        key = self.broken[1].key if self.broken else ""
        if await self.app.push_screen_wait(PresetFile(path, text, key)):
            self._reopen()

    def action_editor(self) -> None:
        """The prompt in the user's editor, or from elsewhere the preset's file."""
        focused = self.focused
        path = None if isinstance(focused, PromptArea) else self._file()
        try:
            if isinstance(focused, PromptArea):
                focused.fill(edit_text(self.app, focused.text))
            elif path is not None:
                edit_file(self.app, path, self._line_of_error(path))
                self._reopen()
        except EditorFailed as error:
            self.notify(str(error), severity="error", markup=False)

    def _line_of_error(self, path: Path) -> int:
        if not self.broken or not self.broken[1].key:
            return 0
        try:
            return line_of(read_preset_text(path), self.broken[1].key)
        except PresetError:  # the editor will say more
            return 0

    def _reopen(self) -> None:
        name, _ = self.name_and_error
        edits = self.draft.edits if self.draft else self._left.get(name, {})
        self.open_preset(name, edits)

    def _file(self) -> Path | None:
        """The file to be mended, or that of the present preset; says so where that cannot be changed."""
        name, _ = self.name_and_error
        info = self.info
        path = Path(name) if name.endswith(".toml") else info.path if info else None
        if self.broken and self.broken[1].source:
            path = Path(self.broken[1].source)  # a parent of the preset may be what is broken
        if path is None or (info is not None and info.shipped):
            self.notify(
                f"{name or 'this'} is not a preset file of yours; ctrl+s saves one", markup=False
            )
            return None
        return path

    # Prompts and known values

    @asks(group="pick")
    async def action_history(self) -> None:
        """A prompt of before, by searching."""
        from tui.app.compose.prompt_history import PromptHistory, in_order
        from tui.app.preferences import MAX_PROMPTS
        from tui.describe.runs.finding.filter import Search
        from tui.describe.runs.run import found_rows

        with self.app.opening():
            rows = await self.app.lab.read(found_rows, Search(), MAX_PROMPTS)
        prompts = in_order(self.app.preferences.prompts, [row.prompt for row in reversed(rows)])
        if not prompts:
            self.notify("no prompts yet: each run's is remembered")
            return
        prompt = await self.app.push_screen_wait(PromptHistory(prompts))
        if prompt is not None:
            self.query_one(Prompts).area("prompt").fill(prompt)
            self.call_next(self.go_to, "prompt")

    async def action_begin(self) -> None:
        """Pick what the video begins from: a picture where the preset takes one, else a clip."""
        if self.checked is None:
            return
        spec = self.checked.shown
        key = f"{field_for(spec, 'picture') or field_for(spec, 'clip')}.path"
        await self.go_to(key)
        for editor in self.view.editors():
            if editor.row.key == key:
                self._suggest(editor)

    async def _picked_file(self, field: PathInput) -> Path | None:
        """Picked by walking, from where the field points or the last one was picked."""
        from tui.app.dialogs.files import FilePicker
        from tui.describe.given import look_at_file

        async def look(path: Path, kind: Kind) -> Look:
            return await self.app.lab.files(lambda _: look_at_file(path, kind))

        preferences = self.app.preferences
        with self.app.opening():
            start = await asyncio.to_thread(start_of, field.value, preferences.folder)
        graphics = self.app.graphics
        picked = await self.app.push_screen_wait(FilePicker(field.kind, start, look, graphics))
        if picked is not None:
            preferences.folder = str(picked.parent)
        return picked

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in the path of a file."""
        if isinstance(event.input, PathInput):
            event.stop()
            self.action_suggest()

    def action_suggest(self) -> None:
        """What the focused field can be set to, where that is known."""
        if self.focused_row is not None:
            self._suggest(self.focused_row)

    @asks(group="pick")
    async def _suggest(self, editor: RowEditor) -> None:
        from tui.app.dialogs.picker import Item, Picker

        if isinstance(editor.editor, PathInput):
            path = await self._picked_file(editor.editor)
            if path is not None:
                editor.put(str(path))
            return
        values = editor.row.suggestions or editor.row.choices
        if not values:
            self.notify(
                f"no values are known for {editor.row.label}; it takes {editor.row.field.expected}",
                markup=False,
            )
            return
        items = [Item(value) for value in values]
        value = await self.app.push_screen_wait(Picker(editor.row.label, items, editor.row.text))
        if value is not None:
            editor.put(value)
