"""What screens ask beside their event loop, and where it is told that it went wrong.

An answer may come when who asked has been closed: nothing is shown then, and nothing that fails because of it is told.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from textual import work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from textual.dom import DOMNode
    from textual.screen import Screen
    from textual.worker import Worker

Given = ParamSpec("Given")
Node = TypeVar("Node", bound="DOMNode")


def is_there(node: DOMNode) -> bool:
    """Whether a screen or widget can still be drawn on: it is mounted, and neither it nor the app is being closed."""
    # an app that is closed from without, as at the end of its terminal, ends its screens one after the other
    return node.is_attached and node.app.is_running and node.is_running and not node._pruning


async def told(node: DOMNode, doing: Awaitable[object]) -> bool:
    """Whether it went well; if not, the app tells why, unless `node`, for which it was done, is gone."""
    try:
        await doing
    except Exception as error:  # noqa: BLE001  # told, whatever it is
        if is_there(node):
            node.app.tell_error(error)  # type: ignore[attr-defined]
        return False
    return True


def asks(
    *, group: str = "default", exclusive: bool = False
) -> Callable[
    [Callable[Concatenate[Node, Given], Coroutine[Any, Any, None]]],
    Callable[Concatenate[Node, Given], Worker[None]],
]:
    """Make a method of a screen, a widget or the app a worker of it; what it raises is told as of `told`."""

    def make(
        method: Callable[Concatenate[Node, Given], Coroutine[Any, Any, None]],
    ) -> Callable[Concatenate[Node, Given], Worker[None]]:
        @wraps(method)
        async def ask(self: Node, /, *args: Given.args, **kwargs: Given.kwargs) -> None:
            await told(self, method(self, *args, **kwargs))

        return work(group=group, exclusive=exclusive)(ask)

    return make


class Again:
    """One question at a time: asked while it is being answered, it is asked once more after that, however often.

    Call it whenever the answer may have changed. A slow store thus never has more than one question of a kind to
    answer, and what is shown in the end is not older than the last call.
    """

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
                    if not is_there(self._screen):
                        return
                    self._on_error(error)
        finally:
            self._is_asking = False
