"""The body of a request as it comes in, and how long whoever sends it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request

# Of a request that has begun: how long its next bytes may take, and how many a second must come on the whole.
CHUNK_SECONDS = 30.0
MIN_RATE = 32 * 1024


class Slow(Exception):
    """The body does not come in time."""


class Incoming:
    """Chunks of the body, one after another. is_whole: nothing of it is left. received: called with how many bytes
    came."""

    def __init__(
        self,
        request: Request,
        *,
        chunk_seconds: float = CHUNK_SECONDS,
        received: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        self._receive = request.receive
        self._chunk_seconds = chunk_seconds
        self._received = received
        self._begun = time.monotonic()
        self._num_bytes = 0
        length = request.headers.get("content-length", "0")
        self.is_whole = length == "0" and "transfer-encoding" not in request.headers

    def __aiter__(self) -> Incoming:
        return self

    async def __anext__(self) -> bytes:
        """Raises Slow, ClientDisconnect."""
        if self.is_whole:
            raise StopAsyncIteration
        try:
            message = await asyncio.wait_for(self._receive(), self._left())
        except TimeoutError:
            raise Slow from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.is_whole = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self._num_bytes += len(chunk)
        self._received(len(chunk))
        return chunk

    def _left(self) -> float:
        """Seconds for the next chunk: a byte now and then does not keep a body alive."""
        whole = self._begun + self._chunk_seconds + self._num_bytes / MIN_RATE
        return min(self._chunk_seconds, whole - time.monotonic())

    async def thrown_away(self, max_bytes: int) -> None:
        """Reads the rest, up to so many bytes: an answer that comes before the body was sent is lost to many who ask,
        as a connection that is closed on them. Afterwards `is_whole` tells whether that was all."""
        left = max_bytes
        with suppress(Slow, ClientDisconnect):
            async for chunk in self:
                left -= len(chunk)
                if left < 0:
                    return
