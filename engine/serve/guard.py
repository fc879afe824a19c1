"""Who may ask: every request is looked at before anything of it is read.

Any web page that a browser has open can send requests to the loopback address, under a name of its own that it makes
lead here. So requests must name this machine as their Host, unless a token tells who asks; none may come from a page.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

Scope = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Guard:
    """An ASGI app in front of another. token: that must be sent, empty for none; host: that is listened at.
    refused: called with the status."""

    app: App
    token: str
    host: str
    refused: Callable[[int], None] = lambda status: None

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, why = refusal
        self.refused(status)
        # nothing of the body is read, not even to be thrown away
        headers = {"Connection": "close"}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        await JSONResponse({"error": why}, status, headers)(scope, receive, send)

    def _refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if "origin" in headers:
            return 403, "pages of a browser are not served"
        if self.token:
            given = headers.get("authorization", "")
            # in constant time, so that the answer tells nothing of how much was right
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                return 401, (
                    "this server needs its token: `modiff hosts add NAME URL --token-file FILE` makes it known"
                )
        elif hostname(headers.get("host", "")) not in (*LOOPBACK, self.host):
            return 403, "this Host is not served here"
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "a compressed body is not read"
        return None


def hostname(host: str) -> str:
    """The name in a Host header, without its port, in small letters."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
