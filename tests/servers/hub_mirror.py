"""A mirror of Hugging Face's hub on loopback: the routes that a download takes, and the ways in which they go wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_ROUTE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Mirror:
    """files: (repository, name) -> bytes. tags, sizes: told instead of the right ones. sent: bytes instead of the right
    ones. breaks_after: of each name, after how many bytes each GET breaks off, one after another. refusals: name ->
    status and X-Error-Code. content: where files are redirected to, an address. asked: of each request the method,
    the path, its Range and whether it had a token."""

    address: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    breaks_after: dict[str, list[int]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    content: str = ""
    asked: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def gets(self) -> list[tuple[str, str]]:
        """The file and the Range of each GET."""
        return [
            (path.partition(f"{COMMIT}/")[2], wanted)
            for method, path, wanted, _ in self.asked
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            wanted = self.headers.get("Range", "")
            mirror.asked.append((self.command, self.path, wanted, "Authorization" in self.headers))
            if self.path.startswith("/api/models/"):
                self._list(self.path.removeprefix("/api/models/"))
                return
            route = _ROUTE.fullmatch(self.path)
            key = (route["repository"], route["name"]) if route else ("", "")
            if key[1] in mirror.refusals:
                self._refuse(*mirror.refusals[key[1]])
            elif key not in mirror.files:
                known = any(key[0] == repository for repository, _ in mirror.files)
                self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
            elif mirror.content and self.command == "GET":
                self.send_response(302)
                self.send_header("Location", mirror.content + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self._send(key[1], mirror.files[key], wanted)

        def _send(self, name: str, data: bytes, wanted: str) -> None:
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            digest = hashlib.sha256(data).hexdigest()
            self.send_response(206 if wanted else 200)
            self.send_header("ETag", f'"{digest[:32]}"')
            self.send_header("X-Linked-Etag", f'"{mirror.tags.get(name, digest)}"')
            self.send_header("X-Linked-Size", str(mirror.sizes.get(name, len(data))))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data) - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if self.command == "HEAD":
                return
            body = mirror.sent.get(name, data)[start:]
            breaks = mirror.breaks_after.get(name, [])
            if breaks:
                self.wfile.write(body[: breaks.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _list(self, path: str) -> None:
            names = [name for repository, name in mirror.files if path.startswith(repository)]
            if "/tree/" in path:
                told: object = [
                    {"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in names
                ]
            else:
                told = {"id": path, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            data = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
