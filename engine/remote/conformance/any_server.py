"""What holds for every server, whatever it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from engine.remote.conformance.asking import Server, Unanswered, Wrong, decoded, refused
from engine.remote.conformance.sent import good_body, overlapping, renamed, request_of
from engine.remote.contract import (
    CONTRACT,
    EXPECTS,
    FACTS,
    MAX_JSON_BYTES,
    Fingerprint,
    Health,
    path_of,
    wrong_in,
)

HEALTH_SECONDS = 10.0
PAUSE_SECONDS = 0.05  # between two pieces of a body


async def health(server: Server) -> None:
    decoded(await server.ask("GET", path_of("health")), Health)


async def tells(server: Server) -> None:
    said = await server.ask("GET", path_of("fingerprint"))
    server.fingerprint = decoded(said, Fingerprint)
    if server.fingerprint.contract != CONTRACT:
        raise Wrong(f"speaks contract {server.fingerprint.contract}, expected {CONTRACT}")
    if server.fingerprint.max_body_bytes < 1024:
        raise Wrong(f"max_body_bytes is {server.fingerprint.max_body_bytes}, expected 1024 or more")
    known = {k: v for k, v in server.fingerprint.components.items() if k in FACTS}
    if not known:
        raise Wrong(f"serves none of {', '.join(FACTS)}")
    for kind, told in known.items():
        if wrong := wrong_in(kind, told):
            raise Wrong(f"{kind}: {wrong}")


async def unknown(server: Server) -> None:
    refused(await server.ask("GET", "/there-is-no-such-path"), 404)


async def page(server: Server) -> None:
    said = await server.ask("GET", path_of("health"), headers={"Origin": "http://evil.example"})
    refused(said, 403)


async def other_host(server: Server) -> None:
    said = await server.ask("GET", path_of("health"), headers={"Host": "evil.example"})
    refused(said, 403)


async def no_token(server: Server) -> None:
    for authorization in ("", "Bearer wrong"):
        said = await server.ask("GET", path_of("health"), headers={"Authorization": authorization})
        refused(said, 401)


async def beside(server: Server) -> None:
    kind = next(kind for kind in FACTS if kind in server.fingerprint.components)
    path, content_type = request_of(kind)
    wrong = []

    async def slowly() -> AsyncIterator[bytes]:
        yield b" "
        try:
            await asyncio.wait_for(health(server), HEALTH_SECONDS)
        except (TimeoutError, Wrong) as error:
            wrong.append(f"no answer within {HEALTH_SECONDS:g} s: {error}".rstrip(": "))
        yield b" " * 9

    headers = {"Content-Type": content_type, "Content-Length": "10", **server.expects(kind)}
    await server.ask("POST", path, slowly(), headers)
    if wrong:
        raise Wrong(wrong[0])


async def another(server: Server, kind: str) -> None:
    path, content_type = request_of(kind)
    for expects in ({EXPECTS: "0" * 64}, {}):
        headers = {"Content-Type": content_type, **expects}
        refused(await server.ask("POST", path, good_body(kind), headers), 412)


async def large(server: Server, kind: str) -> None:
    path, content_type = request_of(kind)
    most = MAX_JSON_BYTES if kind == "text_encoder" else server.fingerprint.max_body_bytes

    async def begun() -> AsyncIterator[bytes]:
        # who closes the connection on it is noticed by the next piece
        for _ in range(round(HEALTH_SECONDS / PAUSE_SECONDS)):
            yield b" " * 1000
            await asyncio.sleep(PAUSE_SECONDS)
        raise Wrong("waits for a body that it has to refuse by its length")

    headers = {
        "Content-Type": content_type,
        "Content-Length": str(most + 10_000_000_000),
        **server.expects(kind),
    }
    try:
        said = await server.ask("POST", path, begun(), headers)
    except Unanswered:
        return  # closing the connection on it is an answer too
    refused(said, 413)


async def nonsense(server: Server, kind: str) -> None:
    path, content_type = request_of(kind)
    cases = {"nothing": b"", "zeros": bytes(64), "text": b"prompt"}
    if kind == "text_encoder":
        cases |= {"another JSON": b'{"prompt": 1}', "a list": b"[]"}
    else:
        good = good_body(kind)
        length = int.from_bytes(good[:8], "little")
        cases |= {
            "a header that never ends": b"\xff" * 8 + good[8:],
            "a body cut short": good[:-4],
            "a body with more behind it": good + b"more",
            "another name of the tensor": renamed(good),
            "tensors that overlap": overlapping(),
            "numbers that are not finite": good[: 8 + length] + b"\xff" * (len(good) - 8 - length),
        }  # fmt: skip
    for name, data in cases.items():
        headers = {"Content-Type": content_type, **server.expects(kind)}
        said = await server.ask("POST", path, data, headers)
        try:
            refused(said, 400, 409, 411, 413)
        except Wrong as error:
            raise Wrong(f"{name}: {error}") from None
