"""A terminal that hangs up must not keep the app from ending."""

from __future__ import annotations

import os
import pty
from contextlib import suppress

from textual.drivers._writer_thread import WriterThread

from tui.app.app import ModiffApp
from tui.app.terminal.driver import Lasting, Terminal


def test_what_a_terminal_that_is_gone_does_not_take_is_dropped():
    master, slave = pty.openpty()
    file = open(slave, "w")  # noqa: SIM115
    os.close(master)
    writer = WriterThread(Lasting(file))  # type: ignore[arg-type]
    writer.start()
    for _ in range(100):  # more than it keeps waiting
        writer.write("a frame")
    writer.stop()
    assert not writer.is_alive()
    assert Lasting(file).fileno() == file.fileno()
    with suppress(OSError):
        file.close()


def test_the_app_writes_to_such_a_terminal():
    assert ModiffApp().driver_class is Terminal
