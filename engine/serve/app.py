"""The HTTP side of a server: what each operation of the contract does."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from engine.environment import environment, out_of_memory_explained, set_few_threads
from engine.errors import EngineError
from engine.models.seams import At
from engine.process.version import installed_version
from engine.remote.contract import (
    CONTRACT,
    ENVIRONMENT,
    EXPECTS,
    JSON,
    MAX_CONDITIONS,
    MAX_JSON_BYTES,
    OPERATIONS,
    SMALL,
    TENSORS,
    Denoise,
    Fingerprint,
    Health,
    Progress,
    Prompt,
    Refusal,
)
from engine.remote.wire import BadBody, Body, Reader, encoded, expect
from engine.serve.metrics import Metrics
from engine.serve.openapi import openapi
from engine.serve.served import Busy, Gone, Served, refusal_of
from store.blobs.tensors import Header

# Of a request that has begun: how long its next bytes may take.
CHUNK_SECONDS = 30.0
_POLL_SECONDS = 0.1
_FLOATS = ("F32", "F16", "BF16")

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """status, and what is wrong. missing: digests of conditions; after: seconds until another try makes sense."""

    def __init__(
        self, status: int, text: str, *, missing: tuple[str, ...] = (), after: int = 0
    ) -> None:
        super().__init__(text)
        self.status = status
        self.missing = missing
        self.after = after


class Server:
    """served: kind -> component. max_body_bytes: of a request, as far as it may be a body of tensors."""

    def __init__(
        self,
        served: Mapping[str, Served],
        *,
        max_body_bytes: int,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> None:
        self.served = served
        self.metrics = Metrics()
        self._max_body_bytes = max_body_bytes
        self._chunk_seconds = chunk_seconds
        # conditions that were sent, the least recently used first
        self._conditions: OrderedDict[str, Tensor] = OrderedDict()

    def app(self) -> Starlette:
        """The ASGI app: the operations whose component is served."""
        routes = [
            Route(each.path, self._told(getattr(self, f"_{each.name}")), methods=[each.method])
            for each in OPERATIONS
            if not each.component or each.component in self.served
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})

    # Operations

    async def _health(self, request: Request) -> Response:
        return _json(
            Health(
                contract=CONTRACT,
                version=installed_version(),
                components={kind: each.load for kind, each in self.served.items()},
            )
        )

    async def _fingerprint(self, request: Request) -> Response:
        return _json(
            Fingerprint(
                contract=CONTRACT,
                components={kind: each.told for kind, each in self.served.items()},
                max_body_bytes=self._max_body_bytes,
            )
        )

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(openapi())

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(self.served), media_type="text/plain; version=0.0.4")

    async def _condition(self, request: Request) -> Response:
        self._expected(request, "denoiser")
        body = await self._tensors(
            request, lambda header: _expect_floats(header, {"condition": (None, None)})
        )
        digest = hashlib.sha256()
        for part in encoded({"condition": body.tensors["condition"]}):
            digest.update(part)
        if digest.hexdigest() != request.path_params["digest"]:
            raise Refused(
                400, f"the body has the digest {digest.hexdigest()}, not that of its path"
            )
        self._conditions[digest.hexdigest()] = body.tensors["condition"]
        while len(self._conditions) > MAX_CONDITIONS:
            self._conditions.popitem(last=False)
        return Response(status_code=204)

    async def _encode_text(self, request: Request) -> Response:
        served = self._expected(request, "text_encoder")
        prompt = (await self._struct(request, Prompt)).prompt
        return await self._answer(
            request, served, lambda component, gone: {"states": component.encode(prompt)}
        )

    async def _denoise(self, request: Request) -> Response:
        served = self._expected(request, "denoiser")
        channels = served.about.facts["latent_channels"]
        body = await self._tensors(
            request,
            lambda header: expect(
                header,
                {
                    "x": (("F32",), (1, channels, None, None, None)),
                    "timestep": (("I64", "F32"), (1,)),
                },
            ),
        )
        asked = body.metadata(Denoise)
        branches = self._branches(asked, served)
        ats = [
            At(
                call.step,
                call.total,
                call.sigma,
                call.branch,
                None if call.window is None else tuple(call.window),
            )
            for call in asked.calls
        ]

        def velocities(component: Any, gone: threading.Event) -> dict[str, Tensor]:
            with component.begin(branches) as predict:
                found = predict(body.tensors["x"], body.tensors["timestep"], ats)
            return {
                f"velocity.{index}": velocity.to(torch.float32)
                for index, velocity in enumerate(found)
            }

        return await self._answer(request, served, velocities)

    async def _vae_encode(self, request: Request) -> Response:
        served = self._expected(request, "vae")
        body = await self._tensors(
            request,
            lambda header: expect(header, {"video": (("F32",), (None, 3, None, None, None))}),
        )
        return await self._answer(
            request,
            served,
            lambda component, gone: {"latents": component.encode(body.tensors["video"])},
        )

    async def _vae_decode(self, request: Request) -> Response:
        served = self._expected(request, "vae")
        channels = served.about.facts["latent_channels"]
        body = await self._tensors(
            request,
            lambda header: expect(header, {"latents": (("F32",), (1, channels, None, None, None))}),
        )
        is_small = SMALL in request.headers
        parts: asyncio.Queue[list[memoryview] | Exception | None] = asyncio.Queue(2)
        gone = threading.Event()
        loop = asyncio.get_running_loop()

        def put(part: list[memoryview] | Exception | None) -> None:
            """From the component's thread; waits while the other side is slow."""
            waiting = asyncio.run_coroutine_threadsafe(parts.put(part), loop)
            while not waiting.done():
                if gone.is_set():
                    waiting.cancel()
                    raise Gone
                with suppress(TimeoutError):
                    waiting.exception(_POLL_SECONDS)

        def decode(gone: threading.Event) -> None:
            def on_chunk(done: int, total: int) -> None:
                if gone.is_set():
                    raise Gone
                put(encoded({}, Progress(done=done, total=total)))

            set_few_threads(is_small)
            with out_of_memory_explained("decode"), torch.no_grad():
                for frames in served.component.decode(body.tensors["latents"], on_chunk=on_chunk):
                    put(encoded({"frames": frames}, Progress()))
            put(encoded({}, Progress(is_last=True)))

        async def worked() -> None:
            try:
                await served.work(decode, gone)
            except Gone:
                pass
            except Exception as error:  # noqa: BLE001  # whatever it is, the other side is told
                await parts.put(error)
            finally:
                await parts.put(None)

        # the first part before the status is said, so that what fails at once has one of its own
        working = asyncio.create_task(worked())
        try:
            async with self._watched(request, gone):
                first = await parts.get()
            if isinstance(first, Exception):
                raise first
        except BaseException:
            gone.set()
            raise

        async def stream() -> AsyncIterator[bytes]:
            part: list[memoryview] | Exception | None = first
            try:
                while part is not None:
                    if isinstance(part, Exception):
                        part = encoded({}, Progress(error=refusal_of(part), is_last=True))
                    for piece in _pieces(part):
                        self.metrics.sent(len(piece))
                        yield piece
                    part = await parts.get()
                await working
            finally:
                gone.set()
                while not working.done():  # it may wait for room
                    with suppress(asyncio.QueueEmpty):
                        parts.get_nowait()
                    await asyncio.sleep(0.01)

        return StreamingResponse(
            stream(), media_type=TENSORS, headers={ENVIRONMENT: environment(_device(served))}
        )

    # What they share

    def _told(self, handler: Handler) -> Handler:
        """With every refusal as JSON, and counted."""

        async def told(request: Request) -> Response:
            begun = time.perf_counter()
            try:
                response = await handler(request)
            except Refused as error:
                response = _refusal(error.status, str(error), error.missing, error.after)
            except BadBody as error:
                response = _refusal(error.status, str(error))
            except Busy:
                response = _refusal(429, "too many requests wait; try again", after=2)
            except (Gone, ClientDisconnect):
                response = _refusal(499, "the connection was closed")
            except EngineError as error:
                response = _refusal(500, str(error))
            except Exception as error:  # noqa: BLE001  # no stack trace reaches a user
                response = _refusal(500, refusal_of(error))
            seconds = time.perf_counter() - begun
            self.metrics.answered(request, response.status_code, seconds)
            return response

        return told

    def _expected(self, request: Request, kind: str) -> Served:
        served = self.served[kind]
        expects = request.headers.get(EXPECTS, "")
        if expects != served.told.digest:
            raise Refused(
                412,
                f"serves another {kind.replace('_', ' ')} than the request is for; run it again to use this one",
            )
        return served

    async def _answer(
        self,
        request: Request,
        served: Served,
        do: Callable[[Any, threading.Event], Mapping[str, Tensor]],
    ) -> Response:
        is_small = SMALL in request.headers
        gone = threading.Event()

        def work(gone: threading.Event) -> tuple[list[memoryview], str]:
            set_few_threads(is_small)
            with out_of_memory_explained(served.kind), torch.no_grad():
                tensors = do(served.component, gone)
                where = environment(_device(served))
                return encoded(tensors), where

        async with self._watched(request, gone):
            parts, where = await served.work(work, gone)
        num_bytes = sum(map(len, parts))
        self.metrics.sent(num_bytes)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in _pieces(parts):
                yield piece

        headers = {ENVIRONMENT: where, "Content-Length": str(num_bytes)}
        return StreamingResponse(pieces(), media_type=TENSORS, headers=headers)

    @asynccontextmanager
    async def _watched(self, request: Request, gone: threading.Event) -> AsyncIterator[None]:
        """Sets `gone` once the connection is closed."""

        async def watch() -> None:
            # the body was read whole: what comes is the end
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone.set()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _branches(self, asked: Denoise, served: Served) -> dict[str, dict[str, Tensor]]:
        wanted = {digest for named in asked.branches.values() for digest in named.values()}
        missing = tuple(sorted(wanted - self._conditions.keys()))
        if missing:
            raise Refused(409, "conditions are missing; send them first", missing=missing)
        for call in asked.calls:
            if call.branch not in asked.branches:
                raise Refused(
                    400, f"a call is for the branch {call.branch!r}, which has no conditions"
                )
        takes, width = served.about.facts.get("takes", ["text"]), served.about.facts["text_dim"]
        for digest in sorted(wanted):
            self._conditions.move_to_end(digest)
        branches = {
            branch: {name: self._conditions[digest] for name, digest in named.items()}
            for branch, named in asked.branches.items()
        }
        for branch, named in branches.items():
            if named.keys() != set(takes):
                raise Refused(400, f"{branch} has the conditions {sorted(named)}, expected {takes}")
            if named["text"].shape[1] != width:
                raise Refused(
                    400, f"{branch}.text has rows of {named['text'].shape[1]}, expected {width}"
                )
        return branches

    async def _struct(self, request: Request, struct: type[S]) -> S:
        _check_type(request, JSON)
        data = b""
        async for chunk in self._chunks(request):
            data += chunk
            if len(data) > MAX_JSON_BYTES:
                raise Refused(413, f"more than {MAX_JSON_BYTES} bytes of JSON")
        try:
            return msgspec.json.decode(data, type=struct)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(400, str(error)) from None

    async def _tensors(self, request: Request, check: Callable[[Header], None]) -> Body:
        _check_type(request, TENSORS)
        length = request.headers.get("content-length")
        if length is None or not length.isdigit():
            raise Refused(411, "a body of tensors needs its Content-Length")
        if int(length) > self._max_body_bytes:
            raise Refused(413, f"a body of {length} bytes, expected at most {self._max_body_bytes}")
        reader = Reader(self._chunks(request), self._max_body_bytes)
        body = await reader.body(check, int(length))
        if body is None:
            raise Refused(400, "there is no body")
        await reader.ended()
        return body

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        stream = request.stream()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(stream, None), self._chunk_seconds)
            except TimeoutError:
                raise Refused(408, "the body comes too slowly") from None
            if chunk is None:
                return
            self.metrics.received(len(chunk))
            yield chunk


def _json(struct: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(struct), media_type=JSON)


def _refusal(status: int, text: str, missing: tuple[str, ...] = (), after: int = 0) -> Response:
    data = msgspec.json.encode(Refusal(error=text, missing=list(missing)))
    # what of the body was not read is not taken for the next request
    headers = {"Connection": "close"} if status in (408, 411, 413) else {}
    if after:
        headers["Retry-After"] = str(after)
    return Response(data, status, headers, JSON)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _refusal(status, "there is no such operation here; GET /openapi.json lists them")


def _check_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip()
    if given != wanted:
        raise Refused(415, f"the body is {given[:80] or 'of no type'}, expected {wanted}")


def _expect_floats(header: Header, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    expect(header, {name: (_FLOATS, shape) for name, shape in shapes.items()})


def _pieces(parts: list[memoryview]) -> Iterator[bytes]:
    for part in parts:
        for start in range(0, len(part), 1 << 20):
            yield bytes(part[start : start + (1 << 20)])


def _device(served: Served) -> torch.device:
    from engine.dtypes import torch_device

    return torch_device(served.part.device)
