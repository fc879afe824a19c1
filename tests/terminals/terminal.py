"""A terminal of our own: a program in a pseudo-terminal, what it wrote, and keys for it. For tests and benchmarks."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self


class Terminal:
    """A program that believes it is in a terminal of `columns` x `lines`. Ends it when left."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        columns: int = 120,
        lines: int = 36,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
            start_new_session=True,
        )
        os.close(slave)
        self.written = b""

    def read(self, seconds: float) -> bytes:
        """What the program writes in the next `seconds`, or less where it writes something."""
        if self.master < 0:
            return b""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return b""
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # the program has ended
            return b""
        self.written += data
        return data

    def wait_for(self, text: str, *, seconds: float = 30.0) -> float:
        """Until the program has written `text`; seconds since it was started. TimeoutError where it does not."""
        deadline = time.perf_counter() + seconds
        while text.encode() not in self.written:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{text!r} was not written within {seconds} s")
            self.read(0.02)
        return time.perf_counter() - self.begun

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def hang_up(self) -> None:
        """Close the terminal under the program."""
        os.close(self.master)
        self.master = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.master >= 0:
            os.close(self.master)
