"""What a command may import, seen from inside a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imported import imported_by
from tui.app.top_line import TABS

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "textual", "transformers", "numpy", "diffusers", "PIL")

COMMANDS = (
    ("--help",),
    ("--version",),
    ("run", "--help"),
    ("runs",),
    ("engine", "status"),
    ("presets", "list"),
    ("presets", "show", "--keys"),
    ("doctor", "--help"),
)


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    return imported_by(*COMMANDS)


@pytest.mark.parametrize("command", [" ".join(words) for words in COMMANDS])
def test_nothing_heavy_is_imported(imported, command):
    assert not imported[command] & set(HEAVY)


def test_help_imports_no_command(imported):
    modules = imported["--help"]
    assert not {name for name in modules if name.startswith("tui.cli.commands.")}
    assert not modules & {"store", "presets", "rich", "msgspec", "sqlite3", "pysqlite3"}


APP = """
import asyncio, importlib, json, pkgutil, sys
import tui.app
from tests.opened import opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences

async def shown(mode):
    async with ModiffApp(preferences=Preferences(screen=mode)).run_test() as pilot:
        await opened(pilot)

if sys.argv[1] == "all":
    for module in pkgutil.walk_packages(tui.app.__path__, "tui.app."):
        importlib.import_module(module.name)
else:
    asyncio.run(shown(sys.argv[1]))
print(json.dumps(sorted(sys.modules)))
"""


def modules_of_app(what: str) -> set[str]:
    """All that a process has imported which opened a screen, or ("all") only imported every one of them."""
    done = subprocess.run(
        [sys.executable, "-c", APP, what], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_screen_and_no_widget_imports_anything_heavy():
    modules = modules_of_app("all")
    assert {"tui.app.live.screen", "tui.app.runs.compare", "tui.app.widgets.picture"} <= modules
    assert not modules & {*HEAVY} - {"textual"}


@pytest.mark.parametrize("mode", ["compose", "queue"])
def test_the_app_begins_with_one_screen(mode):
    modules = modules_of_app(mode)
    assert not modules & {*HEAVY} - {"textual"}
    screens = {f"tui.app.{screen}.screen" for screen in TABS}
    assert modules & screens == {f"tui.app.{mode}.screen"}
