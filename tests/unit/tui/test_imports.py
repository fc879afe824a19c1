"""What a command may import, seen from inside a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "textual", "transformers", "numpy", "diffusers", "PIL")

CODE = """
import json, sys
from tui.cli import main
code = main(json.loads(sys.argv[1]))
sys.stderr.write("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def modules_after(*arguments: str) -> set[str]:
    """Top-level and dotted names of all that one command line imported; it must exit with 0."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("runs",),
        ("engine", "status"),
        ("presets", "list"),
        ("doctor", "--help"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_imported(arguments):
    assert not modules_after(*arguments) & set(HEAVY)


def test_help_imports_no_command():
    modules = modules_after("--help")
    assert not {name for name in modules if name.startswith("tui.commands.")}
    assert not modules & {"store", "presets", "rich", "msgspec", "sqlite3", "pysqlite3"}
