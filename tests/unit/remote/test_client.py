"""What is made of the answers of servers that are slow, busy, wrong or that mean harm."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx2 as httpx
import pytest
import torch

from engine.components.providers.remote import (
    RemoteDenoiser,
    RemoteImageEncoder,
    RemoteTextEncoder,
    RemoteVAE,
)
from engine.errors import ComponentError
from engine.models.seams import At
from engine.remote import client as client_module
from engine.remote import waiting
from engine.remote.client import Host, Refused, Unanswered
from engine.remote.contract import MAX_JSON_BYTES, Denoise, Progress, Told, digest_of
from engine.remote.wire import encoded, metadata_of
from store.blobs.tensors import decode_tensors, read_header
from tests.servers.toy_server import FACTS, GIVEN_CHANNELS, IMAGE_DIM, IMAGE_TOKENS, TEXT_DIM

URL = "http://127.0.0.1:8765"
Answer = Callable[[httpx.Request], httpx.Response]


@dataclass
class Network(httpx.AsyncBaseTransport):
    """Answers in the place of the network. asked: the requests, in order, with their bodies."""

    answer: Answer = lambda request: httpx.Response(404)
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = b"".join([chunk async for chunk in request.stream])
        self.asked.append((request.url.path, body))
        answer = self.answer(request)
        if not answer.is_stream_consumed:
            return answer
        # as it comes from a network: not read yet
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content)
        )


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    client = httpx.AsyncClient(transport=network, trust_env=False, follow_redirects=False)
    monkeypatch.setattr(client_module, "_clients", lambda pid, url, ca_file: client)
    monkeypatch.setattr(waiting.random, "uniform", lambda low, high: 0.0)
    return network


def told(kind: str) -> Told:
    identity = {"name": "toy"}
    return Told(identity=identity, facts=FACTS[kind], dtype="F32", digest=digest_of(identity, FACTS[kind]))  # fmt: skip


def states(**tensors: torch.Tensor) -> bytes:
    return b"".join(encoded(tensors or {"states": torch.ones(3, TEXT_DIM)}))


def encode(host: Host) -> torch.Tensor:
    return RemoteTextEncoder("text_encoder", host, told("text_encoder")).encode("a")


def in_turn(*answers: httpx.Response | Exception) -> Answer:
    left = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return answer


def refused(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": "no\nroom\x1b[2J"}, headers=headers)


def test_a_busy_host_is_asked_again(network):
    good = httpx.Response(200, content=states())
    network.answer = in_turn(refused(429), httpx.ReadError("gone"), refused(503), good)
    assert encode(Host(URL)).shape == (3, TEXT_DIM)
    assert [path for path, _ in network.asked] == ["/encode-text"] * 4
    network.answer = lambda request: refused(429)
    with pytest.raises(ComponentError, match=rf"^components.text_encoder: {URL}: no room\[2J$"):
        encode(Host(URL, retries=1))
    assert len(network.asked) == 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 500])
def test_a_refusal_is_final(network, status):
    network.answer = lambda request: refused(status)
    with pytest.raises(ComponentError, match="no room"):
        encode(Host(URL))
    assert len(network.asked) == 1


def test_nothing_is_followed(network):
    network.answer = lambda request: httpx.Response(307, headers={"Location": "http://evil/"})
    with pytest.raises(ComponentError, match="answered with status 307"):
        encode(Host(URL))
    assert len(network.asked) == 1


def test_a_body_beyond_what_the_host_takes_is_not_sent(network):
    vae = RemoteVAE("vae", Host(URL, max_bytes=1000), told("vae"))
    with pytest.raises(ComponentError, match="takes bodies of at most 1,000 bytes"):
        vae.encode(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(ComponentError, match="takes bodies of at most 1,000 bytes"):
        next(vae.decode(torch.zeros(1, 4, 2, 16, 16)))
    assert network.asked == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (states(states=torch.ones(3, TEXT_DIM) / 0), "token states that are not finite"),
        (states(states=torch.ones(513, TEXT_DIM)), "513 rows"),
        (states(states=torch.ones(3, TEXT_DIM + 1)), "states has shape"),
        (states(states=torch.ones(3, TEXT_DIM).half()), "states has dtype F16, expected F32"),
        (states(other=torch.ones(3, TEXT_DIM)), "has the tensors other"),
        (states()[:-1], "ends 1 bytes too early"),
        (states() + b"x", "bytes follow"),
        (b"", "it has no body"),
        (b"\xff" * 100, "not a safetensors body"),
    ],
)  # fmt: skip
def test_states_that_are_none(network, body, why):
    network.answer = lambda request: httpx.Response(200, content=body)
    with pytest.raises(ComponentError, match=why):
        encode(Host(URL))
    assert len(network.asked) == 1


@pytest.mark.parametrize(
    "environment", ["[]", "x", '{"a": [1]}', '{"a": 1.5}', '{"$a": "b"}', "{" * 9000, '{"a": "\x7f"}']
)  # fmt: skip
def test_an_environment_that_cannot_be_kept(network, environment):
    headers = {"X-Modiff-Environment": environment}
    network.answer = lambda request: httpx.Response(200, content=states(), headers=headers)
    with pytest.raises(ComponentError, match="tells of its environment what is no JSON object"):
        encode(Host(URL))


def test_an_environment_is_kept_in_one_form(network):
    headers = {"X-Modiff-Environment": '{"torch": "2.9",  "device":"cpu"}'}
    network.answer = lambda request: httpx.Response(200, content=states(), headers=headers)
    encoder = RemoteTextEncoder("text_encoder", Host(URL), told("text_encoder"))
    encoder.encode("a")
    assert encoder.environment == '{"device":"cpu","torch":"2.9"}'


def test_tokens_of_pictures(network):
    encoder = RemoteImageEncoder("image_encoder", Host(URL), told("image_encoder"))
    pictures = [torch.rand(3, 5, 4), torch.rand(3, 2, 9).half()]
    good = torch.ones(2 * IMAGE_TOKENS, IMAGE_DIM)
    for tokens, why in [
        (good, ""), (good[:2].clone(), r"tokens has shape \[2, 6\], expected \[4, 6\]"),
        (good.half(), "has dtype F16"), (good / 0, "tokens that are not finite"),
    ]:  # fmt: skip
        content = states(tokens=tokens)
        network.answer = lambda request, content=content: httpx.Response(200, content=content)
        if why:
            with pytest.raises(ComponentError, match=why):
                encoder.encode(pictures)
        else:
            assert torch.equal(encoder.encode(pictures), good)
    path, sent = network.asked[0]
    assert path == "/encode-image"
    found = decode_tensors(sent)
    assert torch.equal(found["picture.0"], pictures[0])
    assert torch.equal(found["picture.1"], pictures[1].float())


def test_given_frames_that_branches_share_are_sent_once(network):
    def answer(request: httpx.Request) -> httpx.Response:
        _, sent = network.asked[-1]
        if request.method == "PUT":
            return httpx.Response(204)
        if sum(path == "/denoise" for path, _ in network.asked) == 1:
            header = read_header(sent[8 : 8 + int.from_bytes(sent[:8], "little")])
            named = metadata_of(header, Denoise).branches.values()
            digests = [digest for each in named for digest in each.values()]
            return httpx.Response(409, json={"error": "missing", "missing": digests})
        found = {f"velocity.{index}": torch.zeros(1, 4, 2, 4, 4) for index in range(2)}
        return httpx.Response(200, content=states(**found))

    network.answer = answer
    given = torch.ones(GIVEN_CHANNELS, 2, 4, 4)
    names = ("positive", "negative")
    texts = [torch.full((2, TEXT_DIM), value) for value in (1.0, 2.0)]
    branches = {
        name: {"text": text, "latents": given} for name, text in zip(names, texts, strict=True)
    }
    denoiser = RemoteDenoiser("denoiser", Host(URL), told("denoiser"))
    with denoiser.begin(branches) as predict:
        predict(
            torch.zeros(1, 4, 2, 4, 4), torch.tensor([1]), [At(0, 1, 1.0, name) for name in names]
        )
    puts = [
        decode_tensors(sent)["condition"]
        for path, sent in network.asked
        if path.startswith("/conditions/")
    ]
    assert [tuple(each.shape) for each in puts] == [
        (2, TEXT_DIM),
        (GIVEN_CHANNELS, 2, 4, 4),
        (2, TEXT_DIM),
    ]


def velocity(denoiser: RemoteDenoiser) -> torch.Tensor:
    with denoiser.begin({"positive": {"text": torch.ones(2, TEXT_DIM)}}) as predict:
        x, timestep = torch.zeros(1, 4, 1, 2, 2), torch.tensor([1])
        return predict(x, timestep, [At(0, 1, 1.0, "positive")])[0]


def test_a_condition_is_sent_once_however_often_it_is_missed(network):
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            return httpx.Response(204)
        digest = _digest(network.asked[-1][1])
        return httpx.Response(409, json={"error": "missing", "missing": [digest] * 50})

    network.answer = answer
    denoiser = RemoteDenoiser("denoiser", Host(URL), told("denoiser"))
    with pytest.raises(ComponentError, match="has not the conditions that it was just sent"):
        velocity(denoiser)
    assert [path.split("/")[1] for path, _ in network.asked] == ["denoise", "conditions", "denoise"]


def _digest(body: bytes) -> str:
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    wanted = json.loads(header["__metadata__"]["modiff"])
    return wanted["branches"]["positive"]["text"]


def test_a_condition_that_the_run_has_not_is_not_made_up(network):
    network.answer = lambda request: httpx.Response(409, json={"error": "x", "missing": ["0" * 64]})
    denoiser = RemoteDenoiser("denoiser", Host(URL), told("denoiser"))
    with pytest.raises(ComponentError, match="asks for a condition that this run has not"):
        velocity(denoiser)


def parts(*given: tuple[dict[str, torch.Tensor], Progress]) -> httpx.Response:
    return httpx.Response(200, content=b"".join(b"".join(encoded(*part)) for part in given))


FRAME = {"frames": torch.zeros(1, 3, 1, 8, 8)}
LAST = ({}, Progress(is_last=True))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([LAST], "sent 1 frames too few"),
        ([(FRAME, Progress()), (FRAME, Progress()), LAST], "more frames than the latents make"),
        ([(FRAME, Progress())], "ends before its last part"),
        ([(FRAME, Progress()), LAST, LAST], "bytes follow"),
        ([(FRAME, Progress()), ({}, Progress()), LAST], "a part with nothing in it"),
        ([(FRAME, Progress()), ({}, Progress(error="the\nmemory is full"))], f"{URL}: the memory is full"),
        ([({"frames": torch.zeros(1, 3, 1, 8, 16)}, Progress()), LAST], "frames has shape"),
    ],
)  # fmt: skip
def test_frames_that_are_none(network, given, why):
    network.answer = lambda request: parts(*given)
    vae = RemoteVAE("vae", Host(URL, retries=0), told("vae"))
    with pytest.raises(ComponentError, match=why):
        list(vae.decode(torch.zeros(1, 4, 1, 1, 1)))


class Endless(httpx.AsyncByteStream):
    def __init__(self) -> None:
        self.num_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.num_bytes += 1000
            yield b" " * 1000


@pytest.mark.parametrize("status", [200, 404])
def test_json_without_end_is_not_read_to_its_end(network, status):
    endless = Endless()
    network.answer = lambda request: httpx.Response(status, stream=endless)
    with pytest.raises(Refused, match=f"more than {MAX_JSON_BYTES} bytes"):
        Host(URL).fingerprint()
    assert endless.num_bytes <= MAX_JSON_BYTES + 1000


def test_a_sign_of_life_without_end_is_none(network):
    """Where the work takes long and the host is asked whether it lives, that is read no further than a sign is long."""
    endless = Endless()

    class Silent(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await asyncio.sleep(60)
            yield b""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health":
            return httpx.Response(200, stream=endless)
        return httpx.Response(200, stream=Silent())

    network.answer = answer
    with pytest.raises(ComponentError):
        encode(Host(URL, timeout=0.1, retries=0))
    assert endless.num_bytes <= MAX_JSON_BYTES + 1000


def test_what_is_compressed_is_not_read(network):
    headers = {"Content-Encoding": "gzip"}
    network.answer = lambda request: httpx.Response(200, stream=Endless(), headers=headers)
    with pytest.raises(Refused, match="is compressed, which nobody asked for"):
        Host(URL).fingerprint()


def test_who_gives_up_is_not_waited_for(network):
    class Stopped(Exception):
        pass

    def check() -> None:
        if network.asked:
            raise Stopped

    network.answer = lambda request: refused(429, **{"Retry-After": "3600"})
    with pytest.raises(Stopped):
        encode(Host(URL, check=check))


def test_threads_that_ask_at_once_share_one_loop(monkeypatch):
    """Or connections would belong to a loop that is not the one they are used in."""
    waiting._loop.cache_clear()
    client_module._clients.cache_clear()
    made, begun = [], threading.Barrier(8, timeout=60)
    new = asyncio.new_event_loop

    def slowly():
        time.sleep(0.01)
        made.append(new())
        return made[-1]

    monkeypatch.setattr(waiting.asyncio, "new_event_loop", slowly)

    def ask(number: int) -> None:
        begun.wait()
        with pytest.raises(Unanswered):
            Host("http://127.0.0.1:9", retries=0).health()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(made) == 1


def test_nobody_there():
    with pytest.raises(Unanswered, match="does not answer"):
        Host("http://127.0.0.1:9", retries=0).health()
