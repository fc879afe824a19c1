"""The HTTP side of a server: what each operation of the contract does."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec
import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from engine.environment import environment, set_few_threads
from engine.fit.out_of_memory import out_of_memory_explained
from engine.models.seams import At
from engine.process.version import installed_version
from engine.remote.contract import (
    CONDITIONS,
    CONTRACT,
    ENVIRONMENT,
    EXPECTS,
    JSON,
    MAX_IMAGE_TOKENS,
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
    condition_shape,
)
from engine.remote.wire import BadBody, Body, encoded, expect, metadata_of
from engine.serve.bodies import finite, json_body, tensor_body
from engine.serve.conditions import Conditions
from engine.serve.guard import Guard
from engine.serve.incoming import CHUNK_SECONDS, Incoming
from engine.serve.metrics import Metrics
from engine.serve.openapi import openapi
from engine.serve.refusals import Refused, answer_to, refusal
from engine.serve.served import Gone, Served
from engine.serve.streaming import Parts, Streamed, in_chunks, watched
from store.blobs.tensors import Header

_FLOATS = ("F32", "F16", "BF16")
_MOST_ROWS = {"text": MAX_TOKENS, "image": MAX_IMAGE_TOKENS}
T = TypeVar("T")
Handler = Callable[[Request, Incoming], Awaitable[Response]]


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
        self._conditions = Conditions(max_body_bytes)

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
            takes = [each for each in CONDITIONS if each in _takes(served)]
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
            body = await tensor_body(request, hashed(), check, self._max_body_bytes)
        condition = finite(body, "condition")
        if digest.hexdigest() != request.path_params["digest"]:
            raise Refused(
                400, f"the body has the digest {digest.hexdigest()}, not that of its path"
            )
        self._conditions.put(digest.hexdigest(), body.metadata(Condition).name, condition)
        return Response(status_code=204)

    async def _encode_image(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "image_encoder")

        def check(header: Header) -> None:
            count = len(header.tensors)
            if not 1 <= count <= MAX_PICTURES:
                raise BadBody(f"the body has {count} pictures, expected 1 to {MAX_PICTURES}")
            names = [f"picture.{index}" for index in range(count)]
            expect(header, dict.fromkeys(names, (("F32",), (3, None, None))))

        def tokens(component: Any) -> dict[str, Tensor]:
            pictures = [finite(body, f"picture.{index}") for index in range(len(body.tensors))]
            return {"tokens": component.encode(pictures)}

        with served.place():
            body = await tensor_body(request, incoming, check, self._max_body_bytes)
            return await self._answer(request, served, tokens)

    async def _encode_text(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "text_encoder")
        with served.place():
            prompt = (await json_body(request, incoming, Prompt)).prompt
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
            body = await tensor_body(request, incoming, check, self._max_body_bytes)
            asked = body.metadata(Denoise)
            branches = self._conditions.of_branches(
                asked, _takes(served), body.header.tensors["x"].shape[2:]
            )
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
                x, timestep = finite(body, "x"), finite(body, "timestep")
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
            body = await tensor_body(request, incoming, check, self._max_body_bytes)
            return await self._answer(
                request,
                served,
                lambda component: {"latents": component.encode(finite(body, "video"))},
            )

    async def _vae_decode(self, request: Request, incoming: Incoming) -> Response:
        served = self._expected(request, "vae")
        shape = (1, served.about.facts["latent_channels"], None, None, None)
        with ExitStack() as stack:
            stack.enter_context(served.place())
            body = await tensor_body(
                request,
                incoming,
                lambda header: expect(header, {"latents": (("F32",), shape)}),
                self._max_body_bytes,
            )
            is_small = SMALL in request.headers
            # the place is held until the work ends
            parts = Parts(served, lambda put: _decode(served, body, is_small, put), stack.pop_all())
        async with watched(request, parts.leave):
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
        return Streamed(parts, first, self.metrics.sent, headers)

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
                response = answer_to(error)
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
        response = refusal(
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

        async with watched(request, leave):
            await asyncio.wait({working})
        if working.cancelled():
            raise Gone
        parts, where = working.result()
        num_bytes = sum(map(len, parts))
        self.metrics.sent(num_bytes)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in in_chunks(parts):
                yield piece

        headers = {ENVIRONMENT: where, "Content-Length": str(num_bytes)}
        return StreamingResponse(pieces(), media_type=TENSORS, headers=headers)


def _decode(
    served: Served, body: Body, is_small: bool, put: Callable[[list[memoryview]], None]
) -> None:
    def on_chunk(done: int, total: int) -> None:
        put(encoded({}, Progress(done=done, total=total)))

    set_few_threads(is_small)
    with out_of_memory_explained("decode"), torch.no_grad():
        for frames in served.component.decode(finite(body, "latents"), on_chunk=on_chunk):
            put(encoded({"frames": frames}, Progress()))
    put(encoded({}, Progress(is_last=True)))


def _json(struct: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(struct), media_type=JSON)


def _device(served: Served) -> torch.device:
    from engine.dtypes import torch_device

    return torch_device(served.part.device)


def _takes(served: Served) -> Sequence[str]:
    """The names of the conditions that a denoiser takes."""
    takes: Sequence[str] = served.about.facts.get("takes", ["text"])
    return takes
