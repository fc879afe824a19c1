"""The conformance test finds what is wrong with servers that do not speak the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from engine.remote.conformance import any_server
from engine.remote.conformance.check import check
from engine.remote.contract import FACTS
from engine.serve.app import Server
from store.blobs.tensors import decode_tensors, encode_tensors
from tests.servers.toy_server import CHANNELS, TEXT_DIM, Toys, answering, served_toys
from tui.cli.main import main

App = Callable[..., Any]
MAX_BODY = 1 << 20


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(any_server, "PAUSE_SECONDS", 0.005)


@contextmanager
def answered_by(
    wrap: Callable[[App], App],
    token: str = "",
    of_pictures: bool = True,
    kinds: Collection[str] = FACTS,
):
    """The address of a good server of toys behind something that spoils what it says."""
    served = served_toys(Toys(), of_pictures=of_pictures)
    served = {kind: served[kind] for kind in kinds}
    server = Server(served, max_body_bytes=MAX_BODY)
    good = server.guarded
    server.guarded = lambda token, host: wrap(good(token, host))
    with answering(server, token=token) as url:
        yield url


def wrong(url: str) -> dict[str, str]:
    return {each.name: each.wrong for each in check(url) if each.wrong}


def changed(change: Callable[[str, int, list, bytes], tuple[int, list, bytes] | None]):
    """Puts other answers in the place of those that `change` gives some for, by path, status, headers and body."""

    def wrap(app: App) -> App:
        async def spoiled(scope, receive, send):
            told: dict = {}
            data = b""

            async def kept(message):
                nonlocal data
                told.update(message if message["type"] == "http.response.start" else {})
                data += message.get("body", b"")

            await app(scope, receive, kept)
            if not told:  # whoever asked has gone
                return
            was = (told["status"], list(told["headers"]), data)
            status, headers, body = change(scope["path"], *was) or was
            headers = [
                pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")
            ]
            headers += [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return spoiled

    return wrap


def of_json(path: str, change: Callable[[dict], None]):
    def changing(at, status, headers, body):
        if at != path or status != 200:
            return None
        told = json.loads(body)
        change(told)
        return status, headers, json.dumps(told).encode()

    return changed(changing)


def of_tensors(path: str, change: Callable[[dict], dict]):
    def changing(at, status, headers, body):
        if at != path or status != 200:
            return None
        return status, headers, encode_tensors(change(decode_tensors(body)))

    return changed(changing)


def without(name: bytes):
    """A server that does not look at a header."""

    def wrap(app):
        async def blind(scope, receive, send):
            headers = [pair for pair in scope["headers"] if pair[0] != name]
            await app({**scope, "headers": headers}, receive, send)

        return blind

    return wrap


def as_localhost(app):
    """A server that does not look at the name that it is called by."""

    async def blind(scope, receive, send):
        headers = [(k, b"localhost" if k == b"host" else v) for k, v in scope["headers"]]
        await app({**scope, "headers": headers}, receive, send)

    return blind


def trusting(app):
    """A server that takes every request to be for what it serves."""
    served = {k: v.told.digest for k, v in served_toys(Toys(), of_pictures=True).items()}

    async def blind(scope, receive, send):
        kinds = {"/encode-text": "text_encoder", "/encode-image": "image_encoder"}
        kinds |= {"/vae/encode": "vae", "/vae/decode": "vae"}
        digest = served[kinds.get(scope["path"], "denoiser")].encode()
        headers = [pair for pair in scope["headers"] if pair[0] != b"x-modiff-expects"]
        headers = [*headers, (b"x-modiff-expects", digest)]
        await app({**scope, "headers": headers}, receive, send)

    return blind


def one_at_a_time(app):
    """A server that answers nobody else while a request comes in."""
    turn = None

    async def serial(scope, receive, send):
        nonlocal turn
        turn = turn or asyncio.Lock()
        async with turn:
            await app(scope, receive, send)

    return serial


def greedy(app):
    """A server that reads whatever is announced."""

    async def reading(scope, receive, send):
        length = int(dict(scope["headers"]).get(b"content-length", b"0"))
        if length > MAX_BODY:
            while (await receive())["type"] == "http.request":
                pass
        await app(scope, receive, send)

    return reading


def random_states(tensors: dict) -> dict:
    return {"states": tensors["states"] + torch.randn(1)}


def padded(tensors: dict) -> dict:
    return {"states": torch.cat([tensors["states"], torch.zeros(512, TEXT_DIM)])[:512]}


def not_finite(tensors: dict) -> dict:
    return {"states": tensors["states"] / 0}


def with_html(path, status, headers, body):
    return (status, headers, b"<h1>Not Found</h1>") if status == 404 else None


def redirecting(path, status, headers, body):
    if path != "/health":
        return None
    return 307, [*headers, (b"location", b"http://elsewhere.example/health")], b""


def never_last(path, status, headers, body):
    if path != "/vae/decode" or status != 200:
        return None
    return status, headers, body.replace(b'\\"is_last\\":true', b'\\"is_last\\":null')


def cut_short(path, status, headers, body):
    return (status, headers, body[:-4]) if path == "/encode-text" and status == 200 else None


def taking_all(path, status, headers, body):
    was_refused = path == "/denoise" and status == 400 and b"the condition " in body
    headers = [(b"content-type", b"application/octet-stream")]
    velocities = encode_tensors({"velocity.0": torch.zeros(1, CHANNELS, 2, 4, 4)})
    return (200, headers, velocities) if was_refused else None


BROKEN: dict[str, tuple[Callable, str, str]] = {
    "another contract": (
        of_json("/fingerprint", lambda told: told.update(contract=2)),
        "tells in GET /fingerprint what it serves", "speaks contract 2, expected 1",
    ),
    "a digest of something else": (
        of_json("/fingerprint", lambda told: told["components"]["vae"].update(digest="0" * 64)),
        "tells in GET /fingerprint what it serves", "vae: its digest is not that of its identity and facts",
    ),
    "facts of another kind": (
        of_json("/fingerprint", lambda told: told["components"]["vae"].update(facts={}, digest=
            "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945")),
        "tells in GET /fingerprint what it serves", "latent_channels",
    ),
    "redirects": (changed(redirecting), "answers GET /health", "redirects to another address (status 307)"),
    "errors as pages": (
        changed(with_html), "says what it does not have by a status and a line of JSON", "has no line of why",
    ),
    "serves pages of browsers": (
        without(b"origin"), "refuses what a page of a browser sends", "answered with 200, expected 403",
    ),
    "serves under any name": (
        as_localhost,
        "refuses to be called by another name", "answered with 200, expected 403",
    ),
    "takes requests for anything": (
        trusting, "text_encoder: refuses requests for another one", "answered with 200, expected 412",
    ),
    "one request at a time": (
        one_at_a_time, "answers GET /health while a request comes in", "no answer within",
    ),
    "reads what is announced": (
        greedy, "vae: refuses bodies that are too large, unread", "waits for a body",
    ),
    "numbers that are none": (
        of_tensors("/encode-text", not_finite), "text_encoder: gives finite states F32 [L,8]", "not finite",
    ),
    "another dtype than it says": (
        of_tensors("/encode-text", lambda tensors: {"states": tensors["states"].half()}),
        "text_encoder: gives finite states F32 [L,8]", "states has dtype F16, expected F32",
    ),
    "another name": (
        of_tensors("/encode-text", lambda tensors: {"hidden": tensors["states"]}),
        "text_encoder: gives finite states F32 [L,8]", "has the tensors hidden, expected states",
    ),
    "one more dimension": (
        of_tensors("/encode-text", lambda tensors: {"states": tensors["states"][None]}),
        "text_encoder: gives finite states F32 [L,8]", "states has shape [1, ",
    ),
    "bodies cut short": (
        changed(cut_short), "text_encoder: gives finite states F32 [L,8]", "the body ends 4 bytes too early",
    ),
    "other numbers each time": (
        of_tensors("/encode-text", random_states),
        "text_encoder: gives the same states for the same prompt, others for another", "other states each time",
    ),
    "the same for every prompt": (
        of_tensors("/encode-text", lambda tensors: {"states": torch.ones(len(tensors["states"]), TEXT_DIM)}),
        "text_encoder: gives the same states for the same prompt, others for another", "the same states",
    ),
    "padding": (
        of_tensors("/encode-text", padded),
        "text_encoder: has a row for each token, 512 at most", "one word has 512 rows",
    ),
    "the same for every picture": (
        of_tensors("/encode-image", lambda tensors: {"tokens": torch.ones_like(tensors["tokens"])}),
        "image_encoder: gives the same tokens for the same picture, others for another", "the same tokens",
    ),
    "pictures in another order": (
        of_tensors("/encode-image", lambda tensors: {"tokens": tensors["tokens"].roll(2, 0).clone()}),
        "image_encoder: gives finite tokens F32 [2 a picture,6]", "not in the order of the pictures",
    ),
    "tokens of one picture": (
        of_tensors("/encode-image", lambda tensors: {"tokens": tensors["tokens"][:2].clone()}),
        "image_encoder: gives finite tokens F32 [2 a picture,6]", "tokens has shape [2, 6], expected [4, 6]",
    ),
    "conditions of any name": (
        changed(taking_all), "denoiser: refuses conditions of another name or size", "answered with 200, expected 400",
    ),
    "velocities that are not of the conditions": (
        of_tensors("/denoise", lambda tensors: dict.fromkeys(tensors, tensors["velocity.0"])),
        "denoiser: gives finite velocities F32 of the latents' shape", "other conditions make the same velocity",
    ),
    "no end": (changed(never_last), "vae: decodes latents part by part", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_found_and_named(name, monkeypatch):
    monkeypatch.setattr(any_server, "HEALTH_SECONDS", 0.5)
    spoil, where, told = BROKEN[name]
    kind, is_of_one, _ = where.partition(": ")
    with answered_by(spoil, kinds=[kind] if is_of_one else FACTS) as url:
        found = wrong(url)
    assert told in found[where], found


def test_a_good_server_is_told_as_good(capsys):
    with answered_by(lambda app: app, of_pictures=False) as url:
        assert wrong(url) == {}
    with answered_by(lambda app: app) as url:
        assert main(["serve", "--check", url]) == 0
        out, err = capsys.readouterr()
        assert all(line.startswith("ok     ") for line in out.splitlines())
        assert err == f"{len(out.splitlines())} of {len(out.splitlines())} checks passed\n"
        assert main(["serve", "--check", url, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["url"], told["passed"]) == (url, True)
        assert {"name": "answers GET /health", "wrong": ""} in told["checks"]


def test_a_token_is_asked_for(own_folders, tmp_path):
    from engine.remote.hosts import add

    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    name = "refuses who does not know its token"
    with answered_by(lambda app: app, token="0123456789abcdef") as url:
        assert "answered with 401" in wrong(url)["answers GET /health"]
        add("box", url, token_file=str(token))
        assert {each.name: each.wrong for each in check(url)}[name] == ""
    with answered_by(lambda app: app) as url:
        add("open", url, token_file=str(token))
        assert wrong(url) == {name: "answered with 200, expected 401 (without a line of why)"}


def test_what_is_wrong_is_an_exit_code(capsys):
    with answered_by(changed(redirecting)) as url:
        assert main(["serve", "--check", url]) == 1
        assert "wrong  answers GET /health: /health: redirects" in capsys.readouterr().out
        assert main(["serve", "--check", url, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["passed"] is False


def test_nobody_there(capsys):
    assert main(["serve", "--check", "http://127.0.0.1:9"]) == 1
    assert "wrong  answers GET /health: /health: " in capsys.readouterr().out
    assert main(["serve", "--check", "nobody"]) == 2
    assert main(["serve", "vae", "--check", "http://127.0.0.1:9"]) == 2
