"""The command palette: every action that applies now, every screen, every preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand

from tui.frame import TABS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.screen import Screen

    from tui.app import ModiffApp


def commands(app: ModiffApp, screen: Screen[Any]) -> Iterator[SystemCommand]:
    """In the order of nearness: the keys of the screen and its focused widget, the screens, the app."""
    told = set()
    for node, binding, is_enabled, _ in screen.active_bindings.values():
        if not is_enabled or not binding.description or node is app or binding.system:
            continue
        title = f"{type(screen).__name__.lower()}: {binding.description}"
        if title not in told:
            told.add(title)
            yield SystemCommand(
                title,
                binding.tooltip or f"key {app.get_key_display(binding)}",
                lambda node=node, action=binding.action: app.run_worker(
                    app.run_action(action, node), exclusive=False
                ),
            )
    for mode, (number, name, _) in TABS.items():
        yield SystemCommand(
            f"open: {name}", f"key {number}", lambda mode=mode: app.action_open(mode)
        )
    yield SystemCommand("app: Theme", "Change the colours", app.action_change_theme)
    yield SystemCommand("app: Help", "The keys of this screen", app.action_help)
    yield SystemCommand(
        "engine: Start", "Start the engine if none lives", lambda: app.ensure_engine()
    )
    yield SystemCommand(
        "engine: Stop", "After the present step; the queue waits", lambda: app.stop_engine()
    )
    yield SystemCommand("app: Quit", "Asks where a run is at work", app.action_leave)
