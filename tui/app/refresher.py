"""One question at a time: asked while it is being answered, it is asked once more after that, however often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.screen import Screen


class Again:
    """Call it whenever the answer may have changed. A slow store thus never has more than one question of a kind
    to answer, and what is shown in the end is not older than the last call."""

    def __init__(
        self,
        screen: Screen[Any],
        ask: Callable[[], Awaitable[None]],
        on_error: Callable[[Exception], None],
    ) -> None:
        """ask: asks and shows. on_error: shows what kept it from that; the next call tries again."""
        self._screen, self._ask, self._on_error = screen, ask, on_error
        self._is_asking = self._is_wanted = False

    def __call__(self) -> None:
        self._is_wanted = True
        if not self._is_asking and self._screen.is_attached:
            self._is_asking = True
            self._screen.run_worker(self._run(), group="again", exit_on_error=False)

    async def _run(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                try:
                    await self._ask()
                except Exception as error:  # noqa: BLE001  # told, whatever it is
                    self._on_error(error)
        finally:
            self._is_asking = False
