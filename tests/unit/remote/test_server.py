"""What a server answers: on a real connection, components that compute next to nothing (tests.servers.toy_server)."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import httpx2 as httpx
import msgspec
import pytest
import torch
from torch import Tensor

from engine.errors import RunFailed
from engine.remote.contract import (
    EXPECTS,
    JSON,
    MAX_CONDITIONS,
    MAX_HEADER_BYTES,
    MAX_JSON_BYTES,
    OPERATIONS,
    TENSORS,
    Call,
    Condition,
    Denoise,
    Health,
    Progress,
    condition_shape,
)
from engine.remote.wire import encoded
from engine.serve import conditions
from engine.serve import connection as connection_module
from engine.serve.app import Server
from engine.serve.connection import Connection
from engine.serve.openapi import openapi
from store.blobs.tensors import decode_tensors
from tests.servers.toy_server import (
    CHANNELS,
    GIVEN_CHANNELS,
    IMAGE_DIM,
    OF_PICTURES,
    TEXT_DIM,
    WAIT,
    Toys,
    answering,
    served_toys,
)

MAX_BODY = 1 << 20
CONDITION_SHAPES = {
    "text": (3, TEXT_DIM),
    "image": (2, IMAGE_DIM),
    "latents": (GIVEN_CHANNELS, 2, 4, 4),
}


@dataclass
class Asked:
    """A server and who asks it."""

    url: str
    server: Server
    toys: Toys
    client: httpx.Client

    def headers(self, kind: str) -> dict[str, str]:
        content = JSON if kind == "text_encoder" else TENSORS
        return {EXPECTS: self.server.served[kind].told.digest, "Content-Type": content}

    def post(self, path: str, kind: str, data: bytes, **headers: str) -> httpx.Response:
        return self.client.post(path, content=data, headers={**self.headers(kind), **headers})

    def text(self, prompt: str = "a red circle") -> httpx.Response:
        return self.post("/encode-text", "text_encoder", json.dumps({"prompt": prompt}).encode())

    def put(self, data: bytes) -> str:
        """Sends a condition; its digest."""
        digest = digest_of(data)
        path, headers = f"/conditions/{digest}", self.headers("denoiser")
        assert self.client.put(path, content=data, headers=headers).status_code == 204
        return digest

    def raw(self, data: bytes) -> socket.socket:
        address = httpx.URL(self.url)
        connection = socket.create_connection((address.host, address.port), WAIT)
        connection.sendall(data)
        return connection

    def load(self, kind: str):
        return msgspec.json.decode(self.client.get("/health").content, type=Health).components[kind]


@contextmanager
def running(
    *,
    max_waiting: int = 8,
    chunk_seconds: float = WAIT,
    token: str = "",
    logs: bool = False,
    of_pictures: bool = False,
) -> Iterator[Asked]:
    toys = Toys()
    server = Server(
        served_toys(toys, max_waiting=max_waiting, of_pictures=of_pictures),
        max_body_bytes=MAX_BODY,
        chunk_seconds=chunk_seconds,
    )
    with (
        answering(server, token=token, logs=logs) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=WAIT) as client,
    ):
        try:
            yield Asked(url, server, toys, client)
        finally:
            toys.hold.set()


@pytest.fixture
def start(own_folders) -> Iterator[Callable[..., Asked]]:
    """Starts a server of its own for a test."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(running(**how))


@pytest.fixture(scope="module")
def shared() -> Iterator[Asked]:
    with running() as asked:
        yield asked


@pytest.fixture
def asked(shared) -> Asked:
    """One for all tests, as whatever is asked leaves it as it was."""
    while shared.toys.begun.acquire(blocking=False):
        pass
    return shared


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def refusal(response: httpx.Response) -> str:
    told = response.json()
    assert response.headers["content-type"] == JSON
    assert told["error"].isprintable()
    return told["error"]


def latents(frames: int = 2) -> Tensor:
    return torch.linspace(-1, 1, CHANNELS * frames * 16).reshape(1, CHANNELS, frames, 4, 4)


def body(tensors: dict[str, Tensor], metadata: msgspec.Struct | None = None) -> bytes:
    return b"".join(encoded(tensors, metadata))


def digest_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def of_condition(name: str, shape: tuple[int, ...] | None = None) -> bytes:
    """All of ones."""
    return body({"condition": torch.ones(shape or CONDITION_SHAPES[name])}, Condition(name=name))


def denoise(
    digests: str | dict[str, str], x: Tensor | None = None, branch: str = "positive"
) -> bytes:
    """digests: of the conditions by name, or of the text."""
    wanted = Denoise(
        branches={"positive": {"text": digests} if isinstance(digests, str) else digests},
        calls=[Call(step=0, total=2, sigma=1.0, branch=branch)],
    )
    return body({"x": latents() if x is None else x, "timestep": torch.tensor([900])}, wanted)


def leave(
    asked: Asked, path: str, kind: str, data: bytes, sent: int | None = None, num_bytes: int = 0
) -> socket.socket:
    """A connection over which a request was sent, whose answer nobody waits for. sent: so many bytes of its
    body; num_bytes: as many as are announced."""
    lines = [f"{name}: {value}" for name, value in asked.headers(kind).items()]
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {num_bytes or len(data)}",
        *lines,
    ]
    return asked.raw("\r\n".join([*head, "\r\n"]).encode() + data[:sent])


# Every operation


def test_the_document_tells_of_the_very_routes_that_there_are(asked):
    told = asked.client.get("/openapi.json").json()
    assert told == json.loads(json.dumps(openapi()))
    paths = {(path, method.upper()) for path, item in told["paths"].items() for method in item}
    routes = asked.server.app().routes
    assert paths == {(each.path, method) for each in routes for method in each.methods - {"HEAD"}}
    assert paths == {(each.path, each.method) for each in OPERATIONS}
    assert "Refusal" in told["components"]["schemas"]
    for references in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(told)):
        assert references in told["components"]["schemas"]


def test_only_what_is_served_has_routes(own_folders):
    served = {"vae": served_toys(Toys())["vae"]}
    paths = {route.path for route in Server(served, max_body_bytes=MAX_BODY).app().routes}
    assert paths == {"/health", "/fingerprint", "/metrics", "/openapi.json", "/vae/encode", "/vae/decode"}  # fmt: skip


def test_a_prompt(asked):
    response = asked.text("hello")
    assert response.status_code == 200
    assert torch.equal(decode_tensors(response.content)["states"], asked.toys.text("hello"))
    assert json.loads(response.headers["x-modiff-environment"])["torch"]


def test_a_condition_is_sent_once_and_named_afterwards(asked):
    data = body({"condition": torch.full((5, TEXT_DIM), 1.0)})
    digest = digest_of(data)
    missing = asked.post("/denoise", "denoiser", denoise(digest))
    assert missing.status_code == 409
    assert missing.json()["missing"] == [digest]
    put = asked.client.put(f"/conditions/{digest}", content=data, headers=asked.headers("denoiser"))
    assert put.status_code == 204
    for _ in range(2):
        answer = asked.post("/denoise", "denoiser", denoise(digest))
        assert answer.status_code == 200
        velocity = decode_tensors(answer.content)["velocity.0"]
        assert torch.allclose(velocity, 2 * latents() + 0.9)


def test_the_digest_of_a_condition_is_of_the_bytes_that_were_sent(asked):
    """However whoever writes them orders or pads their header."""
    plain = {"condition": {"dtype": "F32", "shape": [1, TEXT_DIM], "data_offsets": [0, 32]}}
    text = json.dumps(plain, indent=2).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(32)
    path = f"/conditions/{digest_of(data)}"
    put = asked.client.put(path, content=data, headers=asked.headers("denoiser"))
    assert put.status_code == 204
    other = asked.client.put(
        f"/conditions/{'0' * 64}", content=data, headers=asked.headers("denoiser")
    )
    assert other.status_code == 400
    assert digest_of(data) in refusal(other)


def test_conditions_do_not_grow_without_end(start, monkeypatch):
    asked = start()
    monkeypatch.setattr(conditions, "MAX_CONDITIONS", 2)
    assert MAX_CONDITIONS >= 16
    digests = []
    for value in range(3):
        data = body({"condition": torch.full((1, TEXT_DIM), float(value))})
        digests.append(digest_of(data))
        asked.client.put(
            f"/conditions/{digests[-1]}", content=data, headers=asked.headers("denoiser")
        )
    statuses = [asked.post("/denoise", "denoiser", denoise(d)).status_code for d in digests]
    assert statuses == [409, 200, 200]


def test_nor_do_their_bytes(start):
    """Two bodies' worth stays, the newest: what one request needs."""
    asked = start(of_pictures=True)
    digests = []
    for value in range(3):
        given = torch.full((GIVEN_CHANNELS, 2, 128, 200), float(value))  # 0.98 of a body
        data = body({"condition": given}, Condition(name="latents"))
        digests.append(asked.put(data))
    assert list(asked.server._conditions.held) == digests[1:]


def test_pictures_of_any_size(asked):
    pictures = [torch.rand(3, 5, 9), torch.rand(3, 8, 2), torch.rand(3, 300, 200)]
    data = body({f"picture.{index}": each for index, each in enumerate(pictures)})
    answer = asked.post("/encode-image", "image_encoder", data)
    assert answer.status_code == 200
    assert torch.equal(decode_tensors(answer.content)["tokens"], asked.toys.tokens(pictures))


def test_each_condition_of_a_run_with_pictures(start):
    asked = start(of_pictures=True)
    digests = {name: asked.put(of_condition(name)) for name in CONDITION_SHAPES}
    answer = asked.post("/denoise", "denoiser", denoise(digests))
    assert answer.status_code == 200
    velocity = decode_tensors(answer.content)["velocity.0"]
    assert torch.allclose(velocity, (1 + 3) * latents() + 0.9)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("image", (2, IMAGE_DIM + 1), f"expected [any, {IMAGE_DIM}]"),
        ("image", (4097, IMAGE_DIM), "condition has 4097 rows, expected at most 4096"),
        ("latents", (GIVEN_CHANNELS + 1, 2, 4, 4), f"expected [{GIVEN_CHANNELS}, any, any, any]"),
        ("latents", (1, GIVEN_CHANNELS, 2, 4, 4), f"expected [{GIVEN_CHANNELS}, any, any, any]"),
        ("pose", (2, TEXT_DIM), "it takes no condition 'pose', expected text or image or latents"),
    ],
)
def test_conditions_that_the_model_does_not_take(start, name, shape, told):
    asked = start(of_pictures=True)
    data = body({"condition": torch.ones(shape)}, Condition(name=name))
    response = asked.client.put(
        f"/conditions/{digest_of(data)}", content=data, headers=asked.headers("denoiser")
    )
    assert response.status_code == 400
    assert told in refusal(response)


def test_a_pair_of_pictures_has_twice_the_tokens_of_one():
    facts = {**OF_PICTURES, "image_tokens": 7}
    assert condition_shape("image", facts) == (7, IMAGE_DIM)
    assert condition_shape("image", {**facts, "model_type": "flf2v"}) == (14, IMAGE_DIM)


def test_conditions_are_used_for_what_they_were_sent_as(start):
    asked = start(of_pictures=True)
    digests = {name: asked.put(of_condition(name)) for name in CONDITION_SHAPES}
    larger = asked.put(of_condition("latents", (GIVEN_CHANNELS, 2, 4, 8)))
    for wrong, told in [
        ({"image": digests["text"]}, "the condition image of positive was sent as text"),
        ({"text": digests["latents"]}, "the condition text of positive was sent as latents"),
        ({"latents": larger}, "the condition latents of positive is [2, 4, 8] large, expected [2, 4, 4], as x is"),
    ]:  # fmt: skip
        response = asked.post("/denoise", "denoiser", denoise(digests | wrong))
        assert (response.status_code, refusal(response)) == (400, told)
    few = asked.post("/denoise", "denoiser", denoise(digests["text"]))
    assert refusal(few) == (
        "positive has the conditions ['text'], expected ['text', 'image', 'latents']"
    )


def test_a_model_of_text_alone_takes_no_other_condition(asked):
    data = of_condition("latents")
    response = asked.client.put(
        f"/conditions/{digest_of(data)}", content=data, headers=asked.headers("denoiser")
    )
    assert (response.status_code, refusal(response)) == (
        400,
        "it takes no condition 'latents', expected text",
    )


def test_a_video_to_latents_and_back(asked):
    video = torch.linspace(-1, 1, 3 * 5 * 16 * 16).reshape(1, 3, 5, 16, 16)
    answer = asked.post("/vae/encode", "vae", body({"video": video}))
    assert torch.equal(decode_tensors(answer.content)["latents"], asked.toys.latents(video))
    answer = asked.post("/vae/decode", "vae", body({"latents": latents()}))
    assert answer.status_code == 200
    rest, told, frames = memoryview(answer.content), [], []
    while rest:
        length = int.from_bytes(rest[:8], "little")
        header = json.loads(bytes(rest[8 : 8 + length]))
        told.append(msgspec.json.decode(header.pop("__metadata__")["modiff"], type=Progress))
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        frames += decode_tensors(rest[:end]).values()
        rest = rest[end:]
    wanted = [*asked.toys.frames(latents(), on_chunk=lambda *_: None)]
    assert torch.equal(torch.cat(frames, 2), torch.cat(wanted, 2))
    assert [each.done for each in told if each.done] == [1, 2]
    assert [each.is_last for each in told] == [False] * 4 + [True]


def test_metrics_are_the_text_of_prometheus(start):
    asked = start()
    asked.text()
    asked.client.get("/nowhere")
    asked.client.get("/health", headers={"Origin": "http://page.example"})
    text = asked.client.get("/metrics").text
    assert text.endswith("\n")
    line = re.compile(r'modiff_\w+(\{\w+="[^"\n]*"(,\w+="[^"\n]*")*\})? [0-9.e+-]+')
    for each in text.splitlines():
        assert each.startswith(("# HELP modiff_", "# TYPE modiff_")) or line.fullmatch(each), each
    assert 'modiff_requests_total{path="/encode-text",status="200"} 1' in text
    assert 'modiff_requests_total{path="",status="404"} 1' in text
    assert 'modiff_requests_total{path="",status="403"} 1' in text


# Who may ask


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1"])
def test_no_page_of_a_browser_is_served(asked, origin):
    response = asked.client.get("/health", headers={"Origin": origin})
    assert (response.status_code, refusal(response)) == (403, "pages of a browser are not served")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "[::2]", "", "localhost@evil"]
)
def test_a_name_that_a_page_made_lead_here_is_not_served(asked, host):
    assert asked.client.get("/health", headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8080"])
def test_names_of_this_machine_are_served(asked, host):
    assert asked.client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/fingerprint", "/metrics", "/openapi.json", "/nowhere"])  # fmt: skip
def test_nothing_is_told_without_the_token(start, path):
    asked = start(token="0123456789abcdef")
    for given in (None, "", "0123456789abcdef", "Bearer", "Bearer 0123456789abcde", "Basic x", "Bearer ä"):  # fmt: skip
        headers = {} if given is None else {"Authorization": given.encode()}
        response = asked.client.get(path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "0123456789abcdef" not in refusal(response)
    good = {"Authorization": "Bearer 0123456789abcdef", "Host": "box.example"}
    assert asked.client.get(path, headers=good).status_code == (404 if path == "/nowhere" else 200)
    assert asked.client.get(path, headers={**good, "Origin": "http://x"}).status_code == 403


def test_the_token_is_in_no_log_and_no_answer(start, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    asked = start(token="0123456789abcdef", logs=True)
    headers = {"Authorization": "Bearer 0123456789abcdef"}
    answers = [asked.client.get(path, headers=headers) for path in ("/metrics", "/health", "/x")]
    answers.append(asked.client.get("/metrics", headers={"Authorization": "Bearer wrong"}))
    answers.append(asked.client.get("/metrics", headers=headers))
    said = "".join(f"{answer.headers} {answer.text}" for answer in answers)
    out, err = capsys.readouterr()
    assert '"GET /metrics HTTP/1.1" 200' in err
    assert "0123456789abcdef" not in said + out + err + caplog.text


# What is refused


def test_what_is_not_there(asked):
    for method, path, status in [
        ("GET", "/", 404), ("GET", "/health/", 404), ("GET", "/../etc/passwd", 404), ("GET", "//x", 404),
        ("POST", "/health", 405), ("GET", "/encode-text", 405), ("DELETE", "/conditions/x", 405),
        ("GET", "/%2e%2e/x%0d%0a", 404), ("PROPFIND", "/health", 405),
    ]:  # fmt: skip
        response = asked.client.request(method, path, follow_redirects=False)
        assert response.status_code == status, (method, path)
        assert "openapi.json" in refusal(response)


def test_a_request_for_another_component(asked):
    for kind, path in (
        ("text_encoder", "/encode-text"),
        ("vae", "/vae/decode"),
        ("denoiser", f"/conditions/{'0' * 64}"),
    ):
        method = "PUT" if "conditions" in path else "POST"
        for expects in ({EXPECTS: "0" * 64}, {}):
            headers = {"Content-Type": asked.headers(kind)["Content-Type"], **expects}
            response = asked.client.request(method, path, content=b"x" * 50_000, headers=headers)
            assert response.status_code == 412
            assert "another " + kind.replace("_", " ") in refusal(response)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b'{"prompt": 1}', b'{"prompt": "a", "more": 1}', b"\xff", b"[" * 100_000,
     b'{"prompt": "\\ud800"}', b'{"prompt": "' + b"a" * 70_000 + b'"}', b"{}"],
)  # fmt: skip
def test_a_prompt_that_is_none(asked, data):
    response = asked.post("/encode-text", "text_encoder", data)
    assert response.status_code == 400
    assert refusal(response)


def test_bodies_of_another_type_or_coding(asked):
    for kind, path, content_type in [
        ("text_encoder", "/encode-text", "text/plain"), ("vae", "/vae/decode", JSON), ("vae", "/vae/decode", ""),
    ]:  # fmt: skip
        response = asked.post(path, kind, b"x", **{"Content-Type": content_type})
        assert response.status_code == 415
    coded = asked.post("/vae/decode", "vae", b"x", **{"Content-Encoding": "gzip"})
    assert (coded.status_code, refusal(coded)) == (415, "a compressed body is not read")


GOOD = body({"latents": latents()})
LENGTH = int.from_bytes(GOOD[:8], "little")


def with_header(header: object, data: bytes = GOOD[8 + LENGTH :]) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [1, CHANNELS, 2, 4, 4], "data_offsets": [0, 512]}
BAD = {
    "nothing": (b"", "there is no body"),
    "less than a length": (b"\0" * 7, "ends 1 bytes too early"),
    "a header of 10 GB": (b"\0\0\0\0\x03\0\0\0" + GOOD, "a header of 12884901888 bytes"),
    "a header too long": (with_header(b" " * (MAX_HEADER_BYTES + 1)), f"expected 2 to {MAX_HEADER_BYTES}"),
    "a header that is no JSON": (with_header(b"{]"), "header is not valid"),
    "a header of lists in lists": (with_header(b'{"a":' + b"[" * 30_000), "header is not valid"),
    "a header that is no object": (with_header([1]), "header is not valid"),
    "overlapping": (
        with_header({"latents": ENTRY, "more": {**ENTRY, "data_offsets": [256, 768]}}), "cannot be at 256 to 768",
    ),
    "a hole": (with_header({"latents": {**ENTRY, "data_offsets": [8, 520]}}, bytes(520)), "cannot be at 8 to 520"),
    "negative offsets": (with_header({"latents": {**ENTRY, "data_offsets": [-512, 0]}}), "cannot be at -512 to 0"),
    "a negative size": (with_header({"latents": {**ENTRY, "shape": [-1]}}), "impossible shape"),
    "sizes whose product overflows": (
        with_header({"latents": {**ENTRY, "shape": [2**31, 2**31, 4]}}), "cannot be at 0 to 512",
    ),
    "another length than announced": (GOOD + b"x", "header tells of"),
    "cut short": (GOOD[:-1], "header tells of"),
    "another dtype": (body({"latents": latents().double()}), "latents has dtype F64, expected F32"),
    "an unknown dtype": (with_header({"latents": {**ENTRY, "dtype": "F31"}}), "unknown dtype"),
    "another name": (body({"lateral": latents()}), "has the tensors lateral, expected latents"),
    "one more": (body({"latents": latents(), "x": latents()}), "has the tensors latents, x, expected latents"),
    "other dimensions": (body({"latents": latents()[0]}), "expected [1, 4, any, any, any]"),
    "other channels": (body({"latents": latents()[:, :3]}), "expected [1, 4, any, any, any]"),
    "no frames": (body({"latents": latents()[:, :, :0]}), "expected [1, 4, any, any, any]"),
    "not a number": (body({"latents": latents() / 0}), "latents has numbers that are not finite"),
    "a name twice": (
        with_header(b'{"latents":%b,"latents":%b}' % ((json.dumps(ENTRY).encode(),) * 2), GOOD[8 + LENGTH :] + b"x"),
        "header tells of",
    ),
    "control characters": (with_header({"\x1b[2J": ENTRY}), "has the tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_is_none(asked, name):
    data, told = BAD[name]
    response = asked.post("/vae/decode", "vae", data)
    assert response.status_code == 400
    assert told in refusal(response)
    assert asked.text().status_code == 200


@pytest.mark.parametrize(
    ("path", "kind", "data", "told"),
    [
        ("/denoise", "denoiser", denoise("0" * 64, latents()[..., :3]), "expected a multiple of [1, 2, 2]"),
        ("/denoise", "denoiser", denoise("0" * 64)[:-8], "header tells of"),
        ("/denoise", "denoiser", body({"x": latents(), "timestep": torch.tensor([1])}), "missing required field"),
        ("/denoise", "denoiser", body({"x": latents(), "timestep": torch.tensor([1, 2])}), "timestep has shape"),
        ("/encode-image", "image_encoder", body({}), "the body has 0 pictures, expected 1 to 8"),
        ("/encode-image", "image_encoder", body({f"picture.{i}": torch.zeros(3, 1, 1) for i in range(9)}), "9 pic"),
        ("/encode-image", "image_encoder", body({"picture.1": torch.zeros(3, 4, 4)}), "expected picture.0"),
        ("/encode-image", "image_encoder", body({"picture.0": torch.zeros(4, 4, 4)}), "expected [3, any, any]"),
        ("/encode-image", "image_encoder", body({"picture.0": torch.zeros(3, 0, 4)}), "expected [3, any, any]"),
        ("/encode-image", "image_encoder", body({"picture.0": torch.zeros(3, 4, 4).half()}), "expected F32"),
        ("/encode-image", "image_encoder", body({"picture.0": torch.ones(3, 4, 4) / 0}), "not finite"),
        ("/vae/encode", "vae", body({"video": torch.zeros(1, 3, 4, 8, 8)}), "video has 4 frames of 8 x 8"),
        ("/vae/encode", "vae", body({"video": torch.zeros(1, 3, 5, 8, 12)}), "video has 5 frames of 12 x 8"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_model(asked, path, kind, data, told):
    response = asked.post(path, kind, data)
    assert response.status_code == 400
    assert told in refusal(response)


def test_conditions_and_calls_that_do_not_fit(asked):
    for condition, told in [
        (torch.ones(3, TEXT_DIM + 1), f"expected [any, {TEXT_DIM}]"),
        (torch.ones(513, TEXT_DIM), "condition has 513 rows, expected at most 512"),
        (torch.ones(3, TEXT_DIM) / 0, "condition has numbers that are not finite"),
    ]:
        data = body({"condition": condition})
        path = f"/conditions/{digest_of(data)}"
        response = asked.client.put(path, content=data, headers=asked.headers("denoiser"))
        assert response.status_code == 400
        assert told in refusal(response)
    data = body({"condition": torch.ones(3, TEXT_DIM)})
    digest = digest_of(data)
    asked.client.put(f"/conditions/{digest}", content=data, headers=asked.headers("denoiser"))
    other = asked.post("/denoise", "denoiser", denoise(digest, branch="other"))
    assert other.status_code == 400
    assert refusal(other) == "a call is for the branch 'other', which has no conditions"
    hollow = asked.post("/denoise", "denoiser", denoise(digest, latents() / 0))
    assert (hollow.status_code, refusal(hollow)) == (400, "x has numbers that are not finite")


def test_a_body_that_is_too_large_is_refused_before_any_of_it_is_read(asked):
    for kind, path in (("vae", "/vae/decode"), ("text_encoder", "/encode-text")):
        with leave(asked, path, kind, b"", num_bytes=10_000_000_000) as connection:
            answer = connection.makefile("rb").read()  # until it is closed
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"error":"a body of 10000000000 bytes, expected at most ' in answer


def test_json_that_does_not_end(asked):
    def chunks() -> Iterator[bytes]:
        for _ in range(MAX_JSON_BYTES // 1000 + 2):
            yield b" " * 1000

    headers = asked.headers("text_encoder")
    response = asked.client.post("/encode-text", content=chunks(), headers=headers)
    assert response.status_code == 413
    unmeasured = asked.client.post("/vae/decode", content=chunks(), headers=asked.headers("vae"))
    assert unmeasured.status_code == 411


def test_what_no_client_sends(asked):
    """All of it is refused before the app: still one line of JSON, and the connection is closed."""
    for data in (
        b"\x16\x03\x01\x02\x00" + bytes(500),
        b"GET /health HTTP/1.1\r\n\r\n",  # without a Host
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"POST /encode-text HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /encode-text HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ):
        with asked.raw(data) as connection:
            answer = connection.makefile("rb").read()
        head, _, told = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), data[:40]
        assert json.loads(told)["error"] == "this is no valid HTTP/1.1 request"
    assert asked.client.get("/health").status_code == 200


def test_a_header_that_does_not_end(asked):
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
    with asked.raw(head) as connection, suppress(ConnectionError):  # it is closed on us
        while connection.send(b"x" * 1000):
            pass
    assert asked.client.get("/health").status_code == 200


# Time


def test_a_body_that_comes_too_slowly(start):
    asked = start(chunk_seconds=0.05)

    def chunks() -> Iterator[bytes]:
        yield GOOD[:20]
        until(lambda: asked.load("vae").waiting == 0)
        yield GOOD[20:]

    headers = {**asked.headers("vae"), "Content-Length": str(len(GOOD))}
    response = asked.client.post("/vae/decode", content=chunks(), headers=headers)
    assert (response.status_code, refusal(response)) == (408, "the body comes too slowly")


def test_a_byte_now_and_then_keeps_no_body_alive(start):
    asked = start(chunk_seconds=0.3)
    with leave(asked, "/vae/decode", "vae", GOOD, 8) as connection:
        end = threading.Event()

        def drip() -> None:
            for byte in GOOD[8:]:
                if end.wait(0.05):
                    return
                with suppress(OSError):
                    connection.send(bytes([byte]))

        thread = threading.Thread(target=drip)
        thread.start()
        answer = connection.recv(1000)
        end.set()
        thread.join()
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_header_that_does_not_come_is_not_waited_for(start, monkeypatch):
    monkeypatch.setattr(Connection, "header_seconds", 0.05)
    asked = start()
    for data in (b"", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: local"):
        with asked.raw(data) as connection:
            assert connection.recv(1) == b""
    monkeypatch.setattr(Connection, "header_seconds", WAIT)
    with asked.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        monkeypatch.setattr(Connection, "header_seconds", 0.05)
        connection.sendall(b"GET /he")  # another, on the same connection
        while connection.recv(4096):
            pass


def test_an_answer_that_nobody_takes_is_not_waited_for(start, monkeypatch):
    monkeypatch.setattr(Connection, "read_seconds", 0.05)
    asked = start()
    with leave(
        asked, "/vae/decode", "vae", body({"latents": torch.zeros(1, CHANNELS, 30, 40, 40)})
    ):
        assert asked.toys.begun.acquire(timeout=WAIT)
        until(lambda: not asked.load("vae").busy)
    assert asked.load("vae").answered == 1
    assert asked.post("/vae/decode", "vae", GOOD).status_code == 200


def test_connections_beyond_a_number_are_closed(start, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 2)
    asked = start()
    assert asked.client.get("/health").status_code == 200
    with asked.raw(b""), asked.raw(b"") as last:
        assert _ends(last)
        assert asked.client.get("/health").status_code == 200


def _ends(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# The queue


def test_one_at_a_time_some_wait_and_others_are_told_to_come_again(start):
    asked = start(max_waiting=1)
    asked.toys.hold.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(asked.text, "one")
        assert asked.toys.begun.acquire(timeout=WAIT)
        second = pool.submit(asked.text, "two")
        until(lambda: asked.load("text_encoder").waiting == 1)
        third = asked.text("three")
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        assert refusal(third)
        # others have a queue of their own, and whoever asks how it is waits for nobody
        load = asked.load("text_encoder")
        assert (load.busy, load.waiting, load.answered) == (True, 1, 0)
        assert not asked.toys.begun.acquire(blocking=False)  # the second has not begun
        asked.toys.hold.set()
        assert [each.result().status_code for each in (first, second)] == [200, 200]
    assert asked.text("four").status_code == 200


def test_what_fails_is_one_line_and_holds_nobody_up(start):
    asked = start()
    asked.toys.fails = KeyError("/home/me/secret")
    assert refusal(asked.text()) == "it failed (KeyError)"
    asked.toys.fails = RunFailed("out of memory; try fewer frames")
    response = asked.post("/vae/decode", "vae", GOOD)
    assert (response.status_code, refusal(response)) == (500, "out of memory; try fewer frames")
    asked.toys.fails = None
    assert asked.text().status_code == 200
    assert asked.load("vae").busy is False


def test_who_leaves_the_queue_makes_room_at_once(start):
    asked = start(max_waiting=1)
    asked.toys.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(asked.text, "one")
        assert asked.toys.begun.acquire(timeout=WAIT)
        leave(asked, "/encode-text", "text_encoder", b'{"prompt":"two"}').close()
        until(lambda: asked.load("text_encoder").waiting == 0)
        asked.toys.hold.set()
        assert first.result().status_code == 200
    assert asked.load("text_encoder").answered == 1


def test_a_closed_connection_stops_the_work_between_two_chunks(asked):
    asked.toys.hold.clear()
    with leave(asked, "/vae/decode", "vae", body({"latents": latents(200)})):
        assert asked.toys.begun.acquire(timeout=WAIT)
    asked.toys.hold.set()
    until(lambda: not asked.load("vae").busy)
    count = 1
    while asked.toys.begun.acquire(blocking=False):
        count += 1
    assert count < 200
    assert asked.post("/vae/decode", "vae", GOOD).status_code == 200


def test_a_server_that_fails_within_an_answer_says_so_in_its_last_part(start):
    asked = start()

    def frames(given: Tensor, *, on_chunk) -> Iterator[Tensor]:
        yield torch.zeros(1, 3, 1, 32, 32)
        raise RunFailed("the memory is full")

    asked.server.served["vae"].component.decode = frames
    answer = asked.post("/vae/decode", "vae", GOOD)
    assert answer.status_code == 200
    assert b"the memory is full" in answer.content
    until(lambda: not asked.load("vae").busy)
