"""Real serving processes for the tests, each a fork of one process that has imported torch already.

Run as a program it is that process: it reads a line of JSON for each server that it is to fork. Imported it has
`Servers`, which starts it and talks to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
ALL = ("text_encoder", "denoiser", "vae")


class Servers:
    """Starts and ends servers; use it in a `with`, at whose end none is left."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        self._ports: dict[str, int] = {}

    def start(self, *kinds: str, port: int = 0, root: Path) -> str:
        """The address of a server of these kinds of the micro model, once it answers."""
        answer = self._ask({"kinds": kinds, "port": port, "root": str(root)})
        self._ports[answer["url"]] = answer["pid"]
        return str(answer["url"])

    def signal(self, url: str, number: signal.Signals) -> None:
        os.kill(self._ports[url], number)

    def kill(self, url: str) -> None:
        """Ends it at once, and waits until it has."""
        pid = self._ports.pop(url)
        os.kill(pid, signal.SIGKILL)
        self._ask({"wait": pid})

    def again(self, url: str, *kinds: str, root: Path) -> None:
        """Another one at the address of one that was killed."""
        found = self.start(*kinds, port=int(url.rpartition(":")[2]), root=root)
        assert found == url

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks servers has ended"
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in self._ports.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


def serve(kinds: Sequence[str], port: int, root: Path, ready: int) -> None:
    from engine.serve.server import Address, listen
    from engine.serve.server import serve as serve_until_asked
    from presets.library.loading import load_preset
    from store.index.index import open_index
    from store.paths import prepare

    prepare(root)
    address = Address(port=port)

    def told(url: str) -> None:
        os.write(ready, url.encode())
        os.close(ready)

    with listen(address) as listener, open_index(root) as index:
        serve_until_asked(listener, address, load_preset("micro"), kinds, index, ready=told)


def main() -> None:
    import torch

    import engine.serve.server  # noqa: F401  # what every server needs, imported once

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            os.waitpid(request["wait"], 0)
            print(json.dumps({}), flush=True)  # noqa: T201
            continue
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reads)
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            code = 1
            try:
                serve(request["kinds"], request["port"], Path(request["root"]), writes)
                code = 0
            finally:
                os._exit(code)
        os.close(writes)
        with open(reads, "rb") as pipe:
            url = pipe.read().decode()
        print(json.dumps({"url": url, "pid": pid}), flush=True)  # noqa: T201


def free_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
