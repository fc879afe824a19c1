"""A client of servers that speak like OpenAI's, against one that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ComponentError, RunCancelled
from engine.expansion import openai
from engine.expansion.answer import Answer, Asked
from engine.expansion.openai import Chat, Events, check_can_ask, describe, load
from engine.reports import Control
from presets.errors import PresetError
from presets.spec.components import PromptExpanderSpec
from store.lineage.events import CallAnswered, Event
from tests.servers.language_server import (
    MODEL,
    LanguageServer,
    Reply,
    language_server,
    plain,
    refused,
    stream_of,
    streamed,
)

TEXT = "A red fox, 狐狸, runs over snow 🦊."
ASKED = Asked("Rewrite it.", "a fox", temperature=0.5, top_p=0.9, max_tokens=300, seed=7)
SECRET = "sk-verysecret123"


def ask(
    server: LanguageServer,
    *,
    model: str = MODEL,
    retries: int = 0,
    timeout: float = 60.0,
    **more: object,
) -> Answer:
    return Chat(server.url, model, "", timeout, retries, **more).expand(ASKED)  # type: ignore[arg-type]


def reason(*replies: Reply, **more: object) -> str:
    with language_server(*replies) as server, pytest.raises(ComponentError) as caught:
        ask(server, **more)  # type: ignore[arg-type]
    assert caught.value.key == "components.prompt_expander"
    line = str(caught.value)
    assert line.startswith(f"components.prompt_expander: {server.url} ")
    assert "\n" not in line
    return line.partition(f"{server.url} ")[2]


# What is asked


def test_what_is_sent() -> None:
    with language_server(plain(TEXT)) as server:
        ask(server)
    listed, called = server.asked
    assert (listed.path, called.path) == ("/v1/models", "/v1/chat/completions")
    assert called.body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Rewrite it."},
            {"role": "user", "content": "a fox"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 300,
        "seed": 7,
        "stream": True,
    }
    assert "Authorization" not in called.headers


def test_a_server_of_one_model_needs_no_name() -> None:
    with language_server(plain(TEXT), served=("whatever/it-is",)) as server:
        assert ask(server, model="").model == "whatever/it-is"
    assert server.asked[-1].body["model"] == "whatever/it-is"


def test_without_a_name_and_a_list_there_is_nobody_to_ask() -> None:
    with language_server(plain(TEXT), served=None) as server:
        with pytest.raises(
            ComponentError, match=r"name one in components\.prompt_expander\.checkpoint"
        ):
            ask(server, model="")
        assert ask(server, model="mine").model == MODEL  # as the answer itself says


def test_a_server_that_knows_the_other_limit_gets_that() -> None:
    other = refused(
        400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    )
    with language_server(other, plain(TEXT)) as server:
        assert ask(server).raw == TEXT
    assert server.asked[-1].body["max_completion_tokens"] == 300
    assert "max_tokens" not in server.asked[-1].body


# How it is answered


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_may_be_cut_anywhere(size: int, end: str) -> None:
    with language_server(streamed(stream_of(TEXT, end=end), size)) as server:
        assert ask(server) == Answer(raw=TEXT, model=MODEL)


def test_noise_in_a_stream_is_passed_over() -> None:
    noise = (
        b": keep-alive\n\nevent: ping\ndata:\n\nid: 7\nretry: 10\n\n"
        b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    )
    body = (
        b"\xef\xbb\xbf"
        + noise
        + stream_of([TEXT]).replace(b"data: [DONE]", noise + b"data: [DONE]")
    )
    with language_server(streamed(body + b"data: not json, and after the end\n\n", 5)) as server:
        assert ask(server).raw == TEXT


def test_a_stream_without_its_last_word_is_whole_where_it_says_why_it_ended() -> None:
    body = stream_of([TEXT], done=False).rstrip(b"\n")
    with language_server(streamed(body)) as server:
        assert ask(server).raw == TEXT


def test_a_whole_answer_will_do() -> None:
    with language_server(plain(TEXT, reason="length")) as server:
        assert ask(server) == Answer(raw=TEXT, model=MODEL, is_cut=True)


def test_content_in_parts_is_put_together() -> None:
    parts = [
        {"type": "text", "text": TEXT[:5]},
        {"type": "other"},
        {"type": "text", "text": TEXT[5:]},
    ]
    with language_server(plain(parts)) as server:  # type: ignore[arg-type]
        assert ask(server).raw == TEXT


def test_reasoning_that_is_told_apart_is_not_taken() -> None:
    event = {
        "choices": [{"delta": {"reasoning_content": "hm", "reasoning": "hm", "content": None}}]
    }
    body = f"data: {json.dumps(event)}\n\n".encode() + stream_of([TEXT])
    with language_server(streamed(body)) as server:
        assert ask(server).raw == TEXT


@given(
    st.lists(st.text(max_size=20), max_size=6),
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_events_are_the_same_however_they_come(texts: list[str], size: int, end: str) -> None:
    texts = [json.dumps(text) for text in texts]
    data = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    events = Events()
    found = [
        event for at in range(0, len(data), size) for event in events.feed(data[at : at + size])
    ]
    assert [*found, *events.rest()] == texts


# What goes wrong


def test_a_key_that_is_not_taken_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_LLM_KEY", SECRET)
    with language_server(refused(401, f"Incorrect API key provided: {SECRET}")) as server:
        spec = PromptExpanderSpec(url=server.url, checkpoint=MODEL, api_key_env="MY_LLM_KEY")
        chat = load(spec, describe(spec, None))  # type: ignore[arg-type]
        with pytest.raises(
            ComponentError, match=r"does not take the key in \$MY_LLM_KEY \(status 401\)"
        ) as caught:
            chat.expand(ASKED)
    assert {request.headers["Authorization"] for request in server.asked} == {f"Bearer {SECRET}"}
    assert SECRET not in str(caught.value) + repr(chat) + repr(describe(spec, None))  # type: ignore[arg-type]


def test_a_key_that_an_error_repeats_is_not_repeated() -> None:
    line = reason(refused(400, f"what is {SECRET}?"), key=SECRET)
    assert SECRET not in line


def test_a_server_that_wants_a_key_is_told_so() -> None:
    assert (
        "name the environment variable that holds it in components.prompt_expander.api_key_env"
        in reason(refused(401, "no key"))
    )


@pytest.mark.parametrize(
    ("value", "why"), [(None, "is not set"), ("two words", "is no key"), ("é", "is no key")]
)
def test_a_variable_without_a_key(
    value: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_LLM_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_LLM_KEY", value)
    spec = PromptExpanderSpec(url="http://127.0.0.1:9/v1", api_key_env="MY_LLM_KEY")
    with pytest.raises(
        ComponentError,
        match=rf"api_key_env: .*\$MY_LLM_KEY.* {why}|api_key_env: .*\$MY_LLM_KEY.*{why}",
    ) as caught:
        load(spec, describe(spec, None))  # type: ignore[arg-type]
    assert value is None or value not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_fails_for_a_while_is_asked_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(
        "engine.remote.waiting._pause", lambda jitter, after, check: waited.append(after)
    )
    busy = refused(status, "busy", Retry_After="7")
    with language_server(busy, busy, plain(TEXT)) as server:
        assert ask(server, retries=2).raw == TEXT
    assert waited == [7, 7]
    waited.clear()
    assert reason(busy, retries=1) == f"answers with status {status}: busy"
    assert waited == [7]


def test_what_is_wrong_with_the_request_is_not_asked_again() -> None:
    why = "status 404: model 'tiny-llm' not found"
    with (
        language_server(refused(404, "model 'tiny-llm' not found")) as server,
        pytest.raises(ComponentError, match=why),
    ):
        ask(server, retries=3)
    assert len(server.asked) == 2


def test_a_server_that_is_not_there() -> None:
    with language_server(plain(TEXT)) as server:
        pass
    for model in (MODEL, ""):
        with pytest.raises(ComponentError, match=r"does not answer \(.*; start it there"):
            ask(server, model=model)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply([b"{no json"]), "answers with what is no completion: {no json"),
        (Reply([b'{"choices": "none"}']), "answers with what is no completion"),
        (Reply([b"<html>hello</html>"], content_type="text/html"), "answers with what is no completion"),
        (streamed(b"data: {no json\n\n"), "answers with what is no completion: {no json"),
        (streamed(b'data: {"error": {"message": "out of memory"}}\n\n'), "says: out of memory"),
        (streamed(stream_of([TEXT], reason=None, done=False)), "ends its answer in the middle"),
        (streamed(stream_of([TEXT]), 9, breaks=True), None),
        (streamed(stream_of([TEXT], reason=None, done=False), breaks=True), "does not answer"),
        (plain("", refusal="I will not."), "refuses: I will not."),
        (plain("", reason="content_filter"), "withholds the answer"),
        (Reply([b"go there"], 307, headers=(("Location", "http://elsewhere/"),)), "sends elsewhere"),
        (Reply([b"\x1f\x8b"], headers=(("Content-Encoding", "gzip"),)), "compresses its answer"),
        (Reply([b"x" * (1 << 20)] * 5), "answers with more than"),
        (Reply([b"\x1b[2J<p>nginx"], 502, content_type="text/html"), "answers with status 502"),
    ],
)  # fmt: skip
def test_other_answers(reply: Reply, why: str | None) -> None:
    if why is None:  # the connection ended after the last word was said
        with language_server(reply) as server:
            assert ask(server).raw == TEXT
        return
    line = reason(reply)
    assert line.startswith(why)
    assert line.isprintable()


def test_a_server_that_falls_silent_is_given_up() -> None:
    begun = streamed(stream_of([TEXT], reason=None, done=False), hangs=True)
    assert reason(begun, timeout=1.0, retries=5).startswith("has said nothing for 1 s")
    assert reason(Reply(hangs=True), timeout=1.0).startswith("has said nothing for 1 s")


def test_a_run_that_is_cancelled_waits_no_longer() -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise RunCancelled

    control = Control(lambda event: None, check)
    with language_server(Reply(hangs=True)) as server, pytest.raises(RunCancelled):
        Chat(server.url, MODEL, "", 600.0, 0).watched(control).expand(ASKED)


def test_a_call_is_told_of() -> None:
    events: list[Event] = []
    control = Control(events.append, lambda: None)
    with language_server(streamed(stream_of([TEXT]))) as server:
        Chat(server.url, MODEL, "", 60.0, 0).watched(control).expand(ASKED)
    [event] = events
    assert isinstance(event, CallAnswered)
    assert (event.component, event.host) == ("prompt_expander", server.url)
    assert event.received_bytes > len(TEXT)


# What it is


def test_its_identity_is_the_model_alone() -> None:
    def identity(**changed: object) -> object:
        spec = PromptExpanderSpec(**{"url": "http://a:1/v1", "checkpoint": "org/model", **changed})  # type: ignore[arg-type]
        return describe(spec, None).identity  # type: ignore[arg-type]

    same = identity()
    assert same == {"name": "openai", "model": "model"}
    assert (
        identity(
            url="https://b/v1",
            api_key_env="KEY",
            device="cpu",
            dtype="fp32",
            options={"timeout": 5.0},
        )
        == same
    )
    assert identity(checkpoint="other") != same


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/api/v2/", "https://h/api/v2"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(url: str, expected: str) -> None:
    assert load(PromptExpanderSpec(url=url), None).url == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PromptExpanderSpec(), ComponentError, r"prompt_expander\.url: is empty"),
        (lambda: PromptExpanderSpec(url="ftp://h"), ComponentError, r"prompt_expander\.url: got 'ftp://h'"),
        (lambda: PromptExpanderSpec(url="http://u:pw@h"), ComponentError, "an address with a name or password"),
        (lambda: PromptExpanderSpec(url="http://h", options={"tries": 1}), PresetError, r"options\.tries: unknown"),
    ],
)  # fmt: skip
def test_what_it_is_asked_for_is_checked(
    make: Callable[[], PromptExpanderSpec], error: type[Exception], message: str
) -> None:
    def asked(spec: PromptExpanderSpec) -> None:
        describe(spec, None)  # type: ignore[arg-type]
        check_can_ask(spec)

    with pytest.raises(error, match=message):
        asked(make())


def test_the_limit_on_time_is_of_the_whole_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "_MAX_SILENCES", 0.0001)
    assert reason(Reply(hangs=True)).startswith("goes on without an end")
