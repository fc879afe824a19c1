"""What a server of components answers, read by those who use it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx2 as httpx
import msgspec
import torch
from torch import Tensor

from engine.components.providers import remote
from engine.errors import ComponentError
from engine.models.seams import At
from engine.remote import client as client_module
from engine.remote.contract import MAX_BODY_BYTES
from presets.spec.components import DenoiserSpec, ImageEncoderSpec, TextEncoderSpec, VAESpec
from store.index.index import Index
from tests.fuzz import mutating
from tests.fuzz.requests import guarded, limit_memory, requests
from tests.fuzz.running import Fault

URL = "http://127.0.0.1:8765"
Recorded = tuple[int, list[tuple[bytes, bytes]], bytes]
_X = torch.linspace(-1, 1, 128).reshape(1, 4, 2, 4, 4)


_NAMES = (
    b"content-type",
    b"x-modiff-environment",
    b"content-encoding",
    b"retry-after",
    b"location",
)
_TEXTS = (
    b"gzip", b"", b"{}", b"[]", b"nan", b"1e9", b'{"a": 1, "$b": 2}', b'{"a": [1]}', b"\xff\xfe", b"x" * 5000,
    b'{"a": "\xc2\x9b"}', b'{"torch": "2.9"}',
)  # fmt: skip


def make(folder: Path) -> Callable[[Random, Path], str]:
    limit_memory(1 << 20)
    good = asyncio.run(_good())
    spoiled = _Spoiled(good)
    client = httpx.AsyncClient(transport=spoiled, trust_env=False)
    client_module._clients = lambda pid, url, ca_file: client  # type: ignore[assignment]
    index: Any = _Index()
    assert MAX_BODY_BYTES > 1 << 20

    def attempt(random: Random, place: Path) -> str:
        spoiled.random = random
        remote._recent.clear()
        try:
            random.choice((_text, _image, _denoise, _encode, _decode))(index)
        except ComponentError as error:
            return str(error)
        return ""

    return attempt


class _Index(dict[str, Any]):
    """What is remembered of servers, kept in memory alone."""

    def put(self, key: str, value: bytes) -> None:
        self[key] = value


async def _good() -> dict[str, list[Recorded]]:
    """Answers of a good server, by path; of some, refusals too."""
    server, app = guarded("")
    found: dict[str, list[Recorded]] = {}
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=URL) as client:
        asked = requests(server)
        denoise = next(each for each in asked if each[1] == "/denoise")
        for method, path, kind, body in [denoise, *asked]:
            headers = {
                "X-Modiff-Expects": server.served[kind].told.digest,
                "Content-Type": "application/json" if kind == "text_encoder" else "application/octet-stream",
            }  # fmt: skip
            answer = await client.request(method, path, content=body, headers=headers)
            key = "/conditions" if path.startswith("/conditions") else path
            told: Recorded = (answer.status_code, answer.headers.raw, answer.content)
            found.setdefault(key, []).append(told)
    return found


class _Spoiled(httpx.AsyncBaseTransport):
    """Answers of a good server of which something is wrong. They come at once, in pieces."""

    def __init__(self, good: dict[str, list[Recorded]]) -> None:
        self.good = good
        self.random = Random(0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        random = self.random
        async for _ in request.stream:  # type: ignore[union-attr]
            pass
        path = request.url.path
        known = self.good["/conditions" if path.startswith("/conditions") else path]
        status, headers, body = random.choice(known)
        if path == "/denoise" and random.random() < 0.8:
            status, headers, body = known[-1]
        if random.random() < (0.12 if path == "/fingerprint" else 0.6):
            status, headers, body = _other(random, status, headers, body)
        if random.random() < 0.02:
            raise httpx.ReadError("gone\x1b[2J\nnow")
        return httpx.Response(status, headers=headers, stream=_Pieces(random, body))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, random: Random, data: bytes) -> None:
        self.size = random.choice((1 << 16, 1000, 7))
        self.breaks = random.random() < 0.03
        self.data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.size):
            yield self.data[start : start + self.size]
        if self.breaks:
            raise httpx.ReadError("")


def _other(random: Random, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Recorded:  # fmt: skip
    way = random.random()
    if way < 0.1:
        return random.choice((200, 201, 204, 302, 400, 401, 409, 412, 418, 429, 500, 503)), headers, body  # fmt: skip
    if way < 0.2:
        name, value = random.choice(_NAMES), random.choice(_TEXTS)
        return status, [(k, v) for k, v in headers if k.lower() != name] + [(name, value)], body
    if body[:1] == b"{":
        return status, headers, _digested(random, mutating.of_json(random, body))
    if way < 0.3:
        return status, headers, body + random.choice((body, b"\0", bytes(8)))
    return status, headers, mutating.of_safetensors(random, body) if len(body) > 8 else b"x"


def _digested(random: Random, body: bytes) -> bytes:
    """What a server tells of itself, mostly with the digests that it has by that."""
    from store.keys import canonical

    try:
        told = msgspec.json.decode(body)
        for each in told["components"].values():
            digest = hashlib.sha256(canonical([each["identity"], each["facts"]])).hexdigest()
            each["digest"] = digest if random.random() < 0.9 else each["digest"]
        return msgspec.json.encode(told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return body


_OPTIONS: dict[str, Any] = {"name": "remote", "url": URL, "options": {"retries": 0}}


def _loaded(provider: remote.Provider, spec: Any, index: Index) -> Any:
    return provider.load(spec, provider.describe(spec, index))


def _text(index: Index) -> None:
    encoder = _loaded(remote.text_encoder, TextEncoderSpec(**_OPTIONS), index)
    states = encoder.encode("a red circle")
    _good_numbers(states, encoder.environment)
    if states.ndim != 2 or states.shape[1] != encoder.told.facts["text_dim"]:
        raise Fault(f"states of shape {tuple(states.shape)}")


def _image(index: Index) -> None:
    encoder = _loaded(remote.image_encoder, ImageEncoderSpec(**_OPTIONS), index)
    tokens = encoder.encode([torch.zeros(3, 5, 4), torch.ones(3, 4, 7)])
    _good_numbers(tokens, encoder.environment)
    facts = encoder.told.facts
    if tokens.shape != (2 * facts["image_tokens"], facts["image_dim"]):
        raise Fault(f"tokens of shape {tuple(tokens.shape)}")


def _denoise(index: Index) -> None:
    denoiser = _loaded(remote.denoiser, DenoiserSpec(**_OPTIONS), index)
    given = {
        "text": torch.ones(3, 8), "image": torch.ones(2, 6), "latents": torch.ones(5, 2, 4, 4)
    }  # fmt: skip
    with denoiser.begin({"positive": given, "negative": given}) as predict:
        found = predict(_X, torch.tensor([9]), [At(1, 4, 0.5, "positive"), At(1, 4, 0.5, "negative")])  # fmt: skip
    for velocity in found:
        _good_numbers(velocity, denoiser.environment)
        if velocity.shape != _X.shape:
            raise Fault(f"a velocity of shape {tuple(velocity.shape)}")


def _encode(index: Index) -> None:
    vae = _loaded(remote.vae, VAESpec(**_OPTIONS), index)
    _good_numbers(vae.encode(torch.zeros(1, 3, 5, 8, 8)), vae.environment)


def _decode(index: Index) -> None:
    vae = _loaded(remote.vae, VAESpec(**_OPTIONS), index)
    frames = list(vae.decode(_X, on_chunk=lambda done, total: None))
    for each in frames:
        _good_numbers(each, vae.environment)
    stride = vae.told.facts["latent_stride"][0]
    if sum(each.shape[2] for each in frames) != 1 + stride:
        raise Fault("another number of frames")


def _good_numbers(tensor: Tensor, environment: str) -> None:
    if not bool(tensor.isfinite().all()):
        raise Fault("numbers that are not finite")
    is_kept = environment.isprintable() and isinstance(json.loads(environment or "{}"), dict)
    if not is_kept:
        raise Fault(f"an environment that cannot be kept: {environment!r:.200}")
