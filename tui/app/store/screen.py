"""The store: what takes space by run, kind and age; keeping, cleaning up and checking it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import Static, Tab, Tabs

from tui.app.asking import Again, asks
from tui.app.base import ModiffScreen
from tui.app.desktop import PathSuggester, absent, absolute
from tui.app.messages import ShowRun
from tui.app.store import text as store_text
from tui.app.store.text import VIEWS
from tui.app.store.usage import Usage
from tui.app.top_line import TopLine
from tui.app.widgets.empty import Empty
from tui.app.widgets.footer import Footer
from tui.app.widgets.listing import Listing
from tui.describe.bundles import NO_TRUST, TRUST, imported_lines
from tui.describe.space import plan_lines, planned_removal, remove_by, verdict_lines
from tui.describe.space import space as space_of
from tui.text import counted, printable

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from store.upkeep.removal import Plan, Policy
    from store.upkeep.space import RunShare
    from tui.app.store.clean_up import Planned
    from tui.app.store.text import View
    from tui.describe.health import Status
    from tui.describe.space import Space

PROGRESS_SECONDS = 0.2
_TABS = {"run": "by run", "kind": "by kind", "age": "by age"}


class _Stopped(Exception):
    """The reading of everything was stopped by whoever asked for it."""


class Store(ModiffScreen):
    """What takes space, by run, kind and age, and what gives it back."""

    CSS_PATH = "store.tcss"
    NEAR_ONLY = frozenset({"pin", "open_run"})
    HELP = (
        "What takes space in the store, and what it would cost to compute again. Nothing is ever removed by itself: "
        "a clean-up is planned, read and agreed to. What pinned and unfinished runs need is never removed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "view(1)", "Next view", id="store.view", tooltip="By run, by kind, by age"),
        Binding("p", "pin", "Pin", id="store.pin", tooltip="Keep this run from every clean-up, or no longer"),
        Binding("c", "plan", "Plan clean-up", id="store.plan", tooltip="Say what a clean-up would remove"),
        Binding("C", "apply", "Clean up", id="store.apply", tooltip="Carry out the last plan; asks first"),
        Binding("V", "verify", "Verify", id="store.verify", tooltip="Read everything again; V again stops"),
        Binding("o", "open_run", "Open run", id="store.open", show=False, tooltip="Show this run; also enter"),
        Binding("i", "import_bundle", "Import", id="store.import", tooltip="Bring in the runs of a bundle"),
        Binding("r", "look", "Look again", id="store.look", show=False),
    ]  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self._space: Space | None = None
        self._view: View = "run"
        self._seen: object = None
        self._policy: Policy | None = None
        # (bytes done, all bytes) while everything is read again; set by the thread that reads
        self._progress: tuple[int, int] | None = None
        self._is_stopping = False
        self._look = Again(self, self._ask, self._show_problem)

    def compose(self) -> ComposeResult:
        yield TopLine("store")
        yield Usage(id="usage")
        yield Static("", id="problem", markup=False)
        yield Tabs(*(Tab(_TABS[view], id=view) for view in VIEWS), id="views")
        yield Empty(store_text.EMPTY, id="nothing")
        listing = Listing(store_text.COLUMNS["run"], id="shares")
        listing.add_class("panel")
        yield listing
        with VerticalScroll(id="report", classes="panel") as report:
            report.border_title = "about"
            yield Static(store_text.HINT, id="lines", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self.app.status_signal.subscribe(self, self._take)
        self.query_one("#nothing").display = False
        self.query_one("#problem").display = False
        self.query_one(Listing).focus()
        self._look()

    def on_unmount(self) -> None:
        self._is_stopping = True  # else the thread reads on, and Python waits for it

    def on_screen_resume(self) -> None:
        self._look()

    # Looking

    def _take(self, status: Status | None) -> None:
        """Look again when a run has come or ended: what takes space changes with that."""
        if status is None or self not in self.app.screen_stack:
            return
        gist = (status.newest_run, [run.id for run in status.running], status.num_queued)
        if gist != self._seen:
            self._seen = gist
            self._look()

    def action_look(self) -> None:
        self._look()

    async def _ask(self) -> None:
        space = await self.app.lab.work(space_of)
        self._space = space
        self.query_one("#problem").display = False
        self.query_one(Usage).show(space.overview)
        self._show()

    def _show_problem(self, error: Exception) -> None:
        problem = self.query_one("#problem", Static)
        problem.update(f"✖ {self.app.line_for(error)}")
        problem.display = True

    def _show(self) -> None:
        if self._space is None:
            return
        listing = self.query_one(Listing)
        rows = store_text.table(self._space, self._view)
        listing.show(rows, columns=store_text.COLUMNS[self._view])
        listing.border_title = counted(len(rows), "run") if self._view == "run" else ""
        listing.display = bool(rows)
        if rows and self.focused is None:
            listing.focus()  # a list that was hidden has lost it
        self.query_one("#nothing").display = not rows
        self.refresh_bindings()

    def on_tabs_tab_activated(self, event: Tabs.TabActivated) -> None:
        for view in VIEWS:
            if view == event.tab.id != self._view:
                self._view = view
                self._show()
                return

    def action_view(self, by: int) -> None:
        """The next view."""
        view = VIEWS[(VIEWS.index(self._view) + by) % len(VIEWS)]
        self.query_one(Tabs).active = view

    def on_data_table_row_highlighted(self) -> None:
        self.refresh_bindings()

    @property
    def _current(self) -> RunShare | None:
        """The run under the cursor, None in the other views."""
        if self._space is None or self._view != "run":
            return None
        key = self.query_one(Listing).current
        return next((share for share in self._space.by_run if share.run.id == key), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("pin", "open_run"):
            return self.is_mounted and self._current is not None
        if action == "apply":
            return self._policy is not None
        return True

    def _report(self, title: str, lines: list[str]) -> None:
        self.query_one("#report").border_title = title
        self.query_one("#lines", Static).update("\n".join(lines))

    # Runs

    def on_data_table_row_selected(self) -> None:
        self.action_open_run()

    def action_open_run(self) -> None:
        if (share := self._current) is not None:
            self.post_message(ShowRun(share.run.id))

    @asks(group="change")
    async def action_pin(self) -> None:
        """Keep the run under the cursor, or no longer."""
        share = self._current
        if share is None:
            return
        try:
            pinned = share.run.is_pinned
            await self.app.lab.change(
                lambda store: (store.unpin if pinned else store.pin)(share.run.id)
            )
        finally:
            self._look()

    # Bringing in

    @asks(group="import")
    async def action_import_bundle(self) -> None:
        """Ask for a bundle and whether what is in it is to be trusted, and bring its runs in."""
        from tui.app.dialogs.ask import Ask, Choose

        line = await self.app.push_screen_wait(
            Ask(
                "import a bundle",
                "The file that `modiff store export`, or X in Runs, wrote.",
                placeholder="~/fox.modiff",
                check=absent,
                suggester=PathSuggester({".modiff"}),
            )
        )
        if not line or not line.strip():
            return
        path = absolute(line)
        trust = await self.app.push_screen_wait(
            Choose("trust it?", (TRUST, NO_TRUST), ("Import", "Import and trust"))
        )
        if trust is None:
            return
        options = ["--trust"] if trust == 1 else []
        name = printable(os.path.basename(path))
        try:
            with self.app.job(f"importing {name}"):
                done = await self.app.lab.command("store", "import", path, *options)
        except Exception as error:
            self._report(f"{name} is not imported", [f"✖ {self.app.line_for(error)}"])
            raise
        self._report(f"{name} is imported", imported_lines(done, is_trusted=trust == 1))
        self._look()

    # Cleaning up

    @asks(group="clean")
    async def action_plan(self) -> None:
        """Plan a clean-up; carry it out where that was asked for and agreed to."""
        from tui.app.store.clean_up import CleanUp

        space = self._space
        if space is None:
            with self.app.opening():
                space = await self.app.lab.work(space_of)
        planned: Planned | None = await self.app.push_screen_wait(
            CleanUp(space.overview.budget_bytes)
        )
        if planned is None:
            return
        self._policy = planned.policy
        self.refresh_bindings()
        self._report("planned, nothing is removed yet", _lines(planned.plan, planned.policy))
        if planned.is_wanted:
            await self._clean(planned.policy, planned.plan)

    @asks(group="clean")
    async def action_apply(self) -> None:
        """Carry out the last plan, looked at again."""
        policy = self._policy
        if policy is None:
            return
        with self.app.opening():
            plan = await self.app.lab.work(planned_removal, policy)
        if not plan.is_empty:
            await self._clean(policy, plan)
        else:
            self._report("clean-up", _lines(plan, policy))

    async def _clean(self, policy: Policy, plan: Plan) -> None:
        from tui.app.dialogs.ask import Confirm

        lines = [*_lines(plan, policy), "", "This cannot be undone."]
        if not await self.app.push_screen_wait(Confirm("clean up", lines, "Remove")):
            return
        try:
            removed = await self.app.lab.work.cleaning(remove_by, policy)
        except Exception as error:
            self._report("not cleaned up", [f"✖ {self.app.line_for(error)}"])
            raise
        self._policy = None
        self._report("cleaned up", plan_lines(removed, policy.budget_bytes, dry_run=False))
        self._look()

    # Checking

    def action_verify(self) -> None:
        """Read everything again, or stop doing so."""
        if self._progress is None:
            self._progress, self._is_stopping = (0, 0), False
            self._verify()
        else:
            self._is_stopping = True

    @asks(group="verify")
    async def _verify(self) -> None:
        from store.upkeep.verify import verify

        timer = self.set_interval(PROGRESS_SECONDS, self._show_progress)
        self._show_progress()
        started = time.monotonic()
        try:
            with self.app.job("verifying the store"):
                verdict = await self.app.lab.check(
                    lambda store: verify(store.lineage, on_progress=self._note_progress)
                )
        except _Stopped:
            self._report("stopped", ["Not everything was read; nothing is known to be wrong."])
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            self._report("not verified", [f"✖ {self.app.line_for(error)}"])
        else:
            mark = "✖" if verdict.problems else "✓"
            took = f"read in {max(0.0, time.monotonic() - started):.1f} s"
            lines = verdict_lines(verdict)
            self._report(f"verified, {took}", [f"{mark} {lines[-1]}", *lines[:-1]])
            self._look()
        finally:
            timer.stop()
            self._progress = None

    def _note_progress(self, done: int, total: int) -> None:
        """Called by the thread that reads."""
        if self._is_stopping:
            raise _Stopped
        self._progress = (done, total)

    def _show_progress(self) -> None:
        if self._progress is not None:
            self._report("verifying", [store_text.progress(*self._progress)])


def _lines(plan: Plan, policy: Policy) -> list[str]:
    """What a clean-up would remove."""
    return plan_lines(plan, policy.budget_bytes, dry_run=True)
