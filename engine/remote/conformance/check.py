"""All checks, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2 as httpx

from engine.remote.conformance import any_server, kinds
from engine.remote.conformance.asking import Check, Server, Wrong
from engine.remote.contract import one_line
from engine.remote.hosts import certificates, host_at, token_of
from engine.remote.wire import BadBody

WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Finding:
    """name: what is to be so. wrong: what is instead, "" where it is so."""

    name: str
    wrong: str = ""


def check(url: str, seconds: float = WAIT_SECONDS) -> list[Finding]:
    """All that could be checked: after a check without which the others make no sense, no more.

    url: as of `checked_url`. seconds: for which an answer is waited. Raises ComponentError where a token or
    certificate that belongs to the address cannot be had.
    """
    known = host_at(url)
    # http shows no certificate
    verify: Any = (
        certificates(known.ca_file) if known and known.ca_file else url.startswith("https:")
    )
    token = token_of(known)

    async def run() -> list[Finding]:
        async with httpx.AsyncClient(
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=seconds,
            # a server may close a connection after each answer: that is not what is checked
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            return await _findings(Server(url, client, token))

    return asyncio.run(run())


async def _findings(server: Server) -> list[Finding]:
    found = []
    for name, run in (
        ("answers GET /health", partial(any_server.health, server)),
        ("tells in GET /fingerprint what it serves", partial(any_server.tells, server)),
    ):
        found.append(await _found(name, run))
        if found[-1].wrong:
            return found
    checks: list[Check] = [
        (
            "says what it does not have by a status and a line of JSON",
            partial(any_server.unknown, server),
        ),
        ("refuses what a page of a browser sends", partial(any_server.page, server)),
        ("refuses who does not know its token", partial(any_server.no_token, server))
        if server.token
        else ("refuses to be called by another name", partial(any_server.other_host, server)),
        ("answers GET /health while a request comes in", partial(any_server.beside, server)),
    ]
    for kind, of_kind in kinds.CHECKS.items():
        if kind in server.fingerprint.components:
            checks += [
                (f"{kind}: refuses requests for another one", partial(any_server.another, server, kind)),
                (f"{kind}: refuses bodies that are too large, unread", partial(any_server.large, server, kind)),
                (f"{kind}: refuses what is no body of it", partial(any_server.nonsense, server, kind)),
                *of_kind(server),
            ]  # fmt: skip
    checks.append(("answers as before after all that", partial(any_server.health, server)))
    return [*found, *[await _found(name, run) for name, run in checks]]


async def _found(name: str, run: Callable[[], Awaitable[None]]) -> Finding:
    try:
        await run()
    except (Wrong, BadBody) as error:
        return Finding(name, one_line(str(error)))
    return Finding(name)
