"""`modiff serve` as a process: what it prints, how it ends, and the commands of its page."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import imageio_ffmpeg
import pytest

from engine.remote.client import Host
from engine.remote.hosts import add
from tests.deadline import deadline
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-P", "-m", "tui.cli")
QUICK = "--set scheduler.steps=2 --set frames=5"
TEST_SECONDS = 240


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    with deadline(TEST_SECONDS):
        yield


def environment(folder: Path) -> dict[str, str]:
    store = {"MODIFF_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **store}


def started(folder: Path, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip


def test_the_commands_of_the_page(tmp_path, capsys, monkeypatch):
    """In the order of the page, with an address that is free; the server ends on SIGTERM."""
    page = (ROOT / "docs" / "remote.md").read_text(encoding="utf-8")
    transcript = re.search(r"```text\n(.*?)```", page, re.S)
    assert transcript is not None
    parts = re.findall(r"^\$ modiff (.*)\n((?:[^$#\n].*\n)*)", transcript[1], re.M)
    (first, address), *others = [(line, shown.strip()) for line, shown in parts]
    assert address == "http://127.0.0.1:8765"
    assert [line.split()[0] for line, _ in others] == ["hosts", "hosts", "run"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.remote.asking.ASK_SECONDS", 60.0)
    monkeypatch.setattr("engine.components.providers.remote._ASK_SECONDS", 60.0)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = started(tmp_path, *COMMAND, *shlex.split(first.replace("8765", "0")))
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    try:
        for line, shown in others:
            more = QUICK if line.startswith("run") else ""
            assert main(shlex.split(f"{line.replace(address, url)} {more}")) == 0
            wanted = re.escape(shown.replace(address, url)).replace(r"4\ ms", r"\d+\ ms")
            told = capsys.readouterr().out.strip().replace(str(tmp_path), "/home/me")
            assert re.fullmatch(wanted, told), told
        assert main(["engine", "stop"]) == 0
    finally:
        server.terminate()
        out, err = server.communicate()
    assert (server.returncode, out) == (0, "")
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "star.mp4"))[0] == 5
    assert '"POST /encode-text HTTP/1.1" 200' in err
    assert "Traceback" not in err


def test_one_line_of_json_once_it_answers(tmp_path):
    secret = "0123456789abcdef"
    (tmp_path / "token").write_text(secret)
    (tmp_path / "token").chmod(0o644)
    arguments = ("--host", "0.0.0.0", "--token-file", "token", "--json")
    server = started(tmp_path, *COMMAND, "serve", "vae", *arguments)
    assert server.stdout is not None
    told = json.loads(server.stdout.readline())
    assert set(told) == {"url", "kinds", "pid"}
    assert (told["kinds"], told["pid"]) == (["vae"], server.pid)
    url = told["url"].replace("0.0.0.0", "127.0.0.1")
    add("box", url, token_file=str(tmp_path / "token"))
    assert Host(url).health(60).components.keys() == {"vae"}
    server.send_signal(signal.SIGINT)
    out, err = server.communicate()
    assert (server.returncode, out) == (0, "")
    assert secret not in err
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert [line.split()[1] for line in warnings] == ["others", "what"]


STUCK = """
    import sys, threading
    from contextlib import contextmanager
    from pathlib import Path
    from engine.serve import server
    from tests.servers.toy_server import Toys, served_toys

    toys = Toys()
    toys.hold.clear()

    @contextmanager
    def loaded(*given, **named):
        yield served_toys(toys)

    server.loaded, server._LEAVING_SECONDS = loaded, 1
    address = server.Address()
    with server.listen(address) as listener:
        server.serve(listener, address, None, (), None, ready=lambda url: print(url, flush=True))
"""


def test_work_that_does_not_end_holds_no_server_up(tmp_path):
    server = started(tmp_path, sys.executable, "-c", textwrap.dedent(STUCK))
    assert server.stdout is not None
    url = httpx.URL(server.stdout.readline().strip())
    digest = Host(str(url)).fingerprint(60).components["text_encoder"].digest
    request = (
        f"POST /encode-text HTTP/1.1\r\nHost: localhost\r\nX-Modiff-Expects: {digest}\r\n"
        'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"prompt": "a"}'
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(request.encode())
        while not Host(str(url)).health(60).components["text_encoder"].busy:
            time.sleep(0.01)
        server.terminate()
        _, err = server.communicate()
    assert server.returncode == 0
    assert "Traceback" not in err
