"""The form of a run: its stages, the fields of one of them, the prompts, and beside them what that comes to."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.library import listing, loading
from presets.spec.sections import SECTIONS
from tui.app.asking import asks, is_there
from tui.app.base import ModiffScreen
from tui.app.compose.draft import (
    Draft,
    Problem,
    changes,
    check,
    draft_of,
    edited,
    problems,
    text_of,
)
from tui.app.compose.field_row import DraftEdited, FieldEdited, RowEditor
from tui.app.compose.fields_section import FieldsSection
from tui.app.compose.given_view import GivenView
from tui.app.compose.list_edits import Unmended
from tui.app.compose.list_section import ListSection
from tui.app.compose.panels import Changes, Problems, Stages
from tui.app.compose.plan_panel import PlanPanel, plan_line
from tui.app.compose.prompts import PromptArea, Prompts
from tui.app.compose.section_rows import about_preset, about_section, list_of, rows, section_of
from tui.app.compose.whole_form import PARTS, WHOLE_FROM, WholeForm
from tui.app.preferences import KeptDraft
from tui.app.top_line import TopLine
from tui.app.widgets.footer import Footer
from tui.app.widgets.list_panel import put
from tui.describe.given import about_given, look_at
from tui.text import printable

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.widgets import OptionList

    from presets.library.listing import PresetInfo
    from presets.spec.run import RunSpec
    from presets.spec.sections import Section
    from store.index.index import Index
    from store.store import Store
    from tui.app.compose.draft import Checked
    from tui.app.compose.section_rows import FormRow
    from tui.describe.given import Look
    from tui.describe.health import Status

# Before names are looked up: it reads much, for lists that are opened later, and would slow the first painting.
NAMES_SECONDS = 0.4
# How long the first painting waits for the first preset.
FIRST_SECONDS = 0.5
# Before a picture or a clip is looked at: a path that is typed names many files on its way.
LOOK_SECONDS = 0.15
_FIRST_PRESET = "micro"


class FormScreen(ModiffScreen):
    """Shows a draft, takes in what is typed, and keeps the plan up to date."""

    CSS_PATH = "compose.tcss"
    AUTO_FOCUS = "#stages"

    def __init__(self) -> None:
        super().__init__()
        self.draft: Draft | None = None
        self.checked: Checked | None = None
        self.broken: tuple[str, PresetError] | None = None
        self.info: PresetInfo | None = None
        self.section: Section = SECTIONS[0]
        self.view = FieldsSection(self.section, {})
        self._whole: WholeForm | None = None  # where a list is shown in its place
        self._known: dict[str, tuple[str, ...]] = {}
        self._work: tuple[tuple[str, ...], int] = ((), 0)
        # a draft whose place another one took at one stroke, and that one as it was put there
        self.replaced: tuple[Draft, Draft | None] | None = None
        self._opening = asyncio.Lock()
        self._has_draft = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield TopLine("compose")
        self.view = self._kind_of(self.section)(self.section, self._known)
        with Horizontal(id="main"):
            yield Stages()
            with Vertical(id="middle"):
                with Vertical(id="form", classes="panel"):
                    yield Static(id="about", markup=False)
                    yield self.view
                    yield Static(id="help", markup=False)
                yield Prompts()
            with Vertical(id="side"):
                yield PlanPanel()
                yield Problems("problems", id="problems")
                yield Changes("differs from the preset", id="changes")
        yield Static(id="summary", markup=False)
        yield Footer()

    async def on_mount(self) -> None:
        self.app.status_signal.subscribe(self, self._on_status)
        self._begin()
        self.set_timer(NAMES_SECONDS, self._learn_names)
        # nothing is painted before: an empty form would be painted for a moment, and all of it again
        with suppress(TimeoutError):
            await asyncio.wait_for(self._has_draft.wait(), FIRST_SECONDS)

    # What the form holds

    @asks(exclusive=True, group="preset")
    async def _begin(self) -> None:
        kept = self.app.preferences.draft
        name = kept.preset if kept else self.app.preferences.preset
        try:
            base = await asyncio.to_thread(_base_of, name, kept)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.app.tell_error(error)
            kept, name = None, _FIRST_PRESET
            base = await asyncio.to_thread(loading.load_preset, name)
        draft = Draft(name, base)
        if kept is not None:
            draft = edited(draft, kept.edits)
        if name:
            self.app.preferences.preset = name
        if not name:
            self.notify("the settings that were in the form are here again")
        elif draft.edits:
            told = f"what you had changed is here again; U goes back to preset {printable(name)}"
            self.notify(told, markup=False)
        await self.show_draft(draft)

    @asks(exclusive=True, group="preset")
    async def open_run(self, spec: RunSpec, preset: str) -> None:
        """The settings of a run, as changes of the preset that they came from; those before can be taken back."""
        try:
            base = await asyncio.to_thread(loading.load_preset, preset)
        except PresetError:
            base = None
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self.app.tell_error(error)
            base = None
        before = self.draft
        await self.show_draft(draft_of(spec, preset, base))
        if before is not None and before != self.draft and before.edits:
            self.replaced = before, self.draft
            other = f", of preset {printable(preset)}" if base and preset != before.preset else ""
            told = f"the run's settings are in the form{other}; u takes back those before"
            self.notify(told, markup=False)

    @asks(exclusive=True, group="names")
    async def _learn_names(self) -> None:
        """The components that are installed, and the models that have names: for the sections that are opened from
        now on, since a field that is edited must not go from under its cursor."""
        self._known = await asyncio.to_thread(_known_names)
        if isinstance(self.view, WholeForm) and self.focused_row is None:
            self.call_next(self.show_section, self.section, anew=True)

    async def show_draft(
        self, draft: Draft | None, broken: tuple[str, PresetError] | None = None
    ) -> None:
        """Another draft, or a preset that is broken, with what is wrong. For workers: they may be cancelled while the
        preset is read, but not while rows are mounted, which the screen does itself."""
        name = draft.preset if draft is not None else broken[0] if broken is not None else ""
        try:
            info = await asyncio.to_thread(listing.preset_info, name)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            info = None
            self.app.tell_error(error)
        self.draft, self.broken, self.info = draft, broken, info
        self._keep_draft()
        self._recheck()
        self.call_next(self.show_section, self.section, anew=True)
        self._has_draft.set()

    def _recheck(self, source: str = "") -> None:
        """source: the key of the field that was typed in just now."""
        if not is_there(self):  # the panels are gone
            return
        self.checked = None if self.draft is None else check(self.draft)
        self.query_one(PlanPanel).forget()
        self._plan()
        self.show(source)

    def _change(self, draft: Draft, source: str = "") -> None:
        if draft != self.draft:
            self.draft = draft
            self._keep_draft()
            self._recheck(source)

    def _keep_draft(self) -> None:
        """For the next start. While a broken preset is shown, that has the draft of before."""
        draft = self.draft
        if draft is not None:
            self.app.preferences.draft = _kept(draft)

    def on_field_edited(self, event: FieldEdited) -> None:
        event.stop()
        self._take(event.key, event.text)

    def on_draft_edited(self, event: DraftEdited) -> None:
        event.stop()
        self._gather()
        if self.draft is None or self.checked is None:
            return
        try:
            draft = event.edit(self.draft, self.checked)
        except Unmended as error:
            self.notify(str(error), title="wrong", severity="error", markup=False)
            return
        self._change(draft)
        self.call_next(self._focus_row, event.focus)

    def _take(self, key: str, text: str) -> None:
        if self.draft is None or self.checked is None:
            return
        if text != text_of(self.draft, self.checked, key):
            self._change(self.draft.typed(key, text), key)

    def _gather(self) -> None:
        """Take in what the editors hold and have not told yet."""
        for area in self.query(PromptArea):
            self._take(area.key, area.text)
        for row in self.view.editors():
            if row.is_filled and row.text != row.row.text:
                self._take(row.row.key, row.text)

    @property
    def name_and_error(self) -> tuple[str, str]:
        """The preset, empty for none, and what is wrong with it."""
        if self.broken:
            return self.broken[0], str(self.broken[1])
        return (self.draft.preset if self.draft else ""), ""

    # The plan

    def _plan(self) -> None:
        panel = self.query_one(PlanPanel)
        if self.checked is not None and self.checked.spec is not None:
            own = self.draft.base.prompt if self.draft and self.draft.preset else ""
            panel.plan(self.checked.spec, own)
        else:
            panel.leave(is_broken=self.checked is None)

    def on_plan_panel_made(self) -> None:
        self.show()

    def _on_status(self, status: Status | None) -> None:
        """A run that ends may have stored what this one needs."""
        if status is not None:
            before = self._work
            self._work = (tuple(run.id for run in status.running), status.num_queued)
            if before != ((), 0) and before != self._work:
                self._plan()

    def on_screen_resume(self) -> None:
        if self.checked is not None:
            self._plan()

    # What is shown

    @property
    def is_narrow(self) -> bool:
        """Whether the panels take turns."""
        return self.has_class("-narrow")

    def _problems(self) -> tuple[Problem, ...]:
        if self.checked is not None:
            preset = self.draft.preset if self.draft and not self.checked.changed else ""
            plan = self.query_one(PlanPanel)
            return problems(self.checked, plan.refused, plan.warning, plan.missing, preset)
        return (Problem("", str(self.broken[1]), True),) if self.broken else ()

    def _marked(self) -> Checked | None:
        """The form with what the plan was refused for as errors of the fields that this names."""
        if self.checked is None:
            return None
        refused = {problem.key: problem.text for problem in self._problems() if problem.is_error}
        return replace(self.checked, errors=self.checked.errors or refused)

    def show(self, source: str = "") -> None:
        """Draw all that follows from the draft. source: the key of the field that was typed in just now."""
        draft, checked = self.draft, self.checked
        found = self._problems()
        changed = changes(draft, checked) if draft and checked else ()
        is_roomy = not self.is_narrow and self.has_class("-tall")
        self.query_one(Stages).show(draft, self._marked(), is_roomy=is_roomy)
        plan = self.query_one(PlanPanel)
        self.query_one(Problems).show(found, plan.commands)
        self.query_one(Changes).show(changed, draft.preset if draft else "")
        num_errors = sum(problem.is_error for problem in found)
        line = plan_line(plan.planned, num_errors, len(changed))
        put(self.query_one("#summary", Static), f" {line}  (p)")
        shown = self._rows()
        self.view.show(shown, source)
        self._show_about()
        self._look_at_given()
        is_list = isinstance(self.view, ListSection) and not self._opening.locked()
        if is_list and [row.key for row in shown] != [each.row.key for each in self.view.editors()]:
            self.call_next(self._open, self.section)
        if draft and checked:
            prompts = self.query_one(Prompts)
            keys = ("prompt", "negative_prompt")
            prompts.show({key: text_of(draft, checked, key) for key in keys}, source)
            wrong = "".join(checked.errors.get(key, "") for key in keys)
            prompts.warn(wrong or plan.warning, is_error=bool(wrong))
        self.query_one(Prompts).disabled = draft is None
        self._show_help()

    @asks(exclusive=True, group="given")
    async def _look_at_given(self) -> None:
        """At the pictures and the clip of the form, as far as they are shown and others than before."""
        if self.checked is None:
            return
        spec = self.checked.shown
        rest = (spec.width, spec.height, spec.max_area, spec.fps, spec.frames, spec.scheduler)
        for view in self.view.query(GivenView):
            given = getattr(spec, view.given)
            if (given, rest) == view.wanted or not view.is_attached:
                continue
            if given.path:
                await asyncio.sleep(LOOK_SECONDS)
            look = await self.app.lab.files.indexed(_look, spec, view.given)
            view.wanted = given, rest
            view.show(look)

    def _rows(self) -> tuple[FormRow, ...]:
        marked = self._marked()
        is_whole = isinstance(self.view, WholeForm)
        if self.draft is None or marked is None or (self.section.name == "prompt" and not is_whole):
            return ()
        shown = PARTS if is_whole else (self.section,)
        draft = self.draft
        return tuple(row for each in shown for row in rows(each, draft, marked, self._known))

    async def show_section(self, section: Section, *, anew: bool = False) -> None:
        """Open one section of the form. anew: also where it is open."""
        if (section is self.section and not anew) or not self.app.is_running:
            return
        self._gather()
        self.section = section
        form = self.query_one("#form")
        is_whole = self._kind_of(section) is WholeForm
        for name in ("prompt", "preset"):
            self.set_class(section.name == name and not is_whole, f"-{name}")
        form.border_title = "settings" if is_whole else section.title
        if anew or not (is_whole and isinstance(self.view, WholeForm)):
            await self._open(section)
        self._show_about()
        if isinstance(self.view, WholeForm) and not isinstance(self.focused_row, RowEditor):
            self.view.go_to(section)

    def _show_about(self) -> None:
        """What the section is, above its fields; of all of them each has its heading."""
        if isinstance(self.view, WholeForm):
            about = ""
            if self.checked is not None:
                self.view.tell(section_of("image.path"), about_given(self.checked.shown))
        elif self.section.name == "preset":
            name, error = self.name_and_error
            is_ready = not any(problem.is_error for problem in self._problems())
            lack = self.query_one(PlanPanel).lack
            about = about_preset(name, self.info, error, lack, is_ready=is_ready)
        else:
            about = about_section(self.section, self.checked)
        told = "\n".join(filter(None, (about, self.view.KEYS)))
        put(self.query_one("#about", Static), told)
        self.query_one("#about").display = bool(told)

    def _kind_of(self, section: Section) -> type[FieldsSection]:
        """How a section is shown."""
        if list_of(section):
            return ListSection
        size = self.size or self.app.size  # before it has one it will be that of the app
        is_large = size.width >= WHOLE_FROM[0] and size.height >= WHOLE_FROM[1]
        return WholeForm if is_large else FieldsSection

    async def _open(self, section: Section) -> None:
        """The rows of a section anew, in the view of its kind."""
        async with self._opening, self.batch():
            kind, before, kept = self._kind_of(section), self.view, self._whole
            is_other = type(before) is not kind
            if is_other and kind is WholeForm and kept is not None:
                self.view, self._whole = kept, None
                kept.display = True
                await before.remove()
                kept.show(self._rows())
                return
            if is_other or (kind is not WholeForm and before.section is not section):
                self.view = kind(section, self._known)
                if isinstance(before, WholeForm) and kind is ListSection:
                    before.display, self._whole = False, before  # it is soon come back to
                else:
                    await before.remove()
                await self.query_one("#form").mount(self.view, before="#help")
            await self.view.fill(self._rows())
        self._look_at_given()
        self._show_help()

    def _show_help(self) -> None:
        row = self.focused_row
        put(self.query_one("#help", Static), row.help if row is not None else "")

    @property
    def focused_row(self) -> RowEditor | None:
        """The row that has the focus."""
        parent = self.focused.parent if self.focused else None
        return parent if isinstance(parent, RowEditor) else None

    def on_descendant_focus(self) -> None:
        row = self.focused_row
        if row is not None and isinstance(self.view, WholeForm):
            self.section = section_of(row.row.key)
            self.query_one(Stages).highlighted = SECTIONS.index(self.section)
        self._show_help()

    def on_resize(self) -> None:
        self.call_after_refresh(self.show)
        if type(self.view) is not self._kind_of(self.section):
            self.call_next(self.show_section, self.section, anew=True)

    # Going about

    async def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if isinstance(event.option_list, Stages) and event.option_id:
            await self.show_section(SECTIONS[event.option_index])

    async def go_to(self, key: str) -> None:
        """Open the section of a field and focus its editor."""
        section = section_of(key)
        self.remove_class("-side")
        self.query_one(Stages).highlighted = SECTIONS.index(section)
        await self.show_section(section)
        if section.name == "prompt":
            self.query_one(Prompts).area(key).focus()
            return
        if list_of(section) or any(editor.row.key == key for editor in self.view.editors()):
            self._focus_row(key)

    def _focus_row(self, key: str) -> None:
        """The row of a field, or the first of an item; where there is none such, the last item, or the stages."""
        editors = self.view.editors()
        switches = [each for each in editors if each.row.field.role == "switch"]
        item = key[: key.find("]") + 1] or f"{key}["
        found = [
            *(each for each in editors if each.row.key == key),
            *(each for each in editors if each.row.key.startswith(item)),
            *switches[-1:],
        ]
        if found:
            found[0].editor.focus()
        else:
            self.query_one(Stages).focus()

    async def action_section(self, by: int) -> None:
        """The stage before or after."""
        index = (SECTIONS.index(self.section) + by) % len(SECTIONS)
        self.query_one(Stages).highlighted = index

    def action_panel(self, name: str) -> None:
        """The panels beside the form; where there is no room for both, in its place."""
        self.add_class("-side")
        self.query_one(f"#{name}").focus()

    def action_back(self) -> None:
        """One level back: from a panel or a field to the stages."""
        self.remove_class("-side")
        self.query_one(Stages).focus()


def _kept(draft: Draft) -> KeptDraft | None:
    """A draft as it is kept; None for a preset as it is, whose name is enough."""
    if draft.preset:
        return KeptDraft(draft.preset, dict(draft.edits)) if draft.edits else None
    return KeptDraft("", dict(draft.edits), encode_spec(draft.base).decode())


def _base_of(name: str, kept: KeptDraft | None) -> RunSpec:
    """What was typed over: a preset, or settings that came without. Raises PresetError."""
    if kept is not None and not name:
        return decode_spec(kept.spec_json.encode())
    return loading.load_preset(name)


def _known_names() -> dict[str, tuple[str, ...]]:
    """By role what a field can be set to here. Raises ComponentError where two packages claim one name."""
    from engine.components.known_names import known_names

    return known_names()


def _look(_store: Store, index: Index, spec: RunSpec, name: str) -> Look:
    return look_at(spec, name, index)
