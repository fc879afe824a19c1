"""A store in a temporary folder, and real processes that work on it in step with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from store.store import open_store

ROOT = Path(__file__).resolve().parents[3]
HANDSHAKE_SECONDS = 60


class Process:
    """A Python process running `code`, which prints a line when ready and reads one to go on."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def read(self) -> str:
        line = self.child.stdout.readline()
        assert line, f"the process ended with {self.child.wait(HANDSHAKE_SECONDS)}"
        return line.rstrip("\n")

    def go(self) -> None:
        self.child.stdin.write("go\n")
        self.child.stdin.flush()

    def finish(self) -> list[str]:
        """What it still prints, once it has ended well."""
        output, _ = self.child.communicate(timeout=HANDSHAKE_SECONDS)
        assert self.child.returncode == 0
        return output.splitlines()

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(HANDSHAKE_SECONDS)


@pytest.fixture
def start():
    """Starts a Process; all are gone when the test ends."""
    started = []

    def start(code, *arguments):
        process = Process(code, *arguments)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.child.poll() is None:
            process.kill()
        process.child.stdin.close()
        process.child.stdout.close()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    with open_store(root) as opened:
        yield opened


@pytest.fixture
def engine(store):
    """A registered engine of this very process; its id."""
    with store.register_engine("engineaaaa", pid=os.getpid()):
        yield "engineaaaa"
