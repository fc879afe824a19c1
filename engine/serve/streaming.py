"""Answers that come part by part, and whether whoever asked is still there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from engine.remote.contract import TENSORS, Progress
from engine.remote.wire import encoded
from engine.serve.served import Gone, Served, refusal_of

_POLL_SECONDS = 0.1

# Of a streamed answer: parts that wait for whoever asked to take them.
_PARTS_AHEAD = 2
Part = list[memoryview] | Exception | None


class Parts:
    """What a component gives part by part, taken as fast as whoever asked takes it. None is the end."""

    def __init__(
        self,
        served: Served,
        do: Callable[[Callable[[list[memoryview]], None]], None],
        place: ExitStack,
    ) -> None:
        self._parts: asyncio.Queue[Part] = asyncio.Queue()
        self._room = threading.Semaphore(_PARTS_AHEAD)
        self._gone = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._working = asyncio.create_task(self._work(served, do, place))

    async def next(self) -> Part:
        part = await self._parts.get()
        self._room.release()
        return part

    def leave(self) -> None:
        """Nobody takes any more of it."""
        self._gone.set()
        self._working.cancel()

    async def _work(
        self,
        served: Served,
        do: Callable[[Callable[[list[memoryview]], None]], None],
        place: ExitStack,
    ) -> None:
        with place:
            try:
                await served.work(lambda: do(self._put), self._gone)
            except Gone:
                pass
            except Exception as error:  # noqa: BLE001  # whatever it is, the other side is told
                self._parts.put_nowait(error)
            finally:
                self._parts.put_nowait(None)

    def _put(self, part: list[memoryview]) -> None:
        """From the component's thread. Raises Gone."""
        while not self._room.acquire(timeout=_POLL_SECONDS):
            if self._gone.is_set():
                break
        if self._gone.is_set():
            raise Gone
        self._loop.call_soon_threadsafe(self._parts.put_nowait, part)


class Streamed(StreamingResponse):
    """Parts as they come. sent: called with how many bytes of it are."""

    def __init__(
        self,
        parts: Parts,
        first: Part,
        sent: Callable[[int], None],
        headers: Mapping[str, str],
    ) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            part = first
            while part is not None:
                if isinstance(part, Exception):
                    part = encoded({}, Progress(error=refusal_of(part), is_last=True))
                for piece in in_chunks(part):
                    sent(len(piece))
                    yield piece
                part = await parts.next()

        super().__init__(pieces(), media_type=TENSORS, headers=headers)
        self._parts = parts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also of an answer that nobody began to take
            self._parts.leave()


@asynccontextmanager
async def watched(request: Request, leave: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `leave` once the connection is closed, or the work for it is not waited for any more."""

    async def watch() -> None:
        # the body was read whole: what comes is the end
        while (await request.receive())["type"] != "http.disconnect":
            pass
        leave()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        leave()
        raise
    finally:
        watching.cancel()
        await asyncio.wait({watching})


def in_chunks(parts: list[memoryview]) -> Iterator[bytes]:
    """Bytes of at most 1 MiB each."""
    for part in parts:
        for start in range(0, len(part), 1 << 20):
            yield bytes(part[start : start + (1 << 20)])
