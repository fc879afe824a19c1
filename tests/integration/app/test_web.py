"""`modiff web`: the app for who has the address, and for nobody else that a browser lets ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-P", "-m", "tui.cli", "web")
SECONDS = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What is printed by a server on a free port."""
    folder = tmp_path_factory.mktemp("web")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "MODIFF_STORE": str(folder / "store"),
        "MODIFF_CONFIG_DIR": str(folder / "config"),
    }
    with (folder / "told").open("w") as told:
        server = subprocess.Popen(
            [*COMMAND, "--port", "0", "--json"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
        )
        try:
            assert server.stdout is not None
            started = json.loads(server.stdout.readline())
            assert started["pid"] == server.pid
            yield started["url"]
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(SECONDS) == 0
            assert server.stdout.read() == ""


def status(address: str, **headers: str) -> int:
    """What a GET is answered with."""

    async def get() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.get(address, headers=headers, allow_redirects=False) as answer,
        ):
            await answer.read()
            return answer.status

    return asyncio.run(get())


async def screen(address: str, **headers: str) -> bytes:
    """The first bytes that a WebSocket brings. Raises aiohttp.WSServerHandshakeError where it is refused."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, headers=headers) as opened,
    ):
        await opened.send_json(["resize", {"width": 100, "height": 30}])
        message = await opened.receive(SECONDS)
        assert message.type is aiohttp.WSMsgType.BINARY
        return message.data


def refused(address: str, **headers: str) -> int:
    """With which status a WebSocket is refused."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        asyncio.run(screen(address, **headers))
    return caught.value.status


def origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def test_who_has_the_address_gets_the_page_and_the_app(address):
    assert address.startswith("http://127.0.0.1:")
    assert len(urlsplit(address).path) > 40
    assert status(address) == 200
    assert status(f"{address}static/js/textual.js") == 200
    assert asyncio.run(screen(f"{address}ws?width=100&height=30", Origin=origin(address)))


async def told(address: str, **headers: str) -> tuple[str, str]:
    """The text of an answer and its headers."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(address, headers=headers) as answer,
    ):
        assert answer.status == 200, address
        return await answer.text(), json.dumps(dict(answer.headers))


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(address):
    page, headers = asyncio.run(told(address))
    style, _ = asyncio.run(told(f"{address}page/page.css"))
    assert "default-src 'none'" in headers
    assert "frame-ancestors 'none'" in headers
    assert "no-referrer" in headers
    loaded = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page)
    loaded += [urljoin("page/", path) for path in re.findall(r'url\("([^"]+)"', style)]
    assert {"static/js/textual.js", "page/page.js", "page/page.css"} < set(loaded)
    assert "static/fonts/RobotoMono-VariableFont_wght.ttf" in loaded
    assert {path: status(urljoin(address, path)) for path in loaded} == dict.fromkeys(loaded, 200)
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"^ *//.*|/\*.*?\*/", "", page + style))


def test_what_the_app_delivers_is_below_the_token(address):
    assert status(f"{address}download/unknown") == 404
    assert status(f"{origin(address)}/download/unknown") == 403


@pytest.mark.parametrize(
    "path", ["", "ws", "static/js/textual.js", "page/page.js", "download/x", "WRONG/", "WRONG/ws"]
)
def test_without_the_token_there_is_nothing(address, path):
    path = path.replace("WRONG", "x" * (len(urlsplit(address).path) - 2))
    assert status(f"{origin(address)}/{path}") == 403
    if path.endswith("ws"):
        assert refused(f"{origin(address)}/{path}", Origin=origin(address)) == 403


@pytest.mark.parametrize(
    "foreign",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1.evil.example", ""],
)
def test_another_page_is_refused(address, foreign):
    assert refused(f"{address}ws", Origin=foreign) == 403
    assert status(address, Origin=foreign) == 403


def test_a_websocket_of_no_page_is_refused(address):
    assert refused(f"{address}ws") == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[", "a b"]
)
def test_a_name_that_was_led_here_is_refused(address, host):
    assert status(address, Host=host) == 403
    assert refused(f"{address}ws", Host=host, Origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "127.8.9.1:80", "[::1]:8000"])
def test_a_tunnel_may_have_another_port(address, host):
    assert status(address, Host=host) == 200


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("--port", str(taken.getsockname()[1]), "--json")
    assert ended.returncode == 2
    assert "(Address already in use); choose others with --host and --port" in ended.stderr
    assert f"modiff: {json.loads(ended.stdout)['error']}\n" == ended.stderr


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "x" * 300])
def test_an_address_that_is_not_ours_is_told(host):
    ended = run("--port", "0", "--host", host)
    assert ended.returncode == 2
    assert "cannot listen at" in ended.stderr
    assert "defect" not in ended.stderr


def test_no_address_is_not_every_address():
    ended = run("--port", "0", "--host", "")
    assert ended.returncode == 2
    assert "expected an address" in ended.stderr


def test_without_the_extra_what_to_install_is_told(tmp_path):
    (tmp_path / "textual_serve").mkdir()
    (tmp_path / "textual_serve" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'textual_serve'\", name='textual_serve')"
    )
    ended = run("--port", "0", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 2
    assert "needs textual_serve; pip install 'modiff[web]'" in ended.stderr
