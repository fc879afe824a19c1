"""What a command may import, seen from inside a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.folders import live_in, new_folder
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


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Before the other fixtures of the module, which each test's own folders come too late for."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        live_in(monkeypatch, new_folder(tmp_path_factory, "imports"))
        yield


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
import asyncio, importlib, json, os, pkgutil, sys
import tui.app
from tests.terminals.opened import opened
from tui.app.app import ModiffApp
from tui.app.preferences import Preferences

async def shown(mode):
    async with ModiffApp(preferences=Preferences(screen=mode)).run_test() as pilot:
        await opened(pilot)

def told(what):
    # None: hidden for a moment, by a thread that imports another one
    imported = sorted(name for name, module in list(sys.modules.items()) if module)
    print("told " + json.dumps([what, imported]), flush=True)

for mode in ("compose", "queue"):
    if not (pid := os.fork()):
        asyncio.run(shown(mode))
        told(mode)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
for module in pkgutil.walk_packages(tui.app.__path__, "tui.app."):
    importlib.import_module(module.name)
told("all")
"""


@pytest.fixture(scope="module")
def of_app() -> dict[str, set[str]]:
    """What is imported where a screen was opened, and where every module of the app was imported."""
    done = subprocess.run(
        [sys.executable, "-c", APP], capture_output=True, text=True, cwd=ROOT, check=True
    )
    told = [line.partition("told ")[2] for line in done.stdout.splitlines() if "told " in line]
    return {what: set(modules) for what, modules in map(json.loads, told)}


def test_no_screen_and_no_widget_imports_anything_heavy(of_app):
    modules = of_app["all"]
    assert {"tui.app.live.screen", "tui.app.runs.compare", "tui.app.widgets.picture"} <= modules
    assert not modules & {*HEAVY} - {"textual"}


@pytest.mark.parametrize("mode", ["compose", "queue"])
def test_the_app_begins_with_one_screen(of_app, mode):
    modules = of_app[mode]
    assert not modules & {*HEAVY} - {"textual"}
    screens = {f"tui.app.{screen}.screen" for screen in TABS}
    assert modules & screens == {f"tui.app.{mode}.screen"}
