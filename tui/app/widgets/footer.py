"""The keys of a screen, at its foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import widgets
from textual.css.query import NoMatches
from textual.widgets._footer import FooterKey, FooterLabel, KeyGroup

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import Binding
    from textual.widget import Widget

# Of the app: how to leave, and where all other keys are told. They stay where there is no room for all.
_KEPT = ("leave", "help")


class Footer(widgets.Footer):
    """Textual's own, made anew only where other keys are to be shown, and keeping nothing of those that are gone.
    Where there is no room for all, the last ones of the screen are left out whole."""

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
            self._fit()

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        """Show as many keys as have room; a group and its name are one."""
        shown = [*self.children]
        room = self.size.width - sum(map(_cells, shown))
        left_out: set[Widget] = set()
        for child in reversed(shown):
            if room >= 0:
                break
            if isinstance(child, FooterKey) and (
                child.action in _KEPT or child.has_class("-command-palette")
            ):
                continue
            left_out.add(child)
            room += _cells(child)
        if any(isinstance(child, KeyGroup) for child in left_out):
            left_out |= {child for child in shown if isinstance(child, FooterLabel)}
        elif any(isinstance(child, FooterLabel) for child in left_out):
            left_out |= {child for child in shown if isinstance(child, KeyGroup)}
        for child in shown:
            child.display = child not in left_out


def _cells(child: Widget) -> int:
    """What something at the foot takes, with what is around it."""
    if isinstance(child, KeyGroup):
        keys = [key for key in child.children if isinstance(key, FooterKey)]
        return 2 + sum(cell_len(key.key_display) for key in keys)
    if isinstance(child, FooterKey):
        # the palette has a line before it
        return (
            cell_len(child.key_display)
            + cell_len(child.description)
            + 3
            + child.has_class("-command-palette")
        )
    return cell_len(str(child.render())) + 1
