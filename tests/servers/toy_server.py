"""A server of components that compute next to nothing, answering in a thread of the test's process.

They are as pure as real ones, and stop where a test says so: `Toys.hold` is set while work may go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.components.protocols import Description
from engine.serve.app import Server
from engine.serve.served import Served
from engine.serve.server import Address, Listening, listen

TEXT_DIM, CHANNELS = 8, 4
IMAGE_DIM, IMAGE_TOKENS, GIVEN_CHANNELS = 6, 2, 5
WAIT = 60.0

FACTS: dict[str, dict[str, Any]] = {
    "text_encoder": {"text_dim": TEXT_DIM},
    "image_encoder": {"image_dim": IMAGE_DIM, "image_tokens": IMAGE_TOKENS},
    "denoiser": {
        "text_dim": TEXT_DIM, "latent_channels": CHANNELS, "patch_size": [1, 2, 2], "takes": ["text"],
        "num_blocks": 1, "dim": 8, "model": "",
    },
    "vae": {"latent_channels": CHANNELS, "latent_stride": [4, 8, 8], "latents_of": "micro"},
}  # fmt: skip

# of one that takes pictures too
OF_PICTURES: dict[str, Any] = {
    "takes": ["text", "image", "latents"], "model_type": "i2v", "image_dim": IMAGE_DIM,
    "given_channels": GIVEN_CHANNELS,
}  # fmt: skip


@dataclass
class Toys:
    """All kinds at once. hold: work waits until it is set. begun: released for each piece of work that begins.
    fails: raised by each."""

    hold: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    fails: Exception | None = None

    def __post_init__(self) -> None:
        self.hold.set()

    def _work(self) -> None:
        self.begun.release()
        assert self.hold.wait(WAIT)
        if self.fails is not None:
            raise self.fails

    def text(self, prompt: str) -> Tensor:
        self._work()
        codes = torch.tensor([ord(c) % 997 for c in prompt[:511]] + [1], dtype=torch.float32)
        return torch.sin(codes[:, None] * torch.arange(1, TEXT_DIM + 1))

    @contextmanager
    def begin(self, branches: Mapping[str, Mapping[str, Tensor]]) -> Iterator[Any]:
        def predict(x: Tensor, timestep: Tensor, ats: Sequence[Any]) -> list[Tensor]:
            self._work()
            conditions = [branches[at.branch].values() for at in ats]
            means = [sum(each.float().mean() for each in named) for named in conditions]
            return [x * (1 + mean) + timestep.float() / 1000 for mean in means]

        yield predict

    def tokens(self, pictures: Sequence[Tensor]) -> Tensor:
        self._work()
        corners = [picture[:, :2, 0].t().flatten() for picture in pictures]
        return torch.cat([torch.stack([each, -each]) for each in corners])

    def latents(self, video: Tensor) -> Tensor:
        self._work()
        kept = video[:, :, ::4].float().mean(1, keepdim=True)
        return torch.nn.functional.avg_pool3d(kept, (1, 8, 8)).expand(-1, CHANNELS, -1, -1, -1)

    def frames(self, latents: Tensor, *, on_chunk: Any) -> Iterator[Tensor]:
        total = latents.shape[2]
        for index in range(total):
            self._work()
            on_chunk(index + 1, total)
            shown = latents[:, :3, index : index + 1].clamp(-1, 1)
            yield shown.repeat(1, 1, 4 if index else 1, 8, 8)


def served_toys(
    toys: Toys, *, max_waiting: int = 8, of_pictures: bool = False
) -> dict[str, Served]:
    """of_pictures: the denoiser takes pictures too."""
    facts = FACTS | {"denoiser": FACTS["denoiser"] | (OF_PICTURES if of_pictures else {})}
    components = {
        "text_encoder": SimpleNamespace(encode=toys.text),
        "image_encoder": SimpleNamespace(encode=toys.tokens),
        "denoiser": SimpleNamespace(begin=toys.begin),
        "vae": SimpleNamespace(encode=toys.latents, decode=toys.frames),
    }
    describe: Any = SimpleNamespace(check_unchanged=lambda kind, part: None)
    return {
        kind: Served(
            kind,
            SimpleNamespace(device="cpu", dtype="fp32"),
            Description(identity={"name": f"toy {kind}"}, facts=facts[kind], resident=kind),
            component,
            describe,
            max_waiting,
            ThreadPoolExecutor(1),
        )
        for kind, component in components.items()
    }


@contextmanager
def answering(
    server: Server,
    *,
    token: str = "",
    host: str = "127.0.0.1",
    tls: tuple[Path, Path] | None = None,
    logs: bool = False,
) -> Iterator[str]:
    """The address of a server that answers as long as the block runs."""
    address = Address(host, 0, tls)
    is_ready = threading.Event()
    with listen(address) as listener:
        listening = Listening(server, address, token, is_ready.set, logs=logs)
        thread = threading.Thread(target=listening.run, kwargs={"sockets": [listener]})
        thread.start()
        assert is_ready.wait(WAIT)
        try:
            yield address.url(listener)
        finally:
            listening.should_exit = True
            thread.join(WAIT)
            for each in server.served.values():
                each.executor.shutdown(wait=False)
    assert not thread.is_alive()
