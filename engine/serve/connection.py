"""A connection to a server: uvicorn's own, without what it lets wait for ever.

uvicorn waits for the end of a header, and for a reader of an answer, as long as they take. Here both have their time,
connections beyond a number are closed at once, and what is not HTTP is refused in the words of the contract.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.remote.contract import JSON, Refusal

MAX_CONNECTIONS = 128


class Connection(H11Protocol):
    """header_seconds: for the header of a request, from its first byte; for the first request from the beginning.
    read_seconds: until whoever asked takes more of an answer."""

    header_seconds = 10.0
    read_seconds = 30.0
    _header_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        # asyncio does it for sockets that it made itself; else each answer waits 40 ms for an acknowledgement
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_header()
        elif self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            # TLS would wait for the other side's last word, which who only keeps it open never says
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._header_timer, self._read_timer):
            if timer is not None:
                timer.cancel()

    def _should_upgrade(self) -> bool:
        return False  # to nothing, and that needs no word in the log

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        data = msgspec.json.encode(Refusal(error="this is no valid HTTP/1.1 request"))
        headers = [
            ("Content-Type", JSON),
            ("Content-Length", str(len(data))),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=data), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _expect_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_seconds, self.transport.abort)
