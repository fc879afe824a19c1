"""The conformance test: whether a server speaks the contract, one named check after another (docs/remote.md).

It asks as a client would, and as one that means harm would: both must get the answer that the contract has for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2 as httpx
import msgspec
import torch
from torch import Tensor

from engine.remote.contract import (
    CONDITIONS,
    CONTRACT,
    EXPECTS,
    FACTS,
    JSON,
    MAX_BODY_BYTES,
    MAX_JSON_BYTES,
    MAX_TOKENS,
    TENSORS,
    Call,
    Condition,
    Denoise,
    Fingerprint,
    Health,
    Progress,
    Prompt,
    Refusal,
    condition_shape,
    one_line,
    path_of,
    wrong_in,
)
from engine.remote.hosts import certificates, host_at, token_of
from engine.remote.wire import BadBody, Body, Reader, encoded, expect
from store.blobs.tensors import Header

WAIT_SECONDS = 120.0
_HEALTH_SECONDS = 10.0
_MOST_PARTS = 10_000

Data = bytes | AsyncIterator[bytes]


@dataclass(frozen=True)
class Finding:
    """name: what is to be so. wrong: what is instead, "" where it is so."""

    name: str
    wrong: str = ""


class _Wrong(Exception):
    """What is not as it should be, in one line."""


@dataclass(frozen=True)
class _Said:
    status: int
    headers: Mapping[str, str]
    data: bytes = b""
    bodies: tuple[Body, ...] = ()


Check = tuple[str, Callable[[], Awaitable[None]]]


def check(url: str, seconds: float = WAIT_SECONDS) -> list[Finding]:
    """All that could be checked: after a check without which the others make no sense, no more.

    url: as of `checked_url`. seconds: for which an answer is waited. Raises ComponentError where a token or
    certificate that belongs to the address cannot be had.
    """
    known = host_at(url)
    verify: Any = certificates(known.ca_file) if known and known.ca_file else True
    token = token_of(known)

    async def run() -> list[Finding]:
        async with httpx.AsyncClient(
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=seconds,
            # a server may close a connection after each answer: that is not what is checked
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as client:
            return await _Server(url, client, token).findings()

    return asyncio.run(run())


class _Server:
    def __init__(self, url: str, client: httpx.AsyncClient, token: str) -> None:
        self.url = url
        self.client = client
        self.token = token
        self.fingerprint = Fingerprint(contract=CONTRACT, components={}, max_body_bytes=0)

    async def findings(self) -> list[Finding]:
        found = []
        for name, run in (
            ("answers GET /health", self.health),
            ("tells in GET /fingerprint what it serves", self.tells),
        ):
            found.append(await _found(name, run))
            if found[-1].wrong:
                return found
        checks: list[Check] = [
            ("says what it does not have by a status and a line of JSON", self.unknown),
            ("refuses what a page of a browser sends", self.page),
            ("refuses who does not know its token", self.no_token)
            if self.token
            else ("refuses to be called by another name", self.other_host),
            ("answers GET /health while a request comes in", self.beside),
        ]
        for kind, of_kind in (
            ("text_encoder", self.text),
            ("image_encoder", self.image),
            ("denoiser", self.denoiser),
            ("vae", self.vae),
        ):
            if kind in self.fingerprint.components:
                checks += [
                    (f"{kind}: refuses requests for another one", partial(self.another, kind)),
                    (f"{kind}: refuses bodies that are too large, unread", partial(self.large, kind)),
                    (f"{kind}: refuses what is no body of it", partial(self.nonsense, kind)),
                    *of_kind(),
                ]  # fmt: skip
        checks.append(("answers as before after all that", self.health))
        return [*found, *[await _found(name, run) for name, run in checks]]

    # All servers

    async def health(self) -> None:
        _json(await self._ask("GET", path_of("health")), Health)

    async def tells(self) -> None:
        said = await self._ask("GET", path_of("fingerprint"))
        self.fingerprint = _json(said, Fingerprint)
        if self.fingerprint.contract != CONTRACT:
            raise _Wrong(f"speaks contract {self.fingerprint.contract}, expected {CONTRACT}")
        if self.fingerprint.max_body_bytes < 1024:
            raise _Wrong(
                f"max_body_bytes is {self.fingerprint.max_body_bytes}, expected 1024 or more"
            )
        known = {k: v for k, v in self.fingerprint.components.items() if k in FACTS}
        if not known:
            raise _Wrong(f"serves none of {', '.join(FACTS)}")
        for kind, told in known.items():
            if wrong := wrong_in(kind, told):
                raise _Wrong(f"{kind}: {wrong}")

    async def unknown(self) -> None:
        _refused(await self._ask("GET", "/there-is-no-such-path"), 404)

    async def page(self) -> None:
        said = await self._ask("GET", path_of("health"), headers={"Origin": "http://evil.example"})
        _refused(said, 403)

    async def other_host(self) -> None:
        said = await self._ask("GET", path_of("health"), headers={"Host": "evil.example"})
        _refused(said, 403)

    async def no_token(self) -> None:
        for authorization in ("", "Bearer wrong"):
            said = await self._ask(
                "GET", path_of("health"), headers={"Authorization": authorization}
            )
            _refused(said, 401)

    async def beside(self) -> None:
        kind = next(kind for kind in FACTS if kind in self.fingerprint.components)
        path, content_type = _request_of(kind)
        wrong = []

        async def slowly() -> AsyncIterator[bytes]:
            yield b" "
            try:
                await asyncio.wait_for(self.health(), _HEALTH_SECONDS)
            except (TimeoutError, _Wrong) as error:
                wrong.append(f"no answer within {_HEALTH_SECONDS:g} s: {error}".rstrip(": "))
            yield b" " * 9

        headers = {"Content-Type": content_type, "Content-Length": "10", **self._expects(kind)}
        await self._ask("POST", path, slowly(), headers)
        if wrong:
            raise _Wrong(wrong[0])

    # Each kind

    async def another(self, kind: str) -> None:
        path, content_type = _request_of(kind)
        for expects in ({EXPECTS: "0" * 64}, {}):
            headers = {"Content-Type": content_type, **expects}
            _refused(await self._ask("POST", path, _good_body(kind), headers), 412)

    async def large(self, kind: str) -> None:
        path, content_type = _request_of(kind)
        most = MAX_JSON_BYTES if kind == "text_encoder" else self.fingerprint.max_body_bytes

        async def begun() -> AsyncIterator[bytes]:
            # who closes the connection on it is noticed by the next piece
            for _ in range(int(_HEALTH_SECONDS * 20)):
                yield b" " * 1000
                await asyncio.sleep(0.05)
            raise _Wrong("waits for a body that it has to refuse by its length")

        headers = {
            "Content-Type": content_type,
            "Content-Length": str(most + 10_000_000_000),
            **self._expects(kind),
        }
        try:
            said = await self._ask("POST", path, begun(), headers)
        except _Unanswered:
            return  # closing the connection on it is an answer too
        _refused(said, 413)

    async def nonsense(self, kind: str) -> None:
        path, content_type = _request_of(kind)
        cases = {"nothing": b"", "zeros": bytes(64), "text": b"prompt"}
        if kind == "text_encoder":
            cases |= {"another JSON": b'{"prompt": 1}', "a list": b"[]"}
        else:
            good = _good_body(kind)
            length = int.from_bytes(good[:8], "little")
            cases |= {
                "a header that never ends": b"\xff" * 8 + good[8:],
                "a body cut short": good[:-4],
                "a body with more behind it": good + b"more",
                "another name of the tensor": _renamed(good),
                "tensors that overlap": _overlapping(),
                "numbers that are not finite": good[: 8 + length] + b"\xff" * (len(good) - 8 - length),
            }  # fmt: skip
        for name, data in cases.items():
            headers = {"Content-Type": content_type, **self._expects(kind)}
            said = await self._ask("POST", path, data, headers)
            try:
                _refused(said, 400, 409, 411, 413)
            except _Wrong as error:
                raise _Wrong(f"{name}: {error}") from None

    def text(self) -> list[Check]:
        told = self.fingerprint.components["text_encoder"]
        width = told.facts["text_dim"]

        def header_fits(header: Header) -> None:
            expect(header, {"states": ((told.dtype,), (None, width))})

        async def states(prompt: str) -> Tensor:
            data = msgspec.json.encode(Prompt(prompt=prompt))
            body = await self._tensors("text_encoder", data, header_fits)
            found = body.tensors["states"]
            if len(found) > MAX_TOKENS:
                raise _Wrong(f"states has {len(found)} rows, expected at most {MAX_TOKENS}")
            return _finite(found, "states")

        async def good() -> None:
            await states("a red circle moves up")
            await states("")

        async def same() -> None:
            first, second = [await states("a red circle moves up") for _ in range(2)]
            if not torch.equal(first, second):
                raise _Wrong("one prompt has other states each time")
            other = await states("a blue square moves down")
            rows = min(len(first), len(other))
            if torch.equal(first[:rows], other[:rows]):
                raise _Wrong("another prompt has the same states")

        async def rows() -> None:
            short, long = await states("a"), await states("a red circle moves up " * 20)
            if len(short) >= len(long):
                raise _Wrong(
                    f"one word has {len(short)} rows, a hundred have {len(long)}: expected one for each real token, no "
                    "padding"
                )
            await states("a red circle " * 1000)

        return [
            (f"text_encoder: gives finite states {told.dtype} [L,{width}]", good),
            ("text_encoder: gives the same states for the same prompt, others for another", same),
            (f"text_encoder: has a row for each token, {MAX_TOKENS} at most", rows),
        ]

    def image(self) -> list[Check]:
        told = self.fingerprint.components["image_encoder"]
        rows, width = told.facts["image_tokens"], told.facts["image_dim"]
        pictures = [_waves(3, 40, 65), _waves(3, 33, 32).flip(1)]

        async def tokens(*given: Tensor) -> Tensor:
            named = {f"picture.{index}": each for index, each in enumerate(given)}
            shape = (len(given) * rows, width)
            body = await self._tensors(
                "image_encoder",
                b"".join(encoded(named)),
                lambda header: expect(header, {"tokens": ((told.dtype,), shape)}),
            )
            return _finite(body.tensors["tokens"], "tokens")

        async def same() -> None:
            first, second = [await tokens(pictures[0]) for _ in range(2)]
            if not torch.equal(first, second):
                raise _Wrong("one picture has other tokens each time")
            if torch.equal(first, await tokens(pictures[1])):
                raise _Wrong("another picture has the same tokens")

        async def in_order() -> None:
            both = (await tokens(*pictures)).float().split(rows)
            alone = [(await tokens(each)).float() for each in pictures]
            for index, found in enumerate(both):
                own, other = ((found - alone[at]).norm() for at in (index, 1 - index))
                if not own < other:
                    raise _Wrong("the tokens of two pictures are not in the order of the pictures")

        return [
            ("image_encoder: gives the same tokens for the same picture, others for another", same),
            (f"image_encoder: gives finite tokens {told.dtype} [{rows} a picture,{width}]", in_order),
        ]  # fmt: skip

    def denoiser(self) -> list[Check]:
        facts = self.fingerprint.components["denoiser"].facts
        patch = facts.get("patch_size", [1, 1, 1])
        shape = (1, facts["latent_channels"], *[2 * step for step in patch])
        x = _waves(*shape)
        takes = [each for each in CONDITIONS if each in facts.get("takes", ["text"])]
        # of each condition two
        conditions = {name: _conditions(name, facts, shape[2:]) for name in takes}
        digests = {name: [_digest(data) for data in both] for name, both in conditions.items()}

        async def ask(count: int = 1, other: Mapping[str, str] | None = None) -> _Said:
            branches = {
                f"branch {i}": {name: both[i] for name, both in digests.items()} | dict(other or {})
                for i in range(count)
            }
            calls = [Call(step=0, total=2, sigma=0.9, branch=branch) for branch in branches]
            data = b"".join(
                encoded(
                    {"x": x, "timestep": torch.tensor([900.0])},
                    Denoise(branches=branches, calls=calls),
                )
            )
            return await self._posted(
                "denoiser", data, lambda header: _velocities(header, count, shape)
            )

        async def put(digest: str, data: bytes) -> _Said:
            path = path_of("condition").format(digest=digest)
            headers = {"Content-Type": TENSORS, **self._expects("denoiser")}
            return await self._ask("PUT", path, data, headers)

        async def conditions_once() -> None:
            said = await ask()
            if said.status != 200:  # of an earlier check it may have them
                refusal, expected = (
                    _refused(said, 409),
                    sorted(both[0] for both in digests.values()),
                )
                if sorted(refusal.missing) != expected:
                    raise _Wrong(f"says that {refusal.missing} are missing, expected {expected}")
            _refused(await put(digests[takes[0]][1], conditions[takes[0]][0]), 400)
            for name in takes:
                for digest, data in zip(digests[name], conditions[name], strict=True):
                    if (status := (await put(digest, data)).status) != 204:
                        raise _Wrong(
                            f"the condition {name} is answered with {status}, expected 204"
                        )

        async def velocities() -> None:
            first, second = [_one(await ask(2)).tensors for _ in range(2)]
            for name, found in first.items():
                if not torch.equal(_finite(found, name), second[name]):
                    raise _Wrong(f"{name} is another one each time")
            if torch.equal(first["velocity.0"], first["velocity.1"]):
                raise _Wrong("other conditions make the same velocity")

        async def mixed_up() -> None:
            for name in takes[1:]:
                _refused(await ask(1, {name: digests["text"][0]}), 400)
            if "latents" in takes:
                larger = _conditions("latents", facts, [2 * size for size in shape[2:]])[0]
                await put(_digest(larger), larger)
                _refused(await ask(1, {"latents": _digest(larger)}), 400)

        return [
            ("denoiser: takes conditions once, by their digests", conditions_once),
            ("denoiser: gives finite velocities F32 of the latents' shape", velocities),
            *([("denoiser: refuses conditions of another name or size", mixed_up)] if takes[1:] else []),
        ]  # fmt: skip

    def vae(self) -> list[Check]:
        facts = self.fingerprint.components["vae"].facts
        frames, rows, columns = facts["latent_stride"]
        size = (1, facts["latent_channels"], 2, 4, 4)
        shape = (1, 3, 1 + frames, 4 * rows, 4 * columns)

        async def encode() -> None:
            video = _waves(*shape)
            data = b"".join(encoded({"video": video}))

            async def latents() -> Tensor:
                said = await self._posted(
                    "vae",
                    data,
                    lambda header: expect(header, {"latents": (("F32",), size)}),
                    path_of("vae_encode"),
                )
                return _finite(_one(said).tensors["latents"], "latents")

            if not torch.equal(await latents(), await latents()):
                raise _Wrong("one video has other latents each time")

        def part(header: Header) -> None:
            if header.tensors:
                expect(header, {"frames": (("F32",), (1, 3, None, *shape[3:]))})

        async def decode() -> None:
            latents = _waves(*size)
            said = await self._posted("vae", b"".join(encoded({"latents": latents})), part)
            if said.status != 200:
                _refused(said, 200)
            told = [body.metadata(Progress) for body in said.bodies]
            if failed := next((each.error for each in told if each.error), ""):
                raise _Wrong(f"a part tells of an error: {one_line(failed)}")
            if not told or [each.is_last for each in told].index(True) != len(told) - 1:
                raise _Wrong("the last part, and only that, must be told as the last")
            found = [body.tensors["frames"] for body in said.bodies if body.tensors]
            count = sum(each.shape[2] for each in found)
            if count != shape[2]:
                raise _Wrong(f"gives {count} frames for 2 latents, expected {shape[2]}")
            for each in found:
                if float(_finite(each, "frames").abs().max()) > 1.0:
                    raise _Wrong("frames has numbers outside of -1 to 1")

        return [
            ("vae: encodes videos to finite latents F32", encode),
            ("vae: decodes latents part by part", decode),
        ]

    # Asking

    def _expects(self, kind: str) -> dict[str, str]:
        return {EXPECTS: self.fingerprint.components[kind].digest}

    async def _posted(
        self, kind: str, data: bytes, header_fits: Callable[[Header], None], path: str = ""
    ) -> _Said:
        at, content_type = _request_of(kind)
        headers = {"Content-Type": content_type, **self._expects(kind)}
        return await self._ask("POST", path or at, data, headers, header_fits)

    async def _tensors(self, kind: str, data: bytes, header_fits: Callable[[Header], None]) -> Body:
        return _one(await self._posted(kind, data, header_fits))

    async def _ask(
        self,
        method: str,
        path: str,
        data: Data | None = None,
        headers: Mapping[str, str] | None = None,
        header_fits: Callable[[Header], None] | None = None,
    ) -> _Said:
        sent = {"Accept-Encoding": "identity"}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        async with self._answered(method, path, data, {**sent, **(headers or {})}) as response:
            if 300 <= response.status_code < 400:
                raise _Wrong(
                    f"{path}: redirects to another address (status {response.status_code})"
                )
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _Wrong(f"{path}: the answer is compressed, which nobody asked for")
            if header_fits is not None and response.status_code == 200:
                bodies = await _bodies(response, header_fits)
                return _Said(200, response.headers, bodies=bodies)
            content = b""
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > MAX_JSON_BYTES:
                    raise _Wrong(f"{path}: answers with more than {MAX_JSON_BYTES} bytes of JSON")
            return _Said(response.status_code, response.headers, content)

    @asynccontextmanager
    async def _answered(
        self, method: str, path: str, data: Data | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self.client.stream(
                method, self.url + path, content=data, headers=dict(headers)
            ) as response:
                yield response
        except httpx.TimeoutException:
            raise _Unanswered(f"{path}: there is no answer") from None
        except httpx.TransportError as error:
            raise _Unanswered(f"{path}: {one_line(str(error)) or type(error).__name__}") from None


class _Unanswered(_Wrong):
    """The connection failed."""


async def _found(name: str, run: Callable[[], Awaitable[None]]) -> Finding:
    try:
        await run()
    except (_Wrong, BadBody) as error:
        return Finding(name, one_line(str(error)))
    return Finding(name)


async def _bodies(
    response: httpx.Response, header_fits: Callable[[Header], None]
) -> tuple[Body, ...]:
    if response.headers.get("Content-Type", "").partition(";")[0] != TENSORS:
        raise _Wrong(f"the answer is {response.headers.get('Content-Type')!r}, expected {TENSORS}")
    reader = Reader(response.aiter_raw(), MAX_BODY_BYTES)
    found: list[Body] = []
    while (body := await reader.body(header_fits)) is not None:
        found.append(body)
        if len(found) > _MOST_PARTS:
            raise _Wrong(f"more than {_MOST_PARTS} parts")
    return tuple(found)


def _one(said: _Said) -> Body:
    if said.status != 200:
        raise _Wrong(f"answered with {said.status}, expected 200 ({_reason(said)})")
    if len(said.bodies) != 1:
        raise _Wrong(f"the answer has {len(said.bodies)} bodies, expected 1")
    return said.bodies[0]


def _json(said: _Said, struct: type[Any]) -> Any:
    if said.status != 200:
        raise _Wrong(f"answered with {said.status}, expected 200 ({_reason(said)})")
    try:
        return msgspec.json.decode(said.data, type=struct)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Wrong(f"is no {struct.__name__}: {error}") from None


def _refused(said: _Said, *expected: int) -> Refusal:
    if said.status not in expected:
        wanted = " or ".join(map(str, expected))
        raise _Wrong(f"answered with {said.status}, expected {wanted} ({_reason(said)})")
    try:
        return msgspec.json.decode(said.data, type=Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _Wrong(
            f"the answer {said.status} has no line of why: expected " + '{"error": "..."} as JSON'
        ) from None


def _reason(said: _Said) -> str:
    try:
        return one_line(msgspec.json.decode(said.data, type=Refusal).error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "without a line of why"


def _finite(tensor: Tensor, name: str) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise _Wrong(f"{name} has numbers that are not finite")
    return tensor


def _velocities(header: Header, count: int, shape: Sequence[int]) -> None:
    expect(header, {f"velocity.{index}": (("F32",), shape) for index in range(count)})


def _request_of(kind: str) -> tuple[str, str]:
    """Path and content type of the first thing that a kind is asked for."""
    names = {
        "text_encoder": "encode_text", "image_encoder": "encode_image", "denoiser": "denoise", "vae": "vae_decode"
    }  # fmt: skip
    return path_of(names[kind]), JSON if kind == "text_encoder" else TENSORS


def _good_body(kind: str) -> bytes:
    """One that is good but for the sizes, which are anybody's."""
    if kind == "text_encoder":
        return msgspec.json.encode(Prompt(prompt="a red circle"))
    if kind == "image_encoder":
        return b"".join(encoded({"picture.0": torch.zeros(3, 16, 16)}))
    tensor = torch.zeros(1, 4, 2, 4, 4)
    if kind == "vae":
        return b"".join(encoded({"latents": tensor}))
    return b"".join(encoded({"timestep": torch.zeros(1), "x": tensor}))


def _renamed(body: bytes) -> bytes:
    """With another name of its tensor, as long as the right one."""
    for name, other in ((b'"latents"', b'"lateral"'), (b'"x"', b'"y"'), (b"picture.", b"drawing.")):
        body = body.replace(name, other)
    return body


def _waves(*shape: int) -> Tensor:
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float32)).reshape(shape)


def _conditions(name: str, facts: Mapping[str, Any], size: Sequence[int]) -> list[bytes]:
    """Two bodies of a condition. size: frames, rows and columns of the noisy latents."""
    wanted = condition_shape(name, facts)
    sizes = size if name == "latents" else [3]
    free = iter(sizes)
    shape = [next(free) if length is None else length for length in wanted]
    metadata = None if name == "text" else Condition(name=name)
    return [
        b"".join(encoded({"condition": each.contiguous()}, metadata)) for each in _waves(2, *shape)
    ]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _overlapping() -> bytes:
    header = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for name in ("latents", "picture.0", "timestep", "x")
    }
    text = msgspec.json.encode(header)
    return len(text).to_bytes(8, "little") + text + bytes(8)
