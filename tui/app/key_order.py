"""Keys act in the order in which they are pressed, each where the one before it has led.

Textual hands a key to the widget that has the focus when it comes. Letters act there at once, while a key with a
binding (ctrl+u, esc, 3) goes round by all parents to the app first: of `ctrl+u 9 7` in one burst the digits come first
and are deleted then, and a key behind one that opens a dialog acts below the dialog. So the next key waits until the
one before it has acted, and until a screen that this opened is composed; where something must be read before that
screen can be opened, whoever reads it says so by `opening`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from textual.app import App
from textual.events import Key, Paste
from textual.message import Message

from tui.app.asking import is_there

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.await_complete import AwaitComplete
    from textual.dom import DOMNode
    from textual.events import Event
    from textual.screen import Screen

Result = TypeVar("Result")

# A key that was lost with the widget that had it holds up the others so long, and then for so many turns of the event
# loop: where the machine is busy a key may be under way for seconds, but never for that many turns.
LOST_SECONDS = 1.0
LOST_TURNS = 1000
# A screen whose content takes longer to read is not waited for.
OPEN_SECONDS = 5.0


class CameRound(Message, bubble=True):
    """Sent behind a key on its way: when it is back at the app, the key has acted, wherever it ended."""

    def __init__(self, number: int, *, is_first: bool = True) -> None:
        super().__init__()
        self.number, self.is_first = number, is_first


class KeysInOrder(App[int]):
    """An app of which a key waits for the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._held: deque[Event] = deque()
        self._under_way: Event | None = None
        self._number = 0  # of the message that is waited for
        self._key_screen: Screen[object] | None = None
        self._target: DOMNode | None = None  # that got the key under way
        self._num_opening = 0
        self._opened_by = 0.0  # when what is being opened is waited for no longer
        self._has_acted = False  # the key under way, which waits for what it opens alone

    @contextmanager
    def opening(self) -> Iterator[None]:
        """While it lasts, the next key waits: for what is read for a screen that is pushed right after."""
        self._num_opening += 1
        self._opened_by = time.monotonic() + OPEN_SECONDS
        try:
            yield
        finally:
            self._num_opening -= 1
            if self._has_acted:
                self._end_soon(self._number)

    async def push_screen_wait(
        self, screen: Screen[Result] | str, *, mode: str | None = None
    ) -> Result | Any:
        """At once: Textual lets other callbacks of the app run first, and a key could act before those end."""
        return await asyncio.shield(self.push_screen(screen, wait_for_dismiss=True, mode=mode))

    @property
    def _is_opening(self) -> bool:
        return self._num_opening > 0 and time.monotonic() < self._opened_by

    async def on_event(self, event: Event) -> None:
        if not isinstance(event, Key | Paste):
            await super().on_event(event)
        elif event.is_forwarded:
            await super().on_event(event)
            if event is self._under_way and not self._is_target_there:
                self._end_soon(self._number)
        elif self._under_way is None:
            await self._begin_key(event)
        else:
            self._held.append(event)
            if len(self._held) == 1:
                self._watch()

    async def _begin_key(self, event: Event) -> None:
        self._under_way, self._key_screen = event, self.screen
        target = self.focused or self.screen
        await super().on_event(event)
        if event.is_forwarded:
            self._wait_behind(target)
        else:  # it was a key of the app alone
            self._number += 1
            self._end_soon(self._number)

    def _wait_behind(self, target: DOMNode) -> None:
        self._number += 1
        self._target = target
        target.post_message(CameRound(self._number))
        if self._held:
            self._watch()

    def pop_screen(self) -> AwaitComplete:
        """What was sent behind the key may be lost with the screen that it has closed."""
        popped = super().pop_screen()
        if self._under_way is not None:
            self._end_soon(self._number)
        return popped

    def on_came_round(self, message: CameRound) -> None:
        """Once more behind what the key had its widget tell of, such as the row of a list that was chosen by it."""
        number, target = message.number, self._target
        is_asked = message.is_first and number == self._number and self._is_target_there
        if target is not None and is_asked:
            target.post_message(CameRound(number, is_first=False))
        else:
            self._end_soon(number)

    @property
    def _is_target_there(self) -> bool:
        """Whether the widget that had the key can still hand on what came behind it."""
        is_same = bool(self.screen_stack) and self.screen is self._key_screen
        return is_same and self._target is not None and is_there(self._target)

    def _end_soon(self, number: int) -> None:
        """Behind what the key has asked of the app, such as another focus."""
        self.call_later(self._end_key_of, number)

    async def _end_key_of(self, number: int) -> None:
        await asyncio.sleep(0)  # a worker that the key has started begins in between
        if number == self._number and self._under_way is not None:
            await self._end_key()

    async def _end_key(self) -> None:
        """The key has acted. Where that opened a screen the next one waits for it too."""
        self._has_acted = self._is_opening
        if self._has_acted:
            return
        if self._held and self.screen_stack and self.screen is not self._key_screen:
            self._key_screen = self.screen
            self._wait_behind(self.screen)
            return
        self._under_way = None
        if self._held:
            await self._begin_key(self._held.popleft())

    def _watch(self) -> None:
        self.set_timer(LOST_SECONDS, partial(self._count_down, self._number, LOST_TURNS))

    def _count_down(self, number: int, turns: int) -> None:
        """What is waited for now was waited for a long while ago already; the last moment for it to come."""
        if number != self._number or self._under_way is None:
            return
        if turns:
            asyncio.get_running_loop().call_soon(self._count_down, number, turns - 1)
        else:
            self.call_later(self._give_up, number)

    async def _give_up(self, number: int) -> None:
        if number != self._number or self._under_way is None:
            return
        if self._is_opening:
            self._watch()
        else:
            self._key_screen = self.screen if self.screen_stack else None
            await self._end_key()
