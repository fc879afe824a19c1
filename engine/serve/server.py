"""A server of components as a process: where it listens, until when."""

from __future__ import annotations

import copy
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from engine.errors import ComponentError
from engine.remote.hosts import checked_token as checked
from engine.remote.hosts import is_loopback, read_token
from engine.serve.app import Server
from engine.serve.connection import Connection
from engine.serve.served import DEFAULT_WAITING, loaded
from presets.spec.run import RunSpec
from store.index.index import Index

DEFAULT_BODY_MB = 512
_IDLE_SECONDS = 75
_LEAVING_SECONDS = 5


@dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one. tls: (certificate, key) as PEM files."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: tuple[Path, Path] | None = None

    def url(self, listener: socket.socket) -> str:
        named = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{named}:{listener.getsockname()[1]}"


def checked_token(address: Address, token_file: Path | None, environ: Mapping[str, str]) -> str:
    """The token of the server: from a file, or the variable MODIFF_SERVE_TOKEN. Raises ComponentError where it is
    needed and there is none."""
    token = environ.get("MODIFF_SERVE_TOKEN", "").strip()
    if token_file:
        token = read_token(token_file)
    elif token:
        checked(token, "MODIFF_SERVE_TOKEN")
    if not token and not is_loopback(address.host):
        raise ComponentError(
            f"{address.host} can be reached from the network, which needs a token: --token-file FILE, or "
            "MODIFF_SERVE_TOKEN in the environment; `openssl rand -hex 32 > FILE` makes one"
        )
    return token


def check_tls(address: Address) -> None:
    """Raises ComponentError where its certificate and key cannot be used."""
    if address.tls is None:
        return
    certificate, key = address.tls

    def asked() -> str:
        raise ComponentError(f"{key}: the key is encrypted; give one that is not (`openssl pkey`)")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, asked)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise ComponentError(
            f"{certificate}, {key}: no certificate and key as PEM files that belong together ({reason})"
        ) from None


def listen(address: Address) -> socket.socket:
    """Raises OSError where that cannot be."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family)


def serve(
    listener: socket.socket,
    address: Address,
    spec: RunSpec,
    kinds: Sequence[str],
    index: Index,
    *,
    token: str = "",
    max_waiting: int = DEFAULT_WAITING,
    max_body_bytes: int = DEFAULT_BODY_MB << 20,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve components of a run's settings until SIGINT or SIGTERM. ready: called with the address once it answers.

    Raises ComponentError, CheckpointError where they cannot be had.
    """
    with loaded(spec, kinds, index, max_waiting=max_waiting) as served:
        server = Server(served, max_body_bytes=max_body_bytes)
        # uvicorn ends by the signal that ended it; a server that was asked to end has done well
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)

        def left() -> None:
            if any(each.busy for each in served.values()):
                # a model does not stop within a call, and nobody waits for this one any more
                os._exit(0)

        listening = Listening(
            server, address, token, lambda: ready(address.url(listener)), left=left
        )
        listening.run(sockets=[listener])


class Listening(uvicorn.Server):
    """uvicorn as it is used here. ready: called once it answers; left: once nobody is answered any more. logs: a line
    for each request on stderr, else as the process logs."""

    def __init__(
        self,
        server: Server,
        address: Address,
        token: str,
        ready: Callable[[], None],
        *,
        left: Callable[[], None] = lambda: None,
        logs: bool = True,
    ) -> None:
        config = uvicorn.Config(
            server.guarded(token, address.host),
            http=Connection,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=_LOGGING if logs else None,
            server_header=False,
            proxy_headers=False,  # nobody's word for where a request comes from
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_LEAVING_SECONDS,
            ssl_certfile=address.tls[0] if address.tls else None,
            ssl_keyfile=address.tls[1] if address.tls else None,
        )
        super().__init__(config)
        self._ready, self._left = ready, left

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._left()


class _Line(logging.Formatter):
    """One line for each record: the trace of a defect is not for those who read what was asked."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:
            record = copy.copy(record)
            kind = record.exc_info[0] if isinstance(record.exc_info, tuple) else None
            record.msg, record.args = f"unexpected {kind.__name__ if kind else 'error'}", None
            record.exc_info = record.exc_text = None
        return super().format(record)


_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": _Line, "fmt": "%(asctime)s %(message)s", "datefmt": "%H:%M:%S"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stderr",
            "formatter": "line",
        }
    },
    "loggers": {
        "uvicorn.access": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn.error": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
