"""Components and health: what runs can name, the models on this machine, the engines, and what works here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static, Tab, Tabs

from tui.app.asking import Again, asks
from tui.app.components import text
from tui.app.components.engine_keys import EngineKeys
from tui.app.desktop import absolute
from tui.app.top_line import TopLine
from tui.app.widgets.footer import Footer
from tui.app.widgets.hanging import Hanging
from tui.app.widgets.listing import Listing
from tui.describe.health import components
from tui.describe.hosts import about as host_lines
from tui.describe.hosts import check_lines
from tui.describe.models.files import found_at
from tui.describe.models.fingerprints import known_of
from tui.describe.models.fingerprints import lines as known_lines
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.widgets import DataTable

    from engine.checkpoints.library import Found
    from engine.remote.asking import Asked
    from tui.describe.health import ComponentRow, Status

# What is under the cursor is told once the cursor has stayed for so long.
REST_SECONDS = 0.15
PANELS = {
    "parts": "components",
    "models": "models",
    "hosts": "hosts",
    "engines": "engines",
    "detail": "detail",
}
# Hosts are asked again while the screen is looked at.
HOSTS_SECONDS = 5.0
_PANELS = Binding.Group("Panel", compact=True)


class Components(EngineKeys):
    """What runs can name, the models on this machine, the engines, and what works here."""

    CSS_PATH = "components.tcss"
    NEAR_ONLY = frozenset({"read", "panel"})
    HELP = (
        "Components that a run can name, the models on this machine, hosts that serve components, the engine that "
        "executes runs, and what works here. Models are looked at, never copied or changed, and never read as a whole."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "doctor", "Doctor", id="health.doctor", tooltip="Try what works here, in a process of its own"),
        Binding("i", "inspect", "Inspect", id="health.inspect", tooltip="Say what a weight file or folder is"),
        Binding("t", "test", "Test host", id="health.test", tooltip="Ask a host for all that it is to do"),
        Binding("o", "read", "Open", id="health.open", show=False, tooltip="The detail over the screen; also enter"),
        Binding("r", "look", "Look again", id="health.look", show=False, tooltip="Look for all of it again"),
        Binding("left_square_bracket", "panel(-1)", "Panel before", id="panel.prev", group=_PANELS, key_display="["),
        Binding("right_square_bracket", "panel(1)", "Next panel", id="panel.next", group=_PANELS, key_display="]"),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[ComponentRow] = []
        self._found: list[Found] = []
        self._hosts: list[Asked] = []
        self._report: Mapping[str, Any] = {"ok": True, "sections": []}
        self._detail: tuple[str, list[str]] = ("detail", [])
        self._told_of = ""
        self._look_at_parts = Again(self, self._ask_parts, self._show_problem)
        self._look_at_models = Again(self, self._ask_models, self._show_problem)
        self._look_at_hosts = Again(self, self._ask_hosts, self._show_problem)
        self._tell = Again(self, self._tell_of_current, self._show_problem)

    def compose(self) -> ComposeResult:
        yield TopLine("components")
        yield Tabs(*(Tab(name, id=panel) for panel, name in PANELS.items()), id="panels")
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield self._listing("parts", Listing(text.PARTS, id="parts"))
                yield self._listing("models", Listing(text.MODELS, id="models"))
                yield self._listing("hosts", Listing(text.HOSTS, id="hosts"))
            with Vertical(id="right"):
                with VerticalScroll(id="engines", classes="panel") as engines:
                    engines.border_title = "engines"
                    yield Static("…", id="engine_lines", markup=False)
                with VerticalScroll(id="detail", classes="panel"):
                    yield Static("", id="lines", markup=False)
        yield Footer()

    def _listing(self, panel: str, listing: Listing) -> Listing:
        listing.add_class("panel")
        listing.border_title = PANELS[panel]
        return listing

    def on_mount(self) -> None:
        self.app.status_signal.subscribe(self, self._take)
        self._show_panel("parts")
        self.query_one("#models").border_subtitle = "looking …"
        self._take(self.app.status)
        self.query_one("#parts").focus()
        self.action_look()
        self.set_interval(HOSTS_SECONDS, self._look_again_at_hosts)

    # Looking

    def _take(self, status: Status | None) -> None:
        was_alive = self.is_engine_alive
        self.status = status
        shown = self.query_one("#engine_lines", Static)
        lines = Hanging(tuple(text.engines(status)))
        if shown.content != lines:
            shown.update(lines)
        if was_alive != self.is_engine_alive:
            self.refresh_bindings()

    def action_look(self) -> None:
        self._look_at_parts()
        self._look_at_models()
        self._look_at_hosts()

    def _look_again_at_hosts(self) -> None:
        if self.is_current and self._hosts:
            self._look_at_hosts()

    async def _ask_hosts(self) -> None:
        self._hosts = await asyncio.to_thread(_asked)
        listing = self.query_one("#hosts", Listing)
        listing.show(text.hosts(self._hosts))
        listing.border_subtitle = "" if self._hosts else "modiff hosts add NAME URL"
        if self._detail[0] in [each.host.name for each in self._hosts]:  # what was found out stays
            self._retell()

    async def _ask_parts(self) -> None:
        self._parts = await self.app.lab.work(lambda _: components())
        await self._show_parts()

    async def _show_parts(self) -> None:
        attention = {row["name"]: row for row in text.findings(self._report, "attention")}
        rows = await asyncio.to_thread(text.parts, self._parts, attention)
        self.query_one("#parts", Listing).show(rows)
        self._retell()

    async def _ask_models(self) -> None:
        from engine.checkpoints.library import scan_places

        found = await self.app.lab.work(lambda _: scan_places())
        # once, also where a place of models holds the built-in ones
        self._found = list({each.path: each for each in [*await self._built_in(), *found]}.values())
        listing = self.query_one("#models", Listing)
        listing.show(text.models(self._found))
        listing.border_subtitle = text.models_note(self._found)
        self._retell()

    async def _built_in(self) -> list[Found]:
        """The files of the model that comes with modiff."""
        from engine.checkpoints.locate import BUILTIN_MICRO, locate

        paths = [locate(kind, BUILTIN_MICRO) for kind in ("text_encoder", "denoiser", "vae")]
        return [found for path in paths for found in await self._at(path)]

    async def _at(self, path: Path) -> list[Found]:
        return await self.app.lab.work(lambda _: found_at(path))

    async def _known_lines(self, found: Found) -> list[str]:
        """What is remembered of a model's files; a large one is not read."""
        recognition = found.recognition
        if recognition is None:
            return []
        return known_lines(
            await self.app.lab.work.indexed(
                lambda _, index: known_of(index, found.files, recognition.file_bytes)
            )
        )

    def _show_problem(self, error: Exception) -> None:
        self._show_detail("cannot be told", [f"✖ {self.app.line_for(error)}"])

    # The detail

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        if event.data_table.has_focus:
            self.set_timer(REST_SECONDS, self._tell)

    def on_descendant_focus(self) -> None:
        self.set_timer(REST_SECONDS, self._tell)

    def _retell(self) -> None:
        self._told_of = ""
        self._tell()

    async def _tell_of_current(self) -> None:
        """What is under the cursor of the list that has the focus; the rest keeps what is told."""
        focused = self.focused
        if not isinstance(focused, Listing) or self._told_of == f"{focused.id} {focused.current}":
            return
        self._told_of = f"{focused.id} {focused.current}"
        if focused.id == "parts":
            for row in self._parts:
                if f"{row.kind}.{row.name}" == focused.current:
                    self._show_detail(
                        f"{text.KINDS.get(row.kind, row.kind)} {row.name}", self._about(row)
                    )
            return
        if focused.id == "hosts":
            for asked in self._hosts:
                if asked.host.name == focused.current:
                    self._show_detail(asked.host.name, host_lines(asked))
            return
        for found in self._found:
            if focused.current.removeprefix("broken ") == str(found.path):
                title, lines = found.path.name, text.about_model(found)
                self._show_detail(title, lines)
                self._show_detail(title, [*lines, *await self._known_lines(found)])
                return

    def _about(self, row: ComponentRow) -> list[str]:
        attention = {each["name"]: each for each in text.findings(self._report, "attention")}
        return text.about_part(row, attention, text.findings(self._report, "devices"))

    def _show_detail(self, title: str, lines: Sequence[str]) -> None:
        self._detail = (title, list(lines))
        self.query_one("#detail").border_title = Content(printable(title))
        self.query_one("#lines", Static).update(Hanging(tuple(lines)))

    def on_data_table_row_selected(self) -> None:
        self.action_read()

    @asks(group="read")
    async def action_read(self) -> None:
        """The detail over the whole screen."""
        try:
            with self.app.opening():
                await self._tell_of_current()
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self._show_problem(error)
        from tui.app.dialogs.reader import Reader

        self.app.push_screen(Reader(*self._detail))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "panel":
            return self.has_class("-narrow")
        return super().check_action(action, parameters)

    # Panels, of which a narrow screen shows one

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        if event.tab.id:
            self._show_panel(event.tab.id)

    def action_panel(self, by: int) -> None:
        names = list(PANELS)
        tabs = self.query_one(Tabs)
        tabs.active = names[(names.index(tabs.active or "parts") + by) % len(names)]
        self.query_one(f"#{tabs.active}").focus()

    def _show_panel(self, shown: str) -> None:
        for panel in PANELS:
            self.query_one(f"#{panel}").set_class(panel == shown, "-shown")
        self.query_one("#left").set_class(shown in ("parts", "models", "hosts"), "-shown")
        self.query_one("#right").set_class(shown in ("engines", "detail"), "-shown")

    # Trying and inspecting

    @asks(exclusive=True, group="doctor")
    async def action_doctor(self) -> None:
        """Try what works here: some seconds, most of them the import of torch."""
        self._show_detail("doctor", ["… trying everything for real; this takes some seconds"])
        if self.has_class("-narrow"):
            self.query_one(Tabs).active = "detail"
            self.query_one("#detail").focus()
        try:
            with self.app.job("doctor"):
                self._report = await self.app.lab.command("doctor")
            lines = text.doctor(self._report)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self._show_problem(error)
            return
        self.query_one("#parts", Listing).show(
            text.parts(
                self._parts, {row["name"]: row for row in text.findings(self._report, "attention")}
            )
        )
        self._show_detail("doctor", lines)

    @asks(exclusive=True, group="test")
    async def action_test(self) -> None:
        """Ask the chosen host for all that it is to do, and say what is wrong: of a large model that takes a while."""
        name = self.query_one("#hosts", Listing).current
        found = next((each for each in self._hosts if each.host.name == name), None)
        if found is None:
            self.notify("no host is known; `modiff hosts add NAME URL` makes one known")
            return
        title = f"test of {name}"
        self._show_detail(title, [f"… asking {printable(found.host.url)} for all that it is to do"])
        if self.has_class("-narrow"):
            self.query_one(Tabs).active = "detail"
        try:
            with self.app.job(title):
                told = await self.app.lab.command("serve", "--check", found.host.url)
        except Exception as error:  # noqa: BLE001  # told where its result would be
            self._show_problem(error)
            return
        self._show_detail(title, check_lines(told))

    @asks(exclusive=True, group="inspect")
    async def action_inspect(self) -> None:
        """Ask for a path, and say what lies there."""
        from tui.app.dialogs.ask import Ask
        from tui.app.dialogs.reader import Reader

        line = await self.app.push_screen_wait(
            Ask(
                "inspect",
                "A weight file, the index of a sharded one, or a folder.",
                placeholder="~/models",
            )
        )
        if not line or not line.strip():
            return
        path = Path(absolute(line))
        found = await self._at(path)
        lines = [] if found else [f"{path}: holds no weight file (safetensors, .pth or GGUF)"]
        for each in found:
            lines += [*([""] if lines else []), *text.about_model(each)]
            lines += await self._known_lines(each)
        self._show_detail(f"inspect {path.name}", lines)
        self.app.push_screen(Reader(f"inspect {path.name}", lines))


def _asked() -> list[Asked]:
    from engine.remote.hosts import known_hosts

    hosts = known_hosts()
    if not hosts:
        return []
    from engine.remote.asking import ask  # the network's libraries come with it

    return ask(hosts)
