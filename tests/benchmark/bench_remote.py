"""What the wire adds to a denoising step and to decoding at the sizes of 480p, 81 frames: on loopback, and through a
relay of this program that passes on what 1 Gbit and 100 Mbit would, a millisecond late.

    python -m tests.benchmark.bench_remote [--rounds N]

The denoiser that is served gives back what it gets, so that nothing is measured but the wire; the peer is the same
call in this process. Wall seconds: a wire is waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from torch import Tensor

from engine.components.protocols import Description
from engine.components.providers.remote import RemoteDenoiser, RemoteVAE
from engine.models.seams import At
from engine.remote.client import Host
from engine.serve.app import Server
from engine.serve.served import Served

LATENTS = (1, 16, 21, 60, 104)
FRAMES = (1, 3, 4, 480, 832)
CHUNKS = 5
FACTS = {
    "denoiser": {"text_dim": 4096, "latent_channels": 16, "takes": ["text"]},
    "vae": {"latent_channels": 16, "latent_stride": [4, 8, 8]},
}
LATE_SECONDS = 0.001


class Echo:
    """A denoiser, and a VAE that has its frames ready."""

    device = "cpu"

    @contextmanager
    def begin(self, branches: Any, extensions: Sequence[Any] = ()) -> Iterator[Any]:
        yield lambda x, timestep, ats: [x.clone() for _ in ats]

    def decode(
        self, latents: Tensor, *, on_chunk: Any = lambda done, total: None
    ) -> Iterator[Tensor]:
        yield from frames_of(latents.shape[2])


def frames_of(num_latents: int) -> Iterator[Tensor]:
    yield torch.zeros(1, 3, 1, 480, 832)
    for _ in range(num_latents - 1):
        yield torch.zeros(FRAMES)


class Unchanged:
    def check_unchanged(self, kind: str, part: Any) -> None:
        pass


class Part:
    device = "cpu"
    dtype = "fp32"


def serve(ready: Any) -> None:
    torch.set_num_threads(1)
    served = {
        kind: Served(
            kind,
            Part(),
            Description(identity={"name": "echo"}, facts=facts, resident=""),
            Echo(),
            Unchanged(),  # type: ignore[arg-type]
            8,
            ThreadPoolExecutor(1),
        )
        for kind, facts in FACTS.items()
    }
    listener = socket.create_server(("127.0.0.1", 0))
    app = Server(served, max_body_bytes=1 << 30).app()
    config = uvicorn.Config(app, http="h11", lifespan="off", log_level="error")
    ready.send((listener.getsockname()[1], {kind: each.told for kind, each in served.items()}))
    uvicorn.Server(config).run(sockets=[listener])


class Relay:
    """Passes on what comes, at a rate and a little late, both ways apart."""

    def __init__(self, port: int, bits_per_second: float) -> None:
        self._target = port
        self._rate = bits_per_second / 8
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connected, "127.0.0.1", 0), self._loop
        ).result()
        self.port = server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._passed(reader, there[1]), self._passed(there[0], writer))

    async def _passed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        leaving = asyncio.create_task(self._left(under_way, writer))
        free_at = time.monotonic()
        while data := await reader.read(256 * 1024):
            free_at = max(free_at, time.monotonic()) + len(data) / self._rate
            await under_way.put((free_at + LATE_SECONDS, data))
        await under_way.put((free_at + LATE_SECONDS, b""))
        await leaving

    async def _left(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        """Each piece when its last bit has come, which later ones do not wait for."""
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()


def step(denoiser: Any) -> None:
    """A step of guidance: both branches in one call."""
    x, timestep = torch.randn(LATENTS), torch.tensor([900])
    text = torch.randn(512, 4096, dtype=torch.bfloat16)
    branches = {"positive": {"text": text}, "negative": {"text": text[:200]}}
    ats = [At(0, 50, 1.0, name) for name in branches]
    with denoiser.begin(branches) as predict:
        predict(x, timestep, ats)  # conditions go first, once
        begun = time.perf_counter()
        for _ in range(STEPS):
            predict(x, timestep, ats)
    STEP_SECONDS.append((time.perf_counter() - begun) / STEPS)


STEPS = 3
STEP_SECONDS: list[float] = []


def decode(vae: Any) -> None:
    for _ in vae.decode(torch.randn(LATENTS)):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(sender,))
    process.start()
    port, told = receiver.recv()
    ports = {
        "loopback": port,
        "1 Gbit": Relay(port, 1e9).port,
        "100 Mbit": Relay(port, 1e8).port,
    }
    spent: dict[str, dict[str, list[float]]] = {"step": {}, "decode 81 frames": {}}
    for number in range(rounds + 1):
        for name in ("here", *ports):
            host = Host(f"http://127.0.0.1:{ports.get(name, 0)}")
            denoiser: Any = (
                Echo() if name == "here" else RemoteDenoiser("denoiser", host, told["denoiser"])
            )
            vae: Any = Echo() if name == "here" else RemoteVAE("vae", host, told["vae"])
            step(denoiser)
            seconds = {"step": STEP_SECONDS.pop()}
            if name != "100 Mbit":
                begun = time.perf_counter()
                decode(vae)
                seconds["decode 81 frames"] = time.perf_counter() - begun
            if number:
                for what, value in seconds.items():
                    spent[what].setdefault(name, []).append(value)
    process.terminate()
    print(
        json.dumps(
            {
                "wall seconds": {
                    what: {name: round(statistics.median(each), 4) for name, each in by.items()}
                    for what, by in spent.items()
                },
                "bytes of a step": {
                    "up": 4 * torch.Size(LATENTS).numel(),
                    "down": 8 * torch.Size(LATENTS).numel(),
                },
                "cpu": torch.backends.cpu.get_cpu_capability(),
                "machine": platform.machine(),
                "torch": torch.__version__,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
