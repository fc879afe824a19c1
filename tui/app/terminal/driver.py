"""The terminal that the app writes to, which may hang up."""

from __future__ import annotations

import asyncio
import select
import signal
import threading
from contextlib import suppress
from typing import Any, TextIO

from textual.drivers.linux_driver import LinuxDriver


class Lasting:
    """A stream that drops what can no longer be written. Textual's thread that writes would end with the error, and the
    app wait for ever for it to take the next frames: it would outlive its terminal, with the store open."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Terminal(LinuxDriver):
    """Textual's, for a terminal that may be gone.

    Only a session's own terminal sends it SIGHUP. Of any other (`docker exec`, `setsid`) nothing is told: Textual would
    read its end again and again, at the cost of half a core, for ever.
    """

    _watcher: threading.Thread | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._file = Lasting(self._file)  # type: ignore[arg-type,assignment]

    def start_application_mode(self) -> None:
        super().start_application_mode()
        if self._watcher is None:
            loop = asyncio.get_running_loop()
            self._watcher = threading.Thread(
                target=self._wait_for_its_end, args=(loop,), name="terminal", daemon=True
            )
            self._watcher.start()

    def _wait_for_its_end(self, loop: asyncio.AbstractEventLoop) -> None:
        poll = select.poll()
        poll.register(self.fileno, 0)  # asks for nothing, and so is told only of its end
        is_over = any(events & select.POLLHUP for _, events in poll.poll())
        with suppress(RuntimeError):  # the app has ended first
            if is_over:
                loop.call_soon_threadsafe(self._app.exit, 128 + signal.SIGHUP)
