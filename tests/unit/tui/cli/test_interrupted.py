"""An interrupt at any moment ends the process with an exit code, and no stack trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
# the command line in a process of its own, with a `main` that is told here
PROGRAM = """
import atexit, os, signal, sys
from types import SimpleNamespace

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)

def main():
    {main}

sys.modules["tui.cli.main"] = SimpleNamespace(main=main)
from tui.cli.__main__ import run
{before}
run()
"""


@pytest.mark.parametrize(
    ("main", "before", "code"),
    [
        ("interrupt(); return 0", "", 130),
        ("return 3", "sys.exit = interrupt", 3),  # before Python begins to leave
        ("return 3", "atexit.register(interrupt)", 3),  # after all that a handler could do
        ("interrupt()", "atexit.register(interrupt)", 130),
    ],
)
def test_an_interrupt_ends_with_a_code(main, before, code):
    program = PROGRAM.format(main=main, before=before)
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
