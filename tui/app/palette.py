"""The command palette: every action of every screen, every screen, every preset, the recent runs.

Names are `area: verb`. What does not apply to the present screen now is absent; what another screen does opens that
one, and asks for which run where none is chosen. Actions are there at once; presets and runs follow when the store has
answered, and where it does not, the palette goes without them.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from textual.actions import parse
from textual.binding import Binding
from textual.command import CommandList, CommandPalette, DiscoveryHit, Hit, Provider
from textual.content import Content
from textual.css.query import NoMatches
from textual.widgets import LoadingIndicator

from presets.library.listing import list_presets
from presets.library.loading import load_preset
from tui.app.asking import told
from tui.app.form_words import form_words
from tui.app.messages import Act, ComposeWith, ShowRun
from tui.app.top_line import TABS
from tui.describe.runs.changes import values_within
from tui.describe.runs.finding.filter import Search
from tui.describe.runs.run import found_rows
from tui.text import printable, shorten
from tui.units import age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from textual.command import Hits
    from textual.screen import Screen
    from textual.worker import Worker

    from tui.app.base import ModiffBase, ModiffScreen
    from tui.describe.runs.run import RunRow

RECENT_RUNS = 20
_DIFFERS_CELLS = 32
# Screens of which the actions are for the row under the cursor: from elsewhere they are opened, and no more.
_ROWS = ("queue",)
# After so long without an answer, presets or runs are left out.
WAIT_SECONDS = 2.0
# Within that, what is to be downloaded for each preset.
MARK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Command:
    """help: one line below the name."""

    name: str
    help: str
    run: Callable[[], Any]


class Palette(CommandPalette):
    """Textual's goes on gathering commands while it is being closed, and would end the app with what it then misses."""

    def run_worker(self, *args: Any, **kwargs: Any) -> Worker[Any]:
        return super().run_worker(*args, **{**kwargs, "exit_on_error": False})

    def _watch__show_busy(self) -> None:  # type: ignore[override]  # what it awaits nobody awaits of one that closes
        with suppress(NoMatches):
            self.query_one(LoadingIndicator).set_class(self._show_busy, "--visible")
            self.query_one(CommandList).set_class(self._show_busy, "--populating")

    def _watch__list_visible(self) -> None:
        with suppress(NoMatches):
            super()._watch__list_visible()


class Commands(Provider):
    """What Textual's palette asks for what it lists."""

    _found: asyncio.Task[list[Command]] | None = None

    @property
    def _modiff(self) -> ModiffBase:
        return cast("ModiffBase", self.app)

    async def startup(self) -> None:
        # a question asked once; the actions do not wait for its answer
        self._found = asyncio.create_task(found_commands(self._modiff))

    async def shutdown(self) -> None:
        if self._found is not None:
            self._found.cancel()

    async def discover(self) -> Hits:
        for command in actions(self._modiff, self.screen):
            yield _hit(command)
        for command in await self._answer():
            yield _hit(command)

    async def search(self, query: str) -> Hits:
        words = query.lower().split()
        for command in [*actions(self._modiff, self.screen), *await self._answer()]:
            if score := fit(words, command):
                name = _highlighted(command.name, words)
                yield Hit(score, name, command.run, help=_plain(command.help))

    async def _answer(self) -> list[Command]:
        return await asyncio.shield(self._found) if self._found is not None else []


def fit(words: Sequence[str], command: Command) -> float:
    """How well a command fits what was typed, 0 for not at all: every word must stand in it as it is. One in the name
    counts for more than one in the help, which for a run is its prompt; at the beginning of a word, for more still."""
    name, help_text = command.name.lower(), command.help.lower()
    total = 0.0
    for word in words:
        if word in name:
            total += 3.0 if f" {word}" in f" {name}" else 2.0
        elif word in help_text:
            total += 1.0
        else:
            return 0.0
    return total / len(words) if words else 0.0


def _highlighted(name: str, words: Sequence[str]) -> Content:
    content = Content(name)
    for word in words:
        start = name.lower().find(word)
        if start >= 0:
            content = content.stylize("bold underline", start, start + len(word))
    return content


def _hit(command: Command) -> DiscoveryHit:
    return DiscoveryHit(_plain(command.name), command.run, help=_plain(command.help))


def _plain(text: str) -> Any:
    """Text as it is: Textual takes a string for markup, and a help that is not one although it says so."""
    return Content(text)


def actions(app: ModiffBase, screen: Screen[Any]) -> Iterator[Command]:
    """In the order of nearness: the keys of the screen and its focused panel, the screens, engine and app."""
    told = set()
    active = sorted(screen.active_bindings.values(), key=lambda each: each.node is not screen)
    for node, binding, is_enabled, _ in active:
        if not is_enabled or not binding.description or node is app or binding.system:
            continue
        if binding.id is None or (binding.id.startswith("list.") and not binding.show):
            continue  # moving about, which nobody looks for by name
        area = type(screen).__name__.lower() if node is screen else "panel"
        name = f"{area}: {binding.description}"
        if name in told:
            continue
        told.add(name)
        key = f"key {app.get_key_display(binding)}"
        yield Command(
            name,
            f"{binding.tooltip} ({key})" if binding.tooltip else key,
            partial(_act, app, binding.action, node),
        )
    yield from _elsewhere(app, screen)
    for mode, (number, name, _) in TABS.items():
        yield Command(
            f"open: {name}", f"key {number}", partial(app.run_action, f"app.open('{mode}')")
        )
    if app.status is not None and app.status.engines:
        yield Command(
            "engine: Stop", "After its present step; the queue waits", lambda: app.stop_engine()
        )
        yield Command(
            "engine: Release", "Models that it does not use go", lambda: app.release_engines()
        )
        yield Command(
            "engine: End by force", "For one that hangs; asks first", lambda: app.force_engine()
        )
    else:
        yield Command(
            "engine: Start", "It goes on with the runs that wait", lambda: app.ensure_engine()
        )
    yield Command(
        "app: Help", "The keys of this screen (key ?)", partial(app.run_action, "app.help")
    )
    yield Command(
        "app: Copy the last error",
        "What it said, also when it is gone (key f8)",
        partial(app.run_action, "app.copy_error"),
    )
    yield Command(
        "app: Jump",
        "A letter on each panel and field (key f9)",
        partial(app.run_action, "app.jump"),
    )
    yield Command("app: Theme", "Change the colours", app.action_change_theme)
    yield Command(
        "app: Quit",
        "Asks where a run is at work (key ctrl+q)",
        partial(app.run_action, "app.leave"),
    )


def _elsewhere(app: ModiffBase, screen: Screen[Any]) -> Iterator[Command]:
    """What the other screens do, by the keys that they have."""
    for mode, (_, title, _) in TABS.items():
        kind: type[ModiffScreen] = getattr(import_module(f"tui.app.{mode}.screen"), title)
        if isinstance(screen, kind):
            continue
        for binding in _own_bindings(kind):
            name = parse(binding.action)[1]
            if binding.id is None or name in kind.NEAR_ONLY or binding.id.startswith("list."):
                continue
            key = f"key {app.get_key_display(binding)} on {title}"
            needs_run = name in kind.FOR_A_RUN
            act: Callable[[], Any] = partial(
                _act_there, app, mode, binding.action, needs_run=needs_run
            )
            if mode in _ROWS and not needs_run:  # it would be for a row that nobody has seen
                act = partial(app.run_action, f"app.open('{mode}')")
            yield Command(
                f"{mode}: {binding.description}",
                f"{binding.tooltip} ({key})" if binding.tooltip else key,
                act,
            )


def _own_bindings(kind: type[ModiffScreen]) -> Iterator[Binding]:
    """Those of a screen and of what it is made from, as far as that is ours; each action once."""
    told = set()
    for each in kind.__mro__:
        if each.__module__.startswith("tui."):
            for binding in Binding.make_bindings(vars(each).get("BINDINGS", [])):
                if binding.action not in told:
                    told.add(binding.action)
                    yield binding


def _act_there(app: ModiffBase, mode: str, action: str, *, needs_run: bool) -> None:
    async def act() -> None:
        run_id = getattr(app.screen, "chosen_run", "") if needs_run else ""
        if needs_run and not run_id:
            run_id = await _picked_run(app)
            if not run_id:
                return
        app.post_message(Act(mode, action, run_id))

    app.run_worker(told(app, act()), exclusive=False, group="palette")


async def _picked_run(app: ModiffBase) -> str:
    """The run that is picked of the recent ones, "" for none."""
    from tui.app.dialogs.picker import Item, Picker

    with app.opening():
        rows = await app.lab.read(found_rows, Search(), RECENT_RUNS)
    if not rows:
        app.notify("there are no runs yet")
        return ""
    items = [Item(row.record.id, about_run(row, time.time_ns())) for row in rows]
    return await app.push_screen_wait(Picker("which run?", items)) or ""


def about_run(row: RunRow, now_ns: int) -> str:
    """How a run stands and how old it is, what tells it from the others, and its prompt."""
    since = age(now_ns - row.record.created_ns)
    told = [
        row.record.status,
        "just now" if since == "now" else f"{since} ago",
        printable(row.record.preset),
    ]
    if row.differs:
        told.append(values_within(row.differs, _DIFFERS_CELLS))
    return f"{', '.join(filter(None, told))}: {shorten(printable(row.prompt), 60)}"


def _act(app: ModiffBase, action: str, node: Any) -> None:
    app.run_worker(app.run_action(action, node), exclusive=False, group="palette")


async def found_commands(app: ModiffBase) -> list[Command]:
    """Presets that can be used, then the newest runs."""
    groups = await asyncio.gather(
        asyncio.wait_for(_presets(app), WAIT_SECONDS),
        asyncio.wait_for(_runs(app), WAIT_SECONDS),
        return_exceptions=True,  # what is wrong with the store is told elsewhere
    )
    return [command for group in groups if isinstance(group, list) for command in group]


async def _presets(app: ModiffBase) -> list[Command]:
    from tui.describe.models.missing import by_preset

    presets = await asyncio.to_thread(list_presets)
    lacks: dict[str, str] = {}
    with suppress(Exception):  # the presets themselves are worth more; Compose tells what is wrong
        lacks = await asyncio.wait_for(asyncio.to_thread(by_preset), MARK_SECONDS)
    return [
        Command(
            f"compose: use preset {preset.name}",
            _marked(form_words(printable(preset.description)), lacks.get(preset.name, "")),
            partial(_use_preset, app, preset.name),
        )
        for preset in presets
        if not preset.error
    ]


def _marked(description: str, lack: str) -> str:
    return f"{description} ✖ {lack}" if lack else description


def _use_preset(app: ModiffBase, name: str) -> None:
    async def use() -> None:
        app.post_message(ComposeWith(await asyncio.to_thread(load_preset, name), name))

    app.run_worker(told(app, use()), exclusive=False, group="palette")


async def _runs(app: ModiffBase) -> list[Command]:
    return [
        Command(
            f"runs: open {row.record.id}",
            about_run(row, time.time_ns()),
            partial(app.post_message, ShowRun(row.record.id)),
        )
        for row in await app.lab.read(found_rows, Search(), RECENT_RUNS)
    ]
