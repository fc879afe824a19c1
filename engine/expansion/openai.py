"""Prompt expansion by any server that speaks like OpenAI's: vLLM, SGLang, mlx-lm, llama.cpp, Ollama, and services.

Nothing is asked before there is something to expand: what the component is, the run says itself. Where the server is
and which key it wants is nobody's affair but the call's: the key stands in one header of one request, and in no
message, log or record.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine.components.protocols import Description
from engine.errors import ComponentError
from engine.expansion.answer import KEY, Answer, Asked
from engine.expansion.options import Options
from engine.remote.contract import one_line
from engine.remote.hosts import checked_url
from engine.remote.waiting import AGAIN, Again, repeated, retry_after, wait
from presets.errors import PresetError
from presets.fields.checks import build
from presets.spec.components import PromptExpanderSpec
from store.lineage.events import CallAnswered

if TYPE_CHECKING:
    import httpx2 as httpx

    from engine.reports import Control
    from store.index.index import Index

MAX_BODY_BYTES = 4 << 20
"""Of an answer with all that is around it: a stream has some hundred bytes a token."""

_CONNECT_SECONDS = 5.0
_MODELS_SECONDS = 5.0
# However alive it looks, an answer that takes longer than so many silences never ends.
_MAX_SILENCES = 20
_STREAM = "text/event-stream"


def describe(spec: PromptExpanderSpec, index: Index) -> Description:
    """By its name alone: what a server makes of one prompt is stored, and no later server is held to it. What is
    stored needs none, so that a run from elsewhere may come without an address."""
    url = _url(spec) if spec.url else ""
    _options(spec)
    # a bundle leaves out all but the last part, which may be a path
    model = spec.checkpoint.rstrip("/").rpartition("/")[2]
    return Description(
        identity={"name": spec.name, "model": model},
        facts={},
        resident=f"{url} {spec.checkpoint} {spec.api_key_env} {msgspec.json.encode(spec.options).decode()}",
    )


def check_can_ask(spec: PromptExpanderSpec) -> None:
    """Raises ComponentError where there is nobody to ask."""
    _url(spec)


def load(spec: PromptExpanderSpec, about: Description) -> Chat:
    """Raises ComponentError where the variable that is to hold the key does not."""
    options = _options(spec)
    key = _key_in(spec.api_key_env)
    return Chat(
        _url(spec), spec.checkpoint, spec.api_key_env, options.timeout, options.retries, key
    )


def _url(spec: PromptExpanderSpec) -> str:
    if not spec.url:
        raise ComponentError(
            "is empty; give the address of a server that speaks like OpenAI's, such as http://127.0.0.1:8080/v1",
            key=f"{KEY}.url",
        )
    url = checked_url(spec.url, f"{KEY}.url")
    return url if url.count("/") > 2 else f"{url}/v1"


def _options(spec: PromptExpanderSpec) -> Options:
    try:
        return build(spec.options, Options)
    except PresetError as error:
        raise PresetError(error.problem, key=f"{KEY}.options.{error.key}") from None


def _key_in(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ComponentError(
            f"the key of the server is to be in ${variable}, which is not set where this runs; an engine keeps the "
            "environment that it was started in: set it, then `modiff engine stop`",
            key=f"{KEY}.api_key_env",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ComponentError(
            f"what ${variable} holds is no key: expected letters, digits and signs without spaces",
            key=f"{KEY}.api_key_env",
        )
    return key


@dataclass(frozen=True)
class Chat:
    """A server at one address. key_name: of the variable that the key is in."""

    url: str
    model: str
    key_name: str
    timeout: float
    retries: int
    key: str = field(default="", repr=False)
    control: Control | None = None

    def watched(self, control: Control) -> Chat:
        """The same, for one run: it gives up where that is asked to stop, and tells of its call."""
        return replace(self, control=control)

    def expand(self, asked: Asked) -> Answer:
        """As of `PromptExpander`."""
        served = self._served_if_told() if self.model else self._served()
        model = self.model or (served[0] if served else "")
        if not model:
            raise self._refused(
                "does not tell which models it has; name one in components.prompt_expander.checkpoint"
            )
        body: dict[str, Any] = {
            "model": model,
            "messages": asked.messages,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "max_tokens": asked.max_tokens,
            "seed": asked.seed,
            "stream": True,
        }
        begun = time.perf_counter()
        try:
            told = self._asked(body)
        except _OtherLimit:
            body["max_completion_tokens"] = body.pop("max_tokens")
            told = self._asked(body)
        if self.control is not None:
            self.control.emit(
                CallAnswered(
                    component="prompt_expander",
                    host=self.url,
                    sent_bytes=len(msgspec.json.encode(body)),
                    received_bytes=told.num_bytes,
                    seconds=time.perf_counter() - begun,
                )
            )
        if told.refusal:
            raise self._refused(f"refuses: {one_line(told.refusal)}")
        if told.reason == "content_filter":
            raise self._refused("withholds the answer (content_filter)")
        # a server of one model takes any name, and says by its list what it has
        name = served[0] if len(served) == 1 else told.model or model
        return Answer(raw=told.text, model=name[:200], is_cut=told.reason == "length")

    def _asked(self, body: Mapping[str, Any]) -> _Told:
        data = msgspec.json.encode(body)
        return repeated(lambda: wait(self._answered(data), self._check), self.retries, self._check)

    def _check(self) -> None:
        if self.control is not None:
            self.control.check()

    def _served(self) -> list[str]:
        """The models that the server lists; none where it has no list."""
        return repeated(lambda: wait(self._listed(), self._check), self.retries, self._check)

    def _served_if_told(self) -> list[str]:
        """The same, none where that fails: whether the server is there at all, the call itself tells better."""
        try:
            return wait(self._listed(), self._check)
        except (Again, ComponentError):
            return []

    async def _listed(self) -> list[str]:
        async def ask() -> list[str]:
            async with self._response("GET", "/models") as response:
                if response.status_code == 404:
                    return []
                await self._check_status(response)
                data = b"".join([chunk async for chunk in self._limited(response)])
            return [each.id for each in msgspec.json.decode(data, type=_Models).data]

        try:
            return await asyncio.wait_for(ask(), _MODELS_SECONDS)
        except TimeoutError:
            raise Again(self._refused("does not list its models; look there")) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return []

    async def _answered(self, data: bytes) -> _Told:
        try:
            return await asyncio.wait_for(self._exchange(data), _MAX_SILENCES * self.timeout)
        except TimeoutError:
            raise self._refused("goes on without an end; it is given up") from None

    async def _exchange(self, data: bytes) -> _Told:
        async with self._response("POST", "/chat/completions", data) as response:
            await self._check_status(response)
            told = _Told()
            is_stream = response.headers.get("Content-Type", "").lower().startswith(_STREAM)
            if not is_stream:
                whole = b"".join([chunk async for chunk in self._limited(response)])
                self._take(told, whole, len(whole))
                return told
            events = Events()
            async for chunk in self._limited(response):
                told.num_bytes += len(chunk)
                for event in events.feed(chunk):
                    if event == "[DONE]":
                        return told
                    self._take(told, event.encode(), 0)
            for event in events.rest():
                if event != "[DONE]":
                    self._take(told, event.encode(), 0)
            if not told.reason:
                raise Again(self._refused("ends its answer in the middle"))
            return told

    def _take(self, told: _Told, data: bytes, num_bytes: int) -> None:
        """What an event or a whole answer adds."""
        told.num_bytes += num_bytes
        if not data.strip():
            return
        try:
            part = msgspec.json.decode(data, type=_Part)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            shown = one_line(data[:200].decode(errors="replace"))
            raise self._refused(f"answers with what is no completion: {shown}") from None
        if part.error is not None:
            raise self._refused(f"says: {one_line(_message_of(part.error))}")
        told.model = part.model or told.model
        for choice in part.choices[:1]:
            said = choice.delta or choice.message
            if said is not None:
                told.text += _text_of(said.content)
                told.refusal += said.refusal or ""
            told.reason = choice.finish_reason or told.reason

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, data: bytes = b""
    ) -> AsyncIterator[httpx.Response]:
        import httpx2 as httpx  # the options are told without it

        request = _client(os.getpid()).stream(
            method,
            self.url + path,
            headers={
                **self._headers(),
                "Content-Type": "application/json",
                "Accept": f"{_STREAM}, application/json",
            },
            content=data,
            timeout=httpx.Timeout(self.timeout, connect=min(_CONNECT_SECONDS, self.timeout)),
        )
        try:
            async with request as response:
                yield response
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise Again(self._refused("does not answer; start it there")) from None
            # to ask again would only begin the same work anew
            raise self._refused(
                f"has said nothing for {self.timeout:g} s; look there, or raise {KEY}.options.timeout"
            ) from None
        except httpx.TransportError as error:
            reason = one_line(str(error)) or type(error).__name__
            raise Again(self._refused(f"does not answer ({reason}); start it there")) from None

    async def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        if 300 <= status < 400:
            raise self._refused(
                "sends elsewhere, which is not followed; give the address that it names"
            )
        data = b"".join([chunk async for chunk in self._limited(response)])
        if status == 400 and b"max_completion_tokens" in data:
            raise _OtherLimit
        if status == 401 or status == 403:
            if self.key_name:
                raise self._refused(f"does not take the key in ${self.key_name} (status {status})")
            raise self._refused(
                f"wants a key (status {status}); name the environment variable that holds it in {KEY}.api_key_env"
            )
        said = one_line(_said_in(data))
        error = self._refused(f"answers with status {status}" + (f": {said}" if said else ""))
        if status == 500 or status in AGAIN:
            raise Again(error, retry_after(response.headers.get("Retry-After", "")))
        raise error

    async def _limited(self, response: httpx.Response) -> AsyncIterator[bytes]:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._refused("compresses its answer, which nobody asked for")
        left = MAX_BODY_BYTES
        async for chunk in response.aiter_raw():
            left -= len(chunk)
            if left < 0:
                raise self._refused(f"answers with more than {MAX_BODY_BYTES:,} bytes")
            yield chunk

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def _refused(self, text: str) -> ComponentError:
        """What it says may repeat what it was sent."""
        if self.key:
            text = text.replace(self.key, f"${self.key_name}")
        return ComponentError(f"{self.url} {text}", key=KEY)


class Events:
    """The data of server-sent events, out of chunks that may end anywhere."""

    def __init__(self) -> None:
        self._buffer: bytearray | bytes = bytearray()
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The events that are whole by now."""
        self._buffer += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            return
        # a carriage return at the end may be half of a line's end
        *lines, self._buffer = _LINE_END.split(self._buffer)
        for line in lines:
            yield from self._line(line)

    def rest(self) -> Iterator[str]:
        """An event that nothing comes after, not even the empty line."""
        yield from self._line(self._buffer.rstrip(b"\r"))
        yield from self._line(b"")

    def _line(self, line: bytes | bytearray) -> Iterator[str]:
        text = line.decode(errors="replace").removeprefix("\ufeff")
        if not text:
            if self._data:
                yield "\n".join(self._data)
            self._data = []
            return
        name, _, value = text.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))


_LINE_END = re.compile(rb"\r\n|\n|\r(?!\n|\Z)")


class _OtherLimit(Exception):
    """The server knows `max_completion_tokens` alone."""


@dataclass
class _Told:
    """What an answer has said so far. reason: why it ended."""

    text: str = ""
    refusal: str = ""
    reason: str = ""
    model: str = ""
    num_bytes: int = 0


class _Said(Struct, frozen=True):
    content: str | list[Any] | None = None
    refusal: str | None = None


class _Choice(Struct, frozen=True):
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Part(Struct, frozen=True):
    choices: list[_Choice] = []
    model: str | None = None
    error: Any = None


class _Model(Struct, frozen=True):
    id: Annotated[str, Meta(max_length=4096)]


class _Models(Struct, frozen=True):
    data: list[_Model] = []


def _text_of(content: str | list[Any] | None) -> str:
    if not isinstance(content, list):
        return content or ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _said_in(data: bytes) -> str:
    """The reason in the body of an error."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return data[:400].decode(errors="replace") if not data.lstrip().startswith(b"<") else ""
    found = body.get("error", body) if isinstance(body, dict) else body
    return _message_of(found)


def _message_of(error: object) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()


@functools.cache
def _client(pid: int) -> httpx.AsyncClient:
    import httpx2 as httpx

    return httpx.AsyncClient(
        trust_env=False,  # no passwords out of a .netrc, and no proxy that nobody named
        follow_redirects=False,
    )
