"""UMT5 behind llama.cpp, whose protocol a stub speaks here: no server of llama.cpp was at hand."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.components.providers import umt5
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from tests.integration.remote.conftest import SEEDS, Lab, error_of


class Stub(ThreadingHTTPServer):
    """Serves the micro encoder as llama-server does with `--embeddings --pooling none`. change: what becomes of the
    answer, by its path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.encoder = umt5.load(load_preset("micro").components.text_encoder)
        self.change: dict[str, Callable[[Any], Any]] = {}
        self.asked: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: Any) -> Any:
        if path == "/props":
            return {
                "model_path": "/home/somebody/umt5-micro-Q8_0.gguf",
                "build_info": "b6000-0123abc",
            }
        if path == "/v1/models":
            return {
                "object": "list",
                "data": [{"id": "umt5", "meta": {"n_embd": 128, "n_params": 12}}],
            }
        self.asked.append(body)
        with torch.no_grad():
            states = self.encoder.model(torch.tensor([body["input"]]))[0]
        return [{"index": 0, "embedding": states.tolist()}]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def respond(self, body: Any) -> None:
        server: Any = self.server
        status, answer = 200, server.answer(self.path, body)
        if self.path in server.change:
            answer = server.change[self.path](answer)
        if isinstance(answer, tuple):
            status, answer = answer
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def spec_of(stub: Stub, *overrides: str) -> RunSpec:
    own = [
        "components.text_encoder.name=llama.cpp",
        f"components.text_encoder.url={stub.url}",
        "components.text_encoder.tokenizer=builtin:micro",
        "components.text_encoder.options.retries=0",
    ]
    common = ["scheduler.steps=2", 'output.kinds=["latents"]', f"seed={next(SEEDS)}"]
    return load_preset("micro", [*common, *own, *overrides])


def test_a_run_with_it_is_near_one_here_and_stored_under_another_name(lab: Lab, stub: Stub) -> None:
    spec = spec_of(stub)
    run_id = lab.make(spec)
    assert len(stub.asked) == 2  # ids of our own tokenizer, its end among them
    assert all(asked["input"][-1] == 1 for asked in stub.asked)
    here = lab.make(
        load_preset("micro", ["scheduler.steps=2", f"seed={spec.seed}", 'output.kinds=["latents"]'])
    )
    first, second = (
        load_file(Path(lab.store.run(each).output).with_suffix(".safetensors"))["latents"]
        for each in (run_id, here)
    )
    assert torch.allclose(first, second, atol=1e-4)
    texts = [
        {link.key for link in lab.store.links_of(each) if link.stage == "text"}
        for each in (run_id, here)
    ]
    assert not texts[0] & texts[1]


def test_what_is_stored_needs_no_server(lab: Lab, stub: Stub) -> None:
    spec = spec_of(stub)
    lab.make(spec)
    stub.shutdown()
    stub.server_close()
    lab.make(spec)


@pytest.mark.parametrize(
    ("path", "change", "told"),
    [
        (
            "/embeddings",
            lambda rows: [{"index": 0, "embedding": rows[0]["embedding"][:-1]}],
            "expected .* rows of 128",
        ),
        (
            "/embeddings",
            lambda rows: [{"index": 0, "embedding": [[1.0]]}],
            "--embeddings --pooling none",
        ),
        (
            "/embeddings",
            lambda rows: (501, {"error": {"message": "This server does not support embeddings"}}),
            "does not support embeddings; start it with",
        ),
        (
            "/embeddings",
            lambda rows: (500, {"error": {"message": "input is too large to process"}}),
            "--ubatch-size",
        ),
        (
            "/embeddings",
            lambda rows: [{"index": 0, "embedding": [[float("nan")]]}],
            "as it should",
        ),
        ("/props", lambda props: (404, {}), "is it a server of llama.cpp"),
        (
            "/v1/models",
            lambda models: {"data": [{"id": "old"}]},
            "does not tell the width of its model",
        ),
    ],
)
def test_an_answer_that_cannot_be_used_is_told(
    lab: Lab, stub: Stub, path: str, change: Callable[[Any], Any], told: str
) -> None:
    stub.change[path] = change
    line = error_of(lambda: lab.make(spec_of(stub)))
    assert re.search(told, line), line
    assert line.startswith("components.text_encoder: ")
    assert "\n" not in line
