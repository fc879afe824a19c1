"""The side that asks: calls to one server of components, with limits, retries and an eye on whether it lives.

A call is a pure function of what it sends, so that it may be made again. It is waited for in slices: whoever asked may
give up at any moment, which closes the connection and so ends the work on the other side.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2 as httpx
import msgspec

from engine.errors import ComponentError
from engine.remote.contract import (
    ENVIRONMENT,
    EXPECTS,
    JSON,
    MAX_BODY_BYTES,
    MAX_JSON_BYTES,
    SMALL,
    TENSORS,
    Fingerprint,
    Health,
    Refusal,
    one_line,
    path_of,
)
from engine.remote.hosts import certificates, host_at, token_of
from engine.remote.waiting import AGAIN, Again, repeated, retry_after, wait
from store.keys import canonical

if TYPE_CHECKING:
    from engine.remote.wire import Body
    from store.blobs.tensors import Header

T = TypeVar("T")
Plain = str | int | bool | None
Check = Callable[["Header"], None]

_CONNECT_SECONDS = 5.0
_MAX_ENVIRONMENT = 4096


class Unanswered(ComponentError):
    """A host could not be reached, or has fallen silent."""


class Refused(ComponentError):
    """A host answered that it will not, or cannot. missing: digests of conditions that it has not."""

    def __init__(self, text: str, missing: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.missing = tuple(missing)


@dataclass(frozen=True)
class Answer:
    """What came back. body: None of one without tensors. sent, received: bytes of bodies."""

    body: Body | None
    environment: str
    sent: int
    received: int
    seconds: float


@dataclass(frozen=True)
class Host:
    """A server at one address. timeout: seconds without a sign of life before it counts as gone. retries: how often a
    call is made again that could not be answered. max_bytes: of a body that it takes."""

    url: str
    timeout: float = 60.0
    retries: int = 3
    max_bytes: int = MAX_BODY_BYTES
    check: Callable[[], None] = field(default=lambda: None, compare=False)

    @property
    def told(self) -> str:
        """What it is called in errors: also by the name that it is known by."""
        known = host_at(self.url)
        return f"{known.name} ({self.url})" if known is not None else self.url

    def fingerprint(self, seconds: float = 5.0) -> Fingerprint:
        """What it serves, asked once. Raises Unanswered, Refused."""
        return self._json(path_of("fingerprint"), Fingerprint, seconds)

    def health(self, seconds: float = 5.0) -> Health:
        """How it is, asked once. Raises Unanswered, Refused."""
        return self._json(path_of("health"), Health, seconds)

    def call(
        self,
        name: str,
        expects: str,
        *,
        data: msgspec.Struct | Sequence[memoryview],
        check: Check | None,
        small: bool = False,
        values: Mapping[str, str] | None = None,
    ) -> Answer:
        """One operation. expects: the digest of the component. data: a struct as JSON, or the parts of a body.
        check: raises BadBody by the header of the answer; None where it has no tensors. values: for the path.

        Raises Unanswered, Refused; whatever `Host.check` raises.
        """
        request = self._checked(_Request.of(name, expects, data, small, values))
        return repeated(
            lambda: wait(self._answered(request, check), self.check), self.retries, self.check
        )

    def stream(
        self,
        name: str,
        expects: str,
        *,
        data: Sequence[memoryview],
        check: Check,
        small: bool = False,
    ) -> Iterator[Answer]:
        """An operation whose answer comes in parts, which are given as they come. Raises as `call` does, without
        another try once a part was there."""
        request = self._checked(_Request.of(name, expects, data, small, None))
        parts = repeated(lambda: self._begun(request, check), self.retries, self.check)
        yield from parts

    def _checked(self, request: _Request) -> _Request:
        if request.num_bytes > self.max_bytes:
            raise Refused(
                f"{self.told} takes bodies of at most {self.max_bytes:,} bytes, this one has {request.num_bytes:,}; "
                "make fewer frames or smaller ones"
            )
        return request

    def get_json(self, path: str, struct: type[T], seconds: float = 5.0) -> T:
        """JSON of a server that speaks another contract, asked once. Raises Unanswered, Refused."""
        return self._json(path, struct, seconds)

    def post_json(self, path: str, data: object, struct: type[T], max_bytes: int) -> T:
        """JSON for JSON, of such a server: a pure function of what is sent. Raises as `call` does."""
        parts = [memoryview(msgspec.json.encode(data))]
        headers = {
            "Content-Type": JSON,
            "Content-Length": str(len(parts[0])),
            "Accept-Encoding": "identity",
        }
        request = _Request("POST", path, headers, parts, len(parts[0]))

        async def exchange() -> T:
            async with self._said(self._sent(request)) as response:
                await self._check_status(response)
                return self._decoded(await _limited(response, max_bytes), struct)

        async def watched() -> T:
            return await self._watched(asyncio.ensure_future(exchange()))

        return repeated(lambda: wait(watched(), self.check), self.retries, self.check)

    def _decoded(self, data: bytes, struct: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=struct)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(
                f"{self.told} does not answer as it should: {one_line(str(error))}"
            ) from None

    def _begun(self, request: _Request, check: Check) -> Iterator[Answer]:
        """The parts, once the first is there."""
        stream = self._parts(request, check)

        def rest(answer: Answer) -> Iterator[Answer]:
            try:
                yield answer
                while (following := wait(_next(stream), self.check)) is not None:
                    yield following
            except Again as again:
                raise again.error from None
            finally:
                wait(stream.aclose(), lambda: None)

        first = wait(_next(stream), self.check)
        return iter(()) if first is None else rest(first)

    def _json(self, path: str, struct: type[T], seconds: float) -> T:
        async def asked() -> T:
            request = self._client().stream(
                "GET", self.url + path, headers=self._authorization(), timeout=seconds
            )
            async with self._said(request) as response:
                await self._check_status(response)
                return self._decoded(await _limited(response, MAX_JSON_BYTES), struct)

        async def in_time() -> T:
            try:
                return await asyncio.wait_for(asked(), seconds)
            except TimeoutError:
                raise Unanswered(f"{self.told} gave no answer in {seconds:g} s") from None

        try:
            return wait(in_time(), self.check)
        except Again as again:
            raise again.error from None

    async def _answered(self, request: _Request, check: Check | None) -> Answer:
        from engine.remote.wire import BadBody, Reader

        async def exchange() -> Answer:
            begun = time.perf_counter()
            async with self._said(self._sent(request)) as response:
                await self._check_status(response)
                if check is None:
                    await _limited(response, MAX_JSON_BYTES)
                    return Answer(None, "", request.num_bytes, 0, time.perf_counter() - begun)
                reader = Reader(response.aiter_raw(), MAX_BODY_BYTES)
                body = await reader.body(check)
                if body is None:
                    raise BadBody("it has no body")
                await reader.ended()
                environment = self._environment(response)
            seconds = time.perf_counter() - begun
            return Answer(body, environment, request.num_bytes, body.num_bytes, seconds)

        try:
            return await self._watched(asyncio.ensure_future(exchange()))
        except BadBody as error:
            raise self._unusable(error) from None

    async def _parts(self, request: _Request, check: Check) -> AsyncGenerator[Answer, None]:
        from engine.remote.contract import Progress
        from engine.remote.wire import BadBody, Reader

        begun = time.perf_counter()
        sent = request.num_bytes
        async with self._said(self._sent(request)) as response:
            await self._check_status(response)
            reader = Reader(response.aiter_raw(), MAX_BODY_BYTES)
            environment = self._environment(response)
            while True:
                try:
                    reading = asyncio.ensure_future(reader.body(check))
                    body = await self._watched(reading)
                    if body is None:
                        raise Again(self._broken("the answer ends before its last part"))
                    progress = body.metadata(Progress)
                    if progress.is_last:
                        await self._watched(asyncio.ensure_future(reader.ended()))
                except BadBody as error:
                    raise self._unusable(error) from None
                if progress.error:
                    raise Refused(f"{self.told}: {one_line(progress.error)}")
                yield Answer(body, environment, sent, body.num_bytes, time.perf_counter() - begun)
                sent, begun = 0, time.perf_counter()
                if progress.is_last:
                    return

    async def _watched(self, task: asyncio.Future[T]) -> T:
        """What the task gives, as long as the host shows signs of life; it may take as long as it likes."""
        half = self.timeout / 2
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=half)
                if done:
                    return task.result()
                # answered beside the work by a server that lives
                await asyncio.wait_for(self._lives(half), half)
        except (TimeoutError, httpx.HTTPError):
            if task.done():
                return task.result()
            raise Unanswered(
                f"{self.told} has given no sign of life for {self.timeout:g} s; start it again there"
            ) from None
        finally:
            task.cancel()

    async def _lives(self, seconds: float) -> None:
        request = self._client().stream(
            "GET", self.url + path_of("health"), headers=self._authorization(), timeout=seconds
        )
        async with request as response:
            await _limited(response, MAX_JSON_BYTES)

    def _environment(self, response: httpx.Response) -> str:
        """What is told of what the result depends on, as it may be stored."""
        text = response.headers.get(ENVIRONMENT, "")
        try:
            facts = msgspec.json.decode(text[:_MAX_ENVIRONMENT] or "{}", type=dict[str, Plain])
            told = canonical(facts).decode() if facts else ""
            if not told.isprintable():
                raise ValueError
            return told
        except (ValueError, RecursionError):  # msgspec's errors are ones
            raise Refused(
                f"{self.told} tells of its environment what is no JSON object of texts and numbers"
            ) from None

    @asynccontextmanager
    async def _said(self, request: Any) -> AsyncIterator[httpx.Response]:
        """The response; errors of the network as what they mean here."""
        try:
            async with request as response:
                yield response
        except httpx.TimeoutException:
            raise Again(Unanswered(f"{self.told} does not answer; start it there")) from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Again(self._broken(reason)) from None

    def _unusable(self, error: Exception) -> Refused:
        return Refused(f"the answer of {self.told} cannot be used: {one_line(str(error))}")

    def _broken(self, reason: str) -> Unanswered:
        return Unanswered(f"{self.told} does not answer ({one_line(reason)}); start it there")

    def _sent(self, request: _Request) -> Any:
        async def chunks() -> AsyncIterator[bytes]:
            for part in request.parts:
                for start in range(0, len(part), 1 << 20):
                    yield bytes(part[start : start + (1 << 20)])

        return self._client().stream(
            request.method,
            self.url + request.path,
            headers={**request.headers, **self._authorization()},
            content=chunks(),
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        )

    async def _check_status(self, response: httpx.Response) -> None:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise Refused(f"the answer of {self.told} is compressed, which nobody asked for")
        if response.status_code in (200, 204):
            return
        data = await _limited(response, MAX_JSON_BYTES)
        refusal = _refusal(data, response.status_code)
        error = Refused(f"{self.told}: {one_line(refusal.error)}", refusal.missing)
        if response.status_code in AGAIN:
            raise Again(error, retry_after(response.headers.get("Retry-After", "")))
        raise error

    def _client(self) -> httpx.AsyncClient:
        known = host_at(self.url)
        return _clients(os.getpid(), self.url, known.ca_file if known else "")

    def _authorization(self) -> dict[str, str]:
        token = token_of(host_at(self.url))
        return {"Authorization": f"Bearer {token}"} if token else {}


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]
    parts: Sequence[memoryview]
    num_bytes: int

    @classmethod
    def of(
        cls,
        name: str,
        expects: str,
        data: msgspec.Struct | Sequence[memoryview],
        small: bool,
        values: Mapping[str, str] | None,
    ) -> _Request:
        from engine.remote.contract import OPERATIONS

        operation = next(each for each in OPERATIONS if each.name == name)
        is_json = isinstance(data, msgspec.Struct)
        parts = (
            [memoryview(msgspec.json.encode(data))]
            if isinstance(data, msgspec.Struct)
            else list(data)
        )
        num_bytes = sum(map(len, parts))
        headers = {
            EXPECTS: expects,
            "Content-Type": JSON if is_json else TENSORS,
            "Content-Length": str(num_bytes),
            "Accept-Encoding": "identity",
        }
        if small:
            headers[SMALL] = "1"
        path = operation.path.format(**(values or {}))
        return cls(operation.method, path, headers, parts, num_bytes)


async def _next(stream: AsyncIterator[Answer]) -> Answer | None:
    return await anext(stream, None)


@functools.cache
def _clients(pid: int, url: str, ca_file: str) -> httpx.AsyncClient:
    # reading the system's certificates takes longer than many a request: nothing is checked by them where none is shown
    verify: Any = url.startswith("https:")
    if ca_file:
        verify = certificates(ca_file)
    return httpx.AsyncClient(
        verify=verify,
        trust_env=False,  # no passwords out of a .netrc, and no proxy sees a tensor
        follow_redirects=False,
    )


async def _limited(response: httpx.Response, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > limit:
            raise Refused(f"{response.url} answers with more than {limit} bytes")
    return bytes(data)


class _Spoken(msgspec.Struct):
    message: str


class _OtherRefusal(msgspec.Struct):
    """As OpenAI's servers and those like them word it."""

    error: _Spoken


def _refusal(data: bytes, status: int) -> Refusal:
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
        if isinstance(found.get("error"), dict):
            return Refusal(error=msgspec.convert(found, _OtherRefusal).error.message)
        return msgspec.convert(found, Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Refusal(error=f"answered with status {status}")
