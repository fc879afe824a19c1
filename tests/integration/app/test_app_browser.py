"""The app in a browser, as `modiff web` shows it, looked at by Chromium."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chromium-headless-shell",
)
STORE_TAB = 440  # pixels from the left


@pytest.fixture
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    return found


@pytest.fixture
def address(own_folders: Path, tmp_path: Path) -> Iterator[str]:
    """Where the app is served, on a port of its own."""
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "tui.cli", "web", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait(30)


class Page:
    """One page of a headless browser, by its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0

    async def ask(self, method: str, **parameters: Any) -> Any:
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._count:
                return answer["result"]

    async def picture(self) -> Image.Image:
        shot = await self.ask("Page.captureScreenshot", format="png")
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    async def click(self, x: int, y: int) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            await self.ask(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def press(self, digit: str) -> None:
        key = {"key": digit, "code": f"Digit{digit}", "windowsVirtualKeyCode": ord(digit)}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", text=digit, **key)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **key)


def tab_at(picture: Image.Image) -> float:
    """Where in the top line, 0 to 1, the middle of the active tab is: letters on light; -1 where there is none."""
    line = picture.crop((0, 0, picture.width, 24))
    light = [
        x for x in range(line.width) for y in range(line.height) if min(line.getpixel((x, y))) > 200
    ]
    return sum(light) / len(light) / line.width if len(light) > 600 else -1.0


async def seen(page: Page, fits: Callable[[Image.Image], bool]) -> Image.Image:
    """The first picture that fits; fails where none comes."""
    deadline = time.monotonic() + 90
    while not fits(picture := await page.picture()):
        assert time.monotonic() < deadline, "the page does not show it"
        await asyncio.sleep(0.3)
    return picture


async def look(browser: str, address: str, profile: Path) -> tuple[float, float, float]:
    """Where the active tab is at first, after the key of the next one, and after a click on yet another one."""
    process = await asyncio.create_subprocess_exec(
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--window-size=1400,900", "--remote-debugging-port=0"),
        *(f"--user-data-dir={profile}", address),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        ports = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not ports.is_file() or not ports.read_text().strip():
            assert time.monotonic() < deadline, "the browser does not start"
            await asyncio.sleep(0.1)
        port = ports.read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(
                pages[0]["webSocketDebuggerUrl"], max_msg_size=1 << 26
            ) as opened:
                page = Page(opened)
                first = tab_at(await seen(page, lambda picture: tab_at(picture) >= 0))
                await page.press("2")
                second = tab_at(await seen(page, lambda picture: tab_at(picture) > first + 0.03))
                await page.click(STORE_TAB, 9)
                after = tab_at(await seen(page, lambda picture: tab_at(picture) > second + 0.05))
                return first, second, after
    finally:
        process.kill()
        await process.wait()


def test_a_browser_shows_the_app_and_takes_keys_and_clicks(
    browser: str, address: str, tmp_path: Path
):
    first, second, after = asyncio.run(look(browser, address, tmp_path / "profile"))
    assert 0 < first < 0.3
    assert after > second > first
