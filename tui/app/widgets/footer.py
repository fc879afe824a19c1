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

    # the keys that are shown, None before the first
    _told: list[tuple[Binding, bool, str]] | None = None

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
            active = self.screen.active_bindings
        except NoMatches:  # the screen is not all there yet, or no more
            self.call_after_refresh(self.recompose)
            return
        palette = self.app.COMMAND_PALETTE_BINDING
        told = [each[1:] for key, each in active.items() if each.binding.show or key == palette]
        if told != self._told:
            self._told = told
            await super().recompose()
