"""Bytes of connections, read by a server of components: everything that is to be done with them, but no network."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h11
import msgspec
import torch
from uvicorn import Config
from uvicorn.server import ServerState

from engine.remote import wire
from engine.remote.contract import EXPECTS, JSON, TENSORS, Call, Condition, Denoise
from engine.remote.wire import encoded
from engine.serve.app import Server
from engine.serve.connection import Connection
from tests.fuzz import mutating
from tests.fuzz.running import Fault
from tests.servers.toy_server import (
    CHANNELS,
    GIVEN_CHANNELS,
    IMAGE_DIM,
    IMAGE_TOKENS,
    TEXT_DIM,
    Toys,
    served_toys,
)

MAX_BODY = 1 << 20
# In real time: what of a body does not come is waited for so long.
CHUNK_SECONDS = 0.005
ANSWER_SECONDS = 30.0
TOKEN = "0123456789abcdef"


_MORE = (
    "Origin: null", "Content-Encoding: gzip", "Connection: close", "Expect: 100-continue", "X-Modiff-Small: 1",
    "Upgrade: websocket\r\nConnection: Upgrade", "Transfer-Encoding: gzip",
)  # fmt: skip
_PATHS = (" //", " /../", " /%00", " /x?", " *", " http://evil/")
_METHODS = ("HEAD", "DELETE", "CONNECT", "PUT", "get")


def make(folder: Path) -> Callable[[Random, Path], str]:
    limit_memory(MAX_BODY)
    logging.disable()
    loop = asyncio.new_event_loop()
    apps = [guarded(""), guarded(TOKEN)]

    def attempt(random: Random, place: Path) -> str:
        server, app = random.choices(apps, (9, 1))[0]
        data = _connection(random, server)
        answer = loop.run_until_complete(_answered(app, data, random))
        left = asyncio.all_tasks(loop)
        if left:
            raise Fault(f"{len(left)} tasks are left")
        if any(each.places for each in server.served.values()):
            raise Fault("a place in the queue is held by nobody")
        return _reason(answer, is_head=data[:4].upper() == b"HEAD")

    return attempt


def guarded(token: str) -> tuple[Server, Any]:
    served = served_toys(Toys(), of_pictures=True)
    server = Server(served, max_body_bytes=MAX_BODY, chunk_seconds=CHUNK_SECONDS)
    return server, server.guarded(token, "127.0.0.1")


def limit_memory(most: int) -> None:
    """Whatever is asked for, no more memory is taken for a body at once."""
    take = wire._memory

    def counted(num_bytes: int) -> memoryview:
        if num_bytes > most:
            raise Fault(f"takes {num_bytes} bytes, more than {most}")
        return take(num_bytes)

    wire._memory = counted


def requests(server: Server) -> list[tuple[str, str, str, bytes]]:
    """Good ones: method, path, kind and body."""
    x = torch.linspace(-1, 1, CHANNELS * 2 * 4 * 4).reshape(1, CHANNELS, 2, 4, 4)
    shapes = {
        "text": (3, TEXT_DIM), "image": (IMAGE_TOKENS, IMAGE_DIM), "latents": (GIVEN_CHANNELS, 2, 4, 4)
    }  # fmt: skip
    conditions = [
        b"".join(encoded({"condition": torch.ones(shape)}, Condition(name=name)))
        for name, shape in shapes.items()
    ]
    digests = dict(zip(shapes, map(_digest, conditions), strict=True))
    pictures = {"picture.0": torch.zeros(3, 5, 4), "picture.1": torch.ones(3, 4, 7)}
    wanted = Denoise(
        branches={"positive": digests, "negative": digests},
        calls=[
            Call(step=1, total=4, sigma=0.5, branch="positive"),
            Call(step=1, total=4, sigma=0.5, branch="negative", window=[0, 1]),
        ],
    )
    prompt = json.dumps({"prompt": "a red circle"}).encode()
    return [
        *(("PUT", f"/conditions/{_digest(each)}", "denoiser", each) for each in conditions),
        ("POST", "/encode-text", "text_encoder", prompt),
        ("POST", "/encode-image", "image_encoder", b"".join(encoded(pictures))),
        ("POST", "/denoise", "denoiser", b"".join(encoded({"x": x, "timestep": torch.tensor([9])}, wanted))),
        ("POST", "/vae/encode", "vae", b"".join(encoded({"video": torch.zeros(1, 3, 5, 8, 8)}))),
        ("POST", "/vae/decode", "vae", b"".join(encoded({"latents": x}))),
        *(("GET", path, "vae", b"") for path in ("/health", "/fingerprint", "/metrics", "/openapi.json")),
    ]  # fmt: skip


def _digest(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _connection(random: Random, server: Server) -> bytes:
    """The bytes of one or two requests, of which something is wrong."""
    data = b"".join(_request(random, server) for _ in range(random.choice((1, 1, 1, 2))))
    if random.random() < 0.15:
        data = mutating.of_bytes(random, data, within=500)
    return data[: random.randrange(len(data) + 1)] if random.random() < 0.05 else data


def _request(random: Random, server: Server) -> bytes:
    method, path, kind, body = random.choice(requests(server))
    if body and random.random() < 0.7:
        change = mutating.of_json if kind == "text_encoder" else mutating.of_safetensors
        body = change(random, body)
    headers = {
        "Host": "127.0.0.1:80",
        EXPECTS: server.served[kind].told.digest,
        "Content-Type": JSON if kind == "text_encoder" else TENSORS,
    }
    if random.random() < 0.9:
        headers["Authorization"] = f"Bearer {TOKEN}"
    if body or random.random() < 0.1:
        headers["Content-Length"] = str(len(body))
    if body and random.random() < 0.1:
        del headers["Content-Length"]
        headers["Transfer-Encoding"] = "chunked"
        pieces = [body[i : i + 50] for i in range(0, len(body), 50)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if random.random() < 0.3:
        lines = _other_lines(random, lines)
    head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
    return head + body


def _other_lines(random: Random, lines: list[str]) -> list[str]:
    place = random.randrange(1, len(lines))
    name = lines[place].partition(":")[0]
    match random.randrange(7):
        case 0:
            del lines[place]
        case 1:
            lines.append(lines[place])
        case 2:
            lines.append(random.choice(_MORE))
        case 3:
            lines[place] = f"{name}: {random.choice(mutating.NUMBERS)}"
        case 4:
            lines[0] = lines[0].replace(" /", random.choice(_PATHS), 1)
        case 5:
            _, _, rest = lines[0].partition(" ")
            lines[0] = f"{random.choice(_METHODS)} {rest}"
        case _:
            text = mutating.of_text(random, lines[place].encode())[:100_000]
            lines[place] = text.decode("latin-1").replace("\n", "")
    return lines


class _Transport(asyncio.Transport):
    """What whoever sent the bytes would read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"socket": self, "peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})  # fmt: skip
        self.loop = loop
        self.written = bytearray()
        self.protocol: Any = None
        self.is_over = False
        self.paused = False

    def setsockopt(self, *option: Any) -> None:
        pass

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    getsockname = getpeername

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.is_over

    def close(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def _answered(app: Any, data: bytes, random: Random) -> bytes:
    """What a connection that sends these bytes, in pieces, is answered until nothing more is done for it."""
    loop = asyncio.get_running_loop()
    config = Config(app, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    protocol = Connection(config, state, {}, loop)
    transport = _Transport(loop)
    transport.protocol = protocol
    protocol.connection_made(transport)
    size = random.choice((1 << 16, 1 << 16, 1000, 77))
    for start in range(0, len(data), size):
        while transport.paused and not transport.is_over:  # noqa: ASYNC110  # uvicorn tells nobody
            await asyncio.sleep(0)
        if transport.is_over:
            break
        protocol.data_received(data[start : start + size])
        await asyncio.sleep(0)
    leaves = random.random() < 0.1
    async with asyncio.timeout(ANSWER_SECONDS):
        while state.tasks and not leaves:
            await asyncio.wait(state.tasks)
            await asyncio.sleep(0)
        transport.close()
        while state.tasks:
            await asyncio.wait(state.tasks)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        await asyncio.sleep(0)
    return bytes(transport.written)


def _reason(answer: bytes, *, is_head: bool) -> str:
    """Of the first answer: why it refuses, "" where it does not; "left" where there is none."""
    if not answer:
        return "there was no answer"
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="HEAD" if is_head else "GET", target="/", headers=[("Host", "x")]))  # fmt: skip
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    client.receive_data(b"")
    status, content_type, body = 0, "", b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
                content_type = dict(event.headers).get(b"content-type", b"").decode()
            elif isinstance(event, h11.Data):
                body += event.data
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                break
    except h11.RemoteProtocolError:
        return "the answer was not waited for"
    if status < 400 or is_head:
        return ""
    if status >= 500:
        raise Fault(f"status {status}: {body[:300]!r}")
    if content_type != JSON:
        raise Fault(f"a refusal that is {content_type}: {body[:300]!r}")
    told = msgspec.json.decode(body, type=dict[str, Any])["error"]
    if not told:
        raise Fault(f"status {status} without a reason")
    return str(told)
