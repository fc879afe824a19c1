"""The body of a request, read as what it has to be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from torch import Tensor

from engine.remote.contract import JSON, MAX_JSON_BYTES, TENSORS
from engine.remote.wire import BadBody, Body, Reader
from engine.serve.incoming import Incoming
from engine.serve.refusals import Refused
from store.blobs.tensors import Header

S = TypeVar("S", bound=msgspec.Struct)


async def json_body(request: Request, incoming: Incoming, struct: type[S]) -> S:
    """Raises Refused, Slow, and ClientDisconnect."""
    _check_type(request, JSON)
    _check_length(request, MAX_JSON_BYTES)
    data = b""
    async for chunk in incoming:
        data += chunk
        if len(data) > MAX_JSON_BYTES:
            raise Refused(413, f"a body of more than {MAX_JSON_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=struct)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, str(error)) from None


async def tensor_body(
    request: Request,
    chunks: AsyncIterator[bytes],
    check: Callable[[Header], None],
    most: int,
) -> Body:
    """most: bytes that it may have. Raises Refused, BadBody, Slow, and ClientDisconnect."""
    _check_type(request, TENSORS)
    length = request.headers.get("content-length")
    if length is None or not length.isdigit():
        raise Refused(411, "a body of tensors needs its Content-Length")
    _check_length(request, most)
    reader = Reader(chunks, most)
    body = await reader.body(check, int(length))
    if body is None:
        raise Refused(400, "there is no body")
    await reader.ended()
    return body


def finite(body: Body, name: str) -> Tensor:
    """A tensor of it. Raises BadBody."""
    tensor = body.tensors[name]
    if not bool(tensor.isfinite().all()):
        raise BadBody(f"{name} has numbers that are not finite")
    return tensor


def _check_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refused(415, f"the body is {given[:80] or 'of no type'}, expected {wanted}")


def _check_length(request: Request, most: int) -> None:
    """Before anything of a body is read, where it is announced how long it is."""
    length = request.headers.get("content-length", "0")
    if len(length) > 19 or int(length) > most:
        raise Refused(413, f"a body of {length[:40]} bytes, expected at most {most}")
