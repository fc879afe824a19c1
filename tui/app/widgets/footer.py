"""The keys of a screen, at its foot."""

from __future__ import annotations

from textual import widgets


class Footer(widgets.Footer):
    """Textual's own, without what it keeps of keys that are shown no more."""

    async def recompose(self) -> None:
        await super().recompose()
        # each key watches this, and the watch of one that was removed ends only when it is set
        self.mutate_reactive(Footer.compact)
