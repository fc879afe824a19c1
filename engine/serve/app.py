"""The HTTP side of a server: what each operation of the contract does."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec
import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from engine.environment import environment, set_few_threads
from engine.errors import EngineError
from engine.fit.out_of_memory import out_of_memory_explained
from engine.models.seams import At
from engine.process.version import installed_version
from engine.remote.contract import (
    CONDITIONS,
    CONTRACT,
    ENVIRONMENT,
    EXPECTS,
    JSON,
    MAX_CONDITIONS,
    MAX_IMAGE_TOKENS,
    MAX_JSON_BYTES,
    MAX_PICTURES,
    MAX_TOKENS,
    OPERATIONS,
    SMALL,
    TENSORS,
    Condition,
    Denoise,
    Fingerprint,
    Health,
    Progress,
    Prompt,
    Refusal,
    condition_shape,
    one_line,
)
from engine.remote.wire import BadBody, Body, Reader, encoded, expect, metadata_of
from engine.serve.guard import Guard
from engine.serve.incoming import CHUNK_SECONDS, Incoming, Slow
from engine.serve.metrics import Metrics
from engine.serve.openapi import openapi
from engine.serve.served import Busy, Gone, Served, refusal_of
from store.blobs.tensors import Header

_POLL_SECONDS = 0.1
# Of a streamed answer: parts that wait for whoever asked to take them.
_PARTS_AHEAD = 2
_FLOATS = ("F32", "F16", "BF16")
_MOST_ROWS = {"text": MAX_TOKENS, "image": MAX_IMAGE_TOKENS}

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")
Handler = Callable[[Request, Incoming], Awaitable[Response]]
Part = list[memoryview] | Exception | None


class Refused(Exception):
    """status, and what is wrong. missing: digests of conditions."""

    def __init__(self, status: int, text: str, *, missing: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.missing = missing


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
        # conditions that were sent, with their names, the least recently used first
        self._conditions: OrderedDict[str, tuple[str, Tensor]] = OrderedDict()

    def app(self) -> Starlette:
        """The ASGI app: the operations whose component is served."""
        routes = [
            Route(
                each.path,
                self._told(each.path, getattr(self, f"_{each.name}")),
                methods=[each.method],
            )
            for each in OPERATIONS
            if not each.component or each.component in self.served
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route})
        app.router.redirect_slashes = False
        return app

    def guarded(self, token: str, host: str) -> Guard:
        """The same behind its guard, as `Guard` says."""
        return Guard(self.app(), token, host, lambda status: self.metrics.answered("", status, 0.0))

    # Operations

    async def _health(self, request: Request, incoming: Incoming) -> Response:
        return _json(
            Health(
                contract=CONTRACT,
                version=installed_version(),
                components={kind: each.load for kind, each in self.served.items()},
            )
        )

    async def _fingerprint(self, request: Request, incoming: Incoming) -> Response:
        return _json(
            Fingerprint(
                contract=CONTRACT,
                components={kind: each.told for kind, each in self.served.items()},
                max_body_bytes=self._max_body_bytes,
            )
        )

    async def _openapi(self, request: Request, incoming: Incoming) -> Response:
        return JSONResponse(openapi())

    async def _metrics(self, request: Request, incoming: Incoming) -> Response:
        return Response(self.metrics.text(self.served), media_type="text/plain; version=0.0.4")

    async def _condition(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "denoiser")
        facts = served.about.facts

        def check(header: Header) -> None:
            name = metadata_of(header, Condition).name
            takes = [each for each in CONDITIONS if each in facts.get("takes", ["text"])]
            if name not in takes:
                raise BadBody(f"it takes no condition {name!r}, expected {' or '.join(takes)}")
            expect(header, {"condition": (_FLOATS, condition_shape(name, facts))})
            num_rows = header.tensors["condition"].shape[0]
            if num_rows > (most := _MOST_ROWS.get(name, num_rows)):
                raise BadBody(f"condition has {num_rows} rows, expected at most {most}")

        digest = hashlib.sha256()

        async def hashed() -> AsyncIterator[bytes]:
            async for chunk in incoming:
                digest.update(chunk)
                yield chunk

        with served.place():
            body = await self._tensors(request, hashed(), check)
        condition = _finite(body, "condition")
        if digest.hexdigest() != request.path_params["digest"]:
            raise Refused(
                400, f"the body has the digest {digest.hexdigest()}, not that of its path"
            )
        self._conditions[digest.hexdigest()] = body.metadata(Condition).name, condition
        self._conditions.move_to_end(digest.hexdigest())
        while len(self._conditions) > MAX_CONDITIONS or self._are_large():
            self._conditions.popitem(last=False)
        return Response(status_code=204)

    def _are_large(self) -> bool:
        """Whether conditions take more than those of one request may: a body's worth, and what is beside it."""
        taken = sum(condition.nbytes for _, condition in self._conditions.values())
        return taken > 2 * self._max_body_bytes

    async def _encode_image(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "image_encoder")

        def check(header: Header) -> None:
            count = len(header.tensors)
            if not 1 <= count <= MAX_PICTURES:
                raise BadBody(f"the body has {count} pictures, expected 1 to {MAX_PICTURES}")
            names = [f"picture.{index}" for index in range(count)]
            expect(header, dict.fromkeys(names, (("F32",), (3, None, None))))

        def tokens(component: Any) -> dict[str, Tensor]:
            pictures = [_finite(body, f"picture.{index}") for index in range(len(body.tensors))]
            return {"tokens": component.encode(pictures)}

        with served.place():
            body = await self._tensors(request, incoming, check)
            return await self._answer(request, served, tokens)

    async def _encode_text(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "text_encoder")
        with served.place():
            prompt = (await self._struct(request, incoming, Prompt)).prompt
            return await self._answer(
                request, served, lambda component: {"states": component.encode(prompt)}
            )

    async def _denoise(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "denoiser")
        channels = served.about.facts["latent_channels"]
        patch = served.about.facts.get("patch_size", (1, 1, 1))

        def check(header: Header) -> None:
            shape = (1, channels, None, None, None)
            expect(header, {"x": (("F32",), shape), "timestep": (("I64", "F32"), (1,))})
            size = header.tensors["x"].shape[2:]
            if any(length % step for length, step in zip(size, patch, strict=True)):
                raise BadBody(f"x is {size} large, expected a multiple of {list(patch)}")

        with served.place():
            body = await self._tensors(request, incoming, check)
            asked = body.metadata(Denoise)
            branches = self._branches(asked, served, body.header.tensors["x"].shape[2:])
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

            def velocities(component: Any) -> dict[str, Tensor]:
                x, timestep = _finite(body, "x"), _finite(body, "timestep")
                with component.begin(branches) as predict:
                    found = predict(x, timestep, ats)
                return {
                    f"velocity.{index}": velocity.to(torch.float32)
                    for index, velocity in enumerate(found)
                }

            return await self._answer(request, served, velocities)

    async def _vae_encode(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "vae")
        stride = served.about.facts["latent_stride"]

        def check(header: Header) -> None:
            expect(header, {"video": (("F32",), (None, 3, None, None, None))})
            frames, rows, columns = header.tensors["video"].shape[2:]
            if (frames - 1) % stride[0] or rows % stride[1] or columns % stride[2]:
                raise BadBody(
                    f"video has {frames} frames of {columns} x {rows}, expected 1 more than a multiple of {stride[0]} "
                    f"of a multiple of {stride[2]} x {stride[1]}"
                )

        with served.place():
            body = await self._tensors(request, incoming, check)
            return await self._answer(
                request,
                served,
                lambda component: {"latents": component.encode(_finite(body, "video"))},
            )

    async def _vae_decode(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "vae")
        shape = (1, served.about.facts["latent_channels"], None, None, None)
        with ExitStack() as stack:
            stack.enter_context(served.place())
            body = await self._tensors(
                request, incoming, lambda header: expect(header, {"latents": (("F32",), shape)})
            )
            is_small = SMALL in request.headers
            # the place is held until the work ends
            parts = _Parts(
                served, lambda put: _decode(served, body, is_small, put), stack.pop_all()
            )
        async with _watched(request, parts.leave):
            # the first part before the status is said, so that what fails at once has one of its own
            try:
                first = await parts.next()
            except BaseException:  # also where it is cancelled: the component works for nobody then
                parts.leave()
                raise
        if first is None:
            raise Gone
        if isinstance(first, Exception):
            raise first
        headers = {ENVIRONMENT: environment(_device(served))}
        return _Streamed(parts, first, self.metrics.sent, headers)

    # What they share

    def _told(self, path: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """With every refusal as JSON, and counted."""

        async def told(request: Request) -> Response:
            begun = time.perf_counter()
            incoming = Incoming(
                request, chunk_seconds=self._chunk_seconds, received=self.metrics.received
            )
            try:
                response = await handler(request, incoming)
            except Exception as error:  # noqa: BLE001  # no stack trace reaches a user
                response = _refusal_of(error)
                if response.status_code not in (408, 413, 499):
                    await incoming.thrown_away(self._max_body_bytes)
            if not incoming.is_whole:
                # what of the body was not read is not taken for the next request
                response.headers["Connection"] = "close"
            self.metrics.answered(path, response.status_code, time.perf_counter() - begun)
            return response

        return told

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        response = _refusal(
            status, "there is no such operation here; GET /openapi.json lists those that there are"
        )
        if not Incoming(request).is_whole:
            response.headers["Connection"] = "close"
        self.metrics.answered("", status, 0.0)
        return response

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
        self, request: Request, served: Served, do: Callable[[Any], Mapping[str, Tensor]]
    ) -> Response:
        is_small = SMALL in request.headers
        gone = threading.Event()

        def work() -> tuple[list[memoryview], str]:
            set_few_threads(is_small)
            with out_of_memory_explained(served.kind), torch.no_grad():
                tensors = do(served.component)
                return encoded(tensors), environment(_device(served))

        working = asyncio.create_task(served.work(work, gone))

        def leave() -> None:
            gone.set()
            working.cancel()

        async with _watched(request, leave):
            await asyncio.wait({working})
        if working.cancelled():
            raise Gone
        parts, where = working.result()
        num_bytes = sum(map(len, parts))
        self.metrics.sent(num_bytes)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in _pieces(parts):
                yield piece

        headers = {ENVIRONMENT: where, "Content-Length": str(num_bytes)}
        return StreamingResponse(pieces(), media_type=TENSORS, headers=headers)

    def _branches(
        self, asked: Denoise, served: Served, size: Sequence[int]
    ) -> dict[str, dict[str, Tensor]]:
        """size: frames, rows and columns of the noisy latents."""
        wanted = {digest for named in asked.branches.values() for digest in named.values()}
        missing = tuple(sorted(wanted - self._conditions.keys()))
        if missing:
            raise Refused(409, "conditions are missing; send them first", missing=missing)
        for call in asked.calls:
            if call.branch not in asked.branches:
                raise Refused(
                    400, f"a call is for the branch {call.branch!r}, which has no conditions"
                )
            if call.step >= call.total:
                raise Refused(400, f"a call is for step {call.step} of {call.total}")
        takes = served.about.facts.get("takes", ["text"])
        for digest in sorted(wanted):
            self._conditions.move_to_end(digest)
        for branch, given in asked.branches.items():
            if given.keys() != set(takes):
                raise Refused(400, f"{branch} has the conditions {sorted(given)}, expected {takes}")
            for name, digest in given.items():
                sent_as, condition = self._conditions[digest]
                if sent_as != name:
                    raise Refused(400, f"the condition {name} of {branch} was sent as {sent_as}")
                if name == "latents" and condition.shape[1:] != tuple(size):
                    raise Refused(
                        400,
                        f"the condition latents of {branch} is {list(condition.shape[1:])} large, expected "
                        f"{list(size)}, as x is",
                    )
        return {
            branch: {name: self._conditions[digest][1] for name, digest in given.items()}
            for branch, given in asked.branches.items()
        }

    async def _struct(self, request: Request, incoming: Incoming, struct: type[S]) -> S:
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

    async def _tensors(
        self, request: Request, chunks: AsyncIterator[bytes], check: Callable[[Header], None]
    ) -> Body:
        _check_type(request, TENSORS)
        length = request.headers.get("content-length")
        if length is None or not length.isdigit():
            raise Refused(411, "a body of tensors needs its Content-Length")
        _check_length(request, self._max_body_bytes)
        reader = Reader(chunks, self._max_body_bytes)
        body = await reader.body(check, int(length))
        if body is None:
            raise Refused(400, "there is no body")
        await reader.ended()
        return body


class _Parts:
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


class _Streamed(StreamingResponse):
    """Parts as they come. sent: called with how many bytes of it are."""

    def __init__(
        self,
        parts: _Parts,
        first: Part,
        sent: Callable[[int], None],
        headers: Mapping[str, str],
    ) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            part = first
            while part is not None:
                if isinstance(part, Exception):
                    part = encoded({}, Progress(error=refusal_of(part), is_last=True))
                for piece in _pieces(part):
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


def _decode(
    served: Served, body: Body, is_small: bool, put: Callable[[list[memoryview]], None]
) -> None:
    def on_chunk(done: int, total: int) -> None:
        put(encoded({}, Progress(done=done, total=total)))

    set_few_threads(is_small)
    with out_of_memory_explained("decode"), torch.no_grad():
        for frames in served.component.decode(_finite(body, "latents"), on_chunk=on_chunk):
            put(encoded({"frames": frames}, Progress()))
    put(encoded({}, Progress(is_last=True)))


@asynccontextmanager
async def _watched(request: Request, leave: Callable[[], None]) -> AsyncIterator[None]:
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


def _finite(body: Body, name: str) -> Tensor:
    tensor = body.tensors[name]
    if not bool(tensor.isfinite().all()):
        raise BadBody(f"{name} has numbers that are not finite")
    return tensor


def _json(struct: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(struct), media_type=JSON)


def _refusal_of(error: Exception) -> Response:
    match error:
        case Refused():
            return _refusal(error.status, str(error), error.missing)
        case BadBody():
            return _refusal(error.status, str(error))
        case Slow():
            return _refusal(408, "the body comes too slowly")
        case Busy():
            return _refusal(429, "too many requests wait; try again", after=2)
        case Gone() | ClientDisconnect():
            return _refusal(499, "the connection was closed")
        case EngineError():
            return _refusal(500, str(error))
    return _refusal(500, refusal_of(error))


def _refusal(status: int, text: str, missing: tuple[str, ...] = (), after: int = 0) -> Response:
    data = msgspec.json.encode(Refusal(error=one_line(text), missing=list(missing)))
    return Response(data, status, {"Retry-After": str(after)} if after else {}, JSON)


def _check_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refused(415, f"the body is {given[:80] or 'of no type'}, expected {wanted}")


def _check_length(request: Request, most: int) -> None:
    """Before anything of a body is read, where it is announced how long it is."""
    length = request.headers.get("content-length", "0")
    if len(length) > 19 or int(length) > most:
        raise Refused(413, f"a body of {length[:40]} bytes, expected at most {most}")


def _pieces(parts: list[memoryview]) -> Iterator[bytes]:
    for part in parts:
        for start in range(0, len(part), 1 << 20):
            yield bytes(part[start : start + (1 << 20)])


def _device(served: Served) -> torch.device:
    from engine.dtypes import torch_device

    return torch_device(served.part.device)
