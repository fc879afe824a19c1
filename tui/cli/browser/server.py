"""The app in a browser: textual-serve's server behind an address that only its reader knows.

Every web page that is open in a browser can ask the loopback address for things, and send keys through a WebSocket
that it opens. So each request must come with the token in its path, under a Host that names this machine (or a page
whose name was led here would count as ours), and from no page but our own. That loads nothing from elsewhere.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web
from textual_serve.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TOKEN_BYTES = 32
# Ours instead of textual-serve's, which loads a font from elsewhere and knows no token.
_PAGE = Path(__file__).resolve().parent / "page"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self' 'unsafe-inline'",
            "font-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes one that is free. Raises OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    return host == "localhost" or (_address(host) is not None and _is_loopback(host))


def serve(listener: socket.socket, host: str, token: str) -> None:
    """Serve the app until SIGINT or SIGTERM; each page that is opened is an app of its own."""
    web.run_app(
        _Server(host, token).make(),
        sock=listener,
        access_log=None,  # it would hold the token
        print=lambda *_: None,
    )


def new_token() -> str:
    return secrets.token_urlsafe(_TOKEN_BYTES)


class _Server(Server):  # type: ignore[misc]
    """host: what it listens at, which a Host may name beside this machine's own names."""

    def __init__(self, host: str, token: str) -> None:
        # what is started for each page is this very package
        search = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        command = shlex.join([sys.executable, "-P", "-m", "tui.cli"])
        super().__init__(command, title="modiff")
        self._listens_at = host
        self._token = token

    def make(self) -> web.Application:
        inner = web.Application()
        inner.add_routes(
            [
                web.get("/", self.handle_index, name="index"),
                web.get("/ws", self.handle_websocket, name="websocket"),
                web.get("/download/{key}", self.handle_download, name="download"),
                web.static("/static", self.statics_path, name="static"),
                web.static("/page", _PAGE, name="page"),
            ]
        )
        outer = web.Application(middlewares=[_guard(self._refusal)])
        outer.on_response_prepare.append(_add_headers)
        outer.add_subapp(f"/{self._token}", inner)
        return outer

    def _refusal(self, request: web.Request) -> str:
        host = request.headers.get("Host", "")
        if not _names_us(_name_in(host), self._listens_at):
            return "this Host is not served here"
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        origin = request.headers.get("Origin")
        if origin is None and is_socket:
            return "a WebSocket needs an Origin"
        if origin is not None and urlsplit(origin).netloc != host:
            return "another page may not use this one"
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return "open the address that `modiff web` printed"
        return ""

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(_PAGE / "index.html")


def _guard(refusal: Callable[[web.Request], str]) -> Any:
    """A middleware that answers what is refused with the reason."""

    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if reason := refusal(request):
            raise web.HTTPForbidden(text=f"{reason}\n")
        return await handler(request)

    return web.middleware(guarded)


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _name_in(host: str) -> str:
    """The name or address in a Host, without its port; "" where it is no Host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _names_us(name: str, listens_at: str) -> bool:
    """A name that somebody else gave this machine is none of its own; an address cannot be led elsewhere."""
    if name in ("localhost", listens_at.lower()):
        return True
    if is_loopback(listens_at):
        return _is_loopback(name)
    return _address(name) is not None or name == socket.gethostname().lower()


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
