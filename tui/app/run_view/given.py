"""What a run began from: its pictures and its clip, small, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.containers import Horizontal

from tui.app.widgets.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.describe.runs.given import GivenTo


class GivenPictures(Horizontal):
    """Takes no room where there is nothing to show. It reads nothing itself."""

    DEFAULT_CSS = """
    GivenPictures { height: 8; width: 1fr; display: none; }
    GivenPictures > Picture { width: 1fr; max-width: 34; height: 1fr; max-height: 19; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: tuple[GivenTo, ...] = ()

    def show(self, given: Sequence[GivenTo]) -> None:
        """Draw those that have a picture."""
        shown = tuple(each for each in given if each.preview is not None)
        if shown == self._shown:
            return
        self._shown = shown
        self.query(Picture).remove()
        for each in shown:
            picture = Picture(fps=each.fps, graphics=getattr(self.app, "graphics", None))
            self.mount(picture)
            about = f": {each.file} {each.told}".rstrip() if len(shown) == 1 else ""
            picture.show(each.preview, f"{each.name}{about}")
        self.display = bool(shown)
