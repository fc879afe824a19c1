"""A server that is asked as no client of ours would, and what its answers must be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import msgspec
from torch import Tensor

from engine.remote.conformance.sent import request_of
from engine.remote.contract import (
    CONTRACT,
    EXPECTS,
    MAX_BODY_BYTES,
    MAX_JSON_BYTES,
    TENSORS,
    Fingerprint,
    Refusal,
    one_line,
)
from engine.remote.wire import Body, Reader
from store.blobs.tensors import Header

_MOST_PARTS = 10_000

Data = bytes | AsyncIterator[bytes]

Check = tuple[str, Callable[[], Awaitable[None]]]
"""What is to be so, and what raises Wrong where it is not."""


class Wrong(Exception):
    """What is not as it should be, in one line."""


class Unanswered(Wrong):
    """The connection failed."""


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes = b""
    bodies: tuple[Body, ...] = ()


class Server:
    """The server that is asked. fingerprint: what it tells of itself, once it was asked for that."""

    def __init__(self, url: str, client: httpx.AsyncClient, token: str) -> None:
        self.url = url
        self.client = client
        self.token = token
        self.fingerprint = Fingerprint(contract=CONTRACT, components={}, max_body_bytes=0)

    def expects(self, kind: str) -> dict[str, str]:
        """The header of requests for the component that is there."""
        return {EXPECTS: self.fingerprint.components[kind].digest}

    async def posted(
        self, kind: str, data: bytes, header_fits: Callable[[Header], None], path: str = ""
    ) -> Said:
        """What a kind answers to a body; path: where that is not the first thing that it is asked for."""
        at, content_type = request_of(kind)
        headers = {"Content-Type": content_type, **self.expects(kind)}
        return await self.ask("POST", path or at, data, headers, header_fits)

    async def tensors(self, kind: str, data: bytes, header_fits: Callable[[Header], None]) -> Body:
        """The same where the answer is one body."""
        return one(await self.posted(kind, data, header_fits))

    async def ask(
        self,
        method: str,
        path: str,
        data: Data | None = None,
        headers: Mapping[str, str] | None = None,
        header_fits: Callable[[Header], None] | None = None,
    ) -> Said:
        """The answer. header_fits: of an answer of tensors. Raises Wrong for what no answer may be, Unanswered."""
        sent = {"Accept-Encoding": "identity"}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        async with self._answered(method, path, data, {**sent, **(headers or {})}) as response:
            if 300 <= response.status_code < 400:
                raise Wrong(f"{path}: redirects to another address (status {response.status_code})")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise Wrong(f"{path}: the answer is compressed, which nobody asked for")
            if header_fits is not None and response.status_code == 200:
                bodies = await _bodies(response, header_fits)
                return Said(200, response.headers, bodies=bodies)
            content = b""
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_JSON_BYTES:
                    raise Wrong(f"{path}: answers with more than {MAX_JSON_BYTES} bytes of JSON")
            return Said(response.status_code, response.headers, content)

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, data: Data | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self.client.stream(
                method, self.url + path, content=data, headers=dict(headers)
            ) as response:
                yield response
        except httpx.TimeoutException:
            raise Unanswered(f"{path}: there is no answer") from None
        except httpx.TransportError as error:
            raise Unanswered(f"{path}: {one_line(str(error)) or type(error).__name__}") from None


def one(said: Said) -> Body:
    """The body of an answer that has one. Raises Wrong."""
    if said.status != 200:
        raise Wrong(f"answered with {said.status}, expected 200 ({_reason(said)})")
    if len(said.bodies) != 1:
        raise Wrong(f"the answer has {len(said.bodies)} bodies, expected 1")
    return said.bodies[0]


def decoded(said: Said, struct: type[Any]) -> Any:
    """The JSON of an answer. Raises Wrong."""
    if said.status != 200:
        raise Wrong(f"answered with {said.status}, expected 200 ({_reason(said)})")
    try:
        return msgspec.json.decode(said.data, type=struct)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Wrong(f"is no {struct.__name__}: {error}") from None


def refused(said: Said, *expected: int) -> Refusal:
    """The refusal that an answer is, by one of these statuses. Raises Wrong."""
    if said.status not in expected:
        wanted = " or ".join(map(str, expected))
        raise Wrong(f"answered with {said.status}, expected {wanted} ({_reason(said)})")
    try:
        return msgspec.json.decode(said.data, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Wrong(
            f"the answer {said.status} has no line of why: expected " + '{"error": "..."} as JSON'
        ) from None


def _reason(said: Said) -> str:
    try:
        return one_line(msgspec.json.decode(said.data, type=Refusal).error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "without a line of why"


def finite(tensor: Tensor, name: str) -> Tensor:
    """The same tensor. Raises Wrong."""
    if not bool(tensor.isfinite().all()):
        raise Wrong(f"{name} has numbers that are not finite")
    return tensor


async def _bodies(
    response: httpx.Response, header_fits: Callable[[Header], None]
) -> tuple[Body, ...]:
    if response.headers.get("Content-Type", "").partition(";")[0] != TENSORS:
        raise Wrong(f"the answer is {response.headers.get('Content-Type')!r}, expected {TENSORS}")
    reader = Reader(response.aiter_raw(), MAX_BODY_BYTES)
    found: list[Body] = []
    while (body := await reader.body(header_fits)) is not None:
        found.append(body)
        if len(found) > _MOST_PARTS:
            raise Wrong(f"more than {_MOST_PARTS} parts")
    return tuple(found)
