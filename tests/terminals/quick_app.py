"""What makes a test of the app cheap without changing what it shows: style sheets are read once for all apps of a
process, screens are painted when they come to rest instead of at every moment in between, and the garbage collector
does not look through all that was imported.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from textual._compositor import Compositor
from textual.css.model import RuleSet
from textual.css.stylesheet import Stylesheet
from textual.pilot import Pilot

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

# Objects made since the last look, before the collector looks again; an app makes a few ten thousand.
_THRESHOLD = 50_000
_rules: dict[object, list[RuleSet]] = {}


def spare_the_collector() -> None:
    """What is imported by now stays, and need not be looked through again for each app."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 20)


def share_style_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app has read with the same variables of its theme, the next one has too."""
    parse = Stylesheet._parse_rules
    variables: tuple[object, frozenset[Any]] = None, frozenset()

    def parse_once(sheet: Stylesheet, *source: Any, **more: Any) -> list[RuleSet]:
        nonlocal variables
        if variables[0] is not sheet._variables:
            variables = sheet._variables, frozenset(sheet._variables.items())
        key = source, *more.values(), variables[1]
        if key not in _rules:
            _rules[key] = parse(sheet, *source, **more)
        return _rules[key]

    monkeypatch.setattr(Stylesheet, "_parse_rules", parse_once)
    monkeypatch.setattr(RuleSet, "__hash__", object.__hash__)  # Textual's says the same in Python


def paint_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen is painted, all that has changed of it, when a test pauses or has pressed its keys."""
    paint = Compositor.render_update

    def put_off(compositor: Compositor, full: bool = False, **more: Any) -> object:
        # full: of a screenshot
        return paint(compositor, full=True, **more) if full else None

    def with_painting(act: Callable[..., Any]) -> Callable[..., Any]:
        async def act_and_paint(pilot: Pilot[Any], *arguments: Any, **more: Any) -> Any:
            done = await act(pilot, *arguments, **more)
            if pilot.app.is_running and pilot.app.screen_stack:
                below = pilot.app._background_screens
                paint(pilot.app.screen._compositor, screen_stack=below)
            return done

        return act_and_paint

    monkeypatch.setattr(Compositor, "render_update", put_off)
    for name in ("pause", "press"):
        monkeypatch.setattr(Pilot, name, with_painting(getattr(Pilot, name)))
