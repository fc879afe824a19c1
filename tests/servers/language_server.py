"""A server of language models that says what a test tells it to, as the servers that people run say it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny-llm"


@dataclass(frozen=True)
class Reply:
    """chunks: of the body, each sent by itself. hangs: says nothing more until the server ends. breaks: closes the
    connection in the middle of the body."""

    chunks: Sequence[bytes] = ()
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    hangs: bool = False
    breaks: bool = False


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class LanguageServer:
    """replies: to the calls in turn, the last one for ever. served: ids that it lists, None for no list."""

    replies: list[Reply]
    served: tuple[str, ...] | None = (MODEL,)
    url: str = ""
    asked: list[Request] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def next_reply(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def plain(text: str, *, reason: str = "stop", model: str = MODEL, **message: Any) -> Reply:
    """A whole answer, as of a server that does not stream."""
    message = {"role": "assistant", "content": text, **message}
    body = {"model": model, "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    return Reply([json.dumps(body).encode()])


def stream_of(
    pieces: Iterable[str], *, reason: str | None = "stop", end: str = "\n", done: bool = True
) -> bytes:
    """The bytes of a streamed answer. end: of a line."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces]
    events = [
        {"model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    if reason:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}{end}{end}" for event in events]
    return ("".join(lines) + (f"data: [DONE]{end}{end}" if done else "")).encode()


def streamed(body: bytes, size: int = 0, **more: Any) -> Reply:
    """A stream in chunks of so many bytes, 0 for one."""
    step = size or max(1, len(body))
    chunks = [body[start : start + step] for start in range(0, len(body), step)]
    return Reply(chunks, content_type="text/event-stream; charset=utf-8", **more)


def refused(status: int, message: str, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "error"}}).encode()
    return Reply([body], status, headers=tuple(headers.items()))


@contextmanager
def language_server(
    *replies: Reply, served: tuple[str, ...] | None = (MODEL,)
) -> Iterator[LanguageServer]:
    """One on loopback; `url` is its address."""
    server = LanguageServer(list(replies), served)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.asked.append(Request(self.path, dict(self.headers), {}))
            if server.served is None:
                self.send(Reply([b"{}"], 404))
                return
            listed = {"object": "list", "data": [{"id": name} for name in server.served]}
            self.send(Reply([json.dumps(listed).encode()]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(Request(self.path, dict(self.headers), json.loads(body)))
            self.send(server.next_reply())

        def send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            for name, value in reply.headers:
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for chunk in reply.chunks:
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                    self.wfile.flush()
                if reply.hangs:
                    server.ended.wait()
                if not (reply.hangs or reply.breaks):
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:  # whoever asked has gone
                pass
            self.close_connection = self.close_connection or reply.hangs or reply.breaks

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        http.shutdown()
        thread.join()
        http.server_close()
