"""The command palette: every action that applies now, every screen, every preset, the recent runs.

Names are `area: verb`. What does not apply now is absent. Actions are there at once; presets and runs follow when the
store has answered, and where it does not, the palette goes without them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.command import DiscoveryHit, Hit, Provider
from textual.content import Content

from tui.app.messages import ComposeWith, ShowRun
from tui.app.top_line import TABS
from tui.describe.run_filter import Search
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from textual.command import Hits
    from textual.screen import Screen

    from tui.app.base import ModiffBase

RECENT_RUNS = 20
# After so long without an answer, presets or runs are left out.
WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Command:
    """help: one line below the name."""

    name: str
    help: str
    run: Callable[[], Any]


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
        matcher = self.matcher(query)
        for command in [*actions(self._modiff, self.screen), *await self._answer()]:
            # the help of a run is its prompt, by which it may be looked for
            score = matcher.match(command.name) or 0.5 * matcher.match(command.help)
            if score > 0:
                yield Hit(
                    score, matcher.highlight(command.name), command.run, help=_plain(command.help)
                )

    async def _answer(self) -> list[Command]:
        return await asyncio.shield(self._found) if self._found is not None else []


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
        if binding.id is None or binding.id.startswith("list."):
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
    for mode, (number, name, _) in TABS.items():
        yield Command(
            f"open: {name}", f"key {number}", partial(app.run_action, f"app.open('{mode}')")
        )
    if app.status is not None and app.status.engines:
        yield Command(
            "engine: Stop", "After its present step; the queue waits", lambda: app.stop_engine()
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
    yield Command("app: Theme", "Change the colours", app.action_change_theme)
    yield Command(
        "app: Quit",
        "Asks where a run is at work (key ctrl+q)",
        partial(app.run_action, "app.leave"),
    )


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
    return [
        Command(
            f"compose: use preset {preset.name}",
            printable(preset.description),
            partial(_use_preset, app, preset.name),
        )
        for preset in await app.lab.presets()
        if not preset.error
    ]


def _use_preset(app: ModiffBase, name: str) -> None:
    async def use() -> None:
        from presets.library import load_preset

        try:
            spec = await asyncio.to_thread(load_preset, name)
        except Exception as error:  # noqa: BLE001  # told, whatever it is
            app.tell_error(error)
        else:
            app.post_message(ComposeWith(spec, name))

    app.run_worker(use(), exclusive=False, group="palette")


async def _runs(app: ModiffBase) -> list[Command]:
    return [
        Command(
            f"runs: open {row.record.id}",
            f"{row.record.status}, {printable(row.record.preset)}: {shorten(printable(row.prompt), 60)}",
            partial(app.post_message, ShowRun(row.record.id)),
        )
        for row in await app.lab.runs(Search(), RECENT_RUNS)
    ]
