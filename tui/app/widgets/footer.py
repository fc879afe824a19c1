"""The keys of a screen, at its foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import widgets
from textual.css.query import NoMatches
from textual.widgets._footer import FooterKey

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import Binding


class Footer(widgets.Footer):
    """Textual's own, made anew only where other keys are to be shown, and keeping nothing of those that are gone."""

    def __init__(self, **options: bool) -> None:
        """options: those of Textual's footer."""
        super().__init__(**options)
        self._told: list[tuple[Binding, bool, str]] | None = None

    def compose(self) -> ComposeResult:
        for child in super().compose():
            if isinstance(child, FooterKey) and child._reactive_connect:
                # bound to this footer, a key that is shown no more would be kept by it
                child._reactive_connect = None
                child.set_reactive(FooterKey.compact, self.compact)
            yield child

    async def recompose(self) -> None:
        """Asked for at each change of the focus, which mostly changes no key."""
        if not self.app.is_running or not self.is_attached or self._pruning:
            return
        try:
            told = [each[1:] for each in self.screen.active_bindings.values()]
        except NoMatches:  # the screen is not all there yet, or no more
            self.call_after_refresh(self.recompose)
            return
        if told != self._told:
            self._told = told
            await super().recompose()
