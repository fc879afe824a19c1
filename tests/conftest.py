"""Every test runs on folders of its own, never on the user's store, presets, models or home, and with the signals of a
process that was just started: what it starts would inherit those that are ignored."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from textual import _wait
from textual.pilot import Pilot

from engine.process import version
from tests.folders import in_memory, is_empty, live_in, new_folder
from tests.oracles.later import Later
from tests.stores import quick_stores

# Pilot sleeps so long, and again, until the app is idle after each key: the steps of 20 ms would be half of the suite.
_wait.SLEEP_GRANULARITY = 1 / 500
_wait.SLEEP_IDLE = _wait.SLEEP_GRANULARITY / 2
send_size = Pilot.resize_terminal


async def resize_terminal(pilot: Pilot[Any], width: int, height: int) -> None:
    """Textual tells its screens of a size when no other has followed it for a moment."""
    await send_size(pilot, width, height)
    while pilot.app._resize_timer is not None:
        await pilot.pause(_wait.SLEEP_GRANULARITY)
    await pilot.pause()


Pilot.resize_terminal = resize_terminal  # type: ignore[method-assign]

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many processes as cores: a second thread of each would wait for a core, spinning
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# rewriting the assertions of every file takes each process longer than all else before its first test: it is kept
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# every command looks whether a source file was touched; none is while tests run
ROOT = Path(__file__).resolve().parents[1]
look_for_files = version._files
files_of_ours = cache(look_for_files)
version._files = lambda root: files_of_ours(root) if root == ROOT else look_for_files(root)

_homes: list[Path] = []
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
PEERS = ("tests.oracles.parity", "tests.oracles.peers", "tests.weights.layouts")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Folders of tests are in memory where there is room; those that are to be looked at have `--basetemp`."""
    if config.option.basetemp or hasattr(config, "workerinput"):
        return
    if folder := in_memory():
        config.option.basetemp = str(folder / "tests")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported is no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Workers begin with different files, so that each finds what another has rewritten."""
    report = yield
    worker = getattr(collector.config, "workerinput", None)
    if worker and isinstance(collector, pytest.Directory):
        number = int(worker["workerid"].removeprefix("gw"))
        first = len(report.result) * number // worker["workercount"]
        report.result = report.result[first:] + report.result[:first]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One order for all workers. What is compared with other programs comes first: one worker has it all."""
    items.sort(key=lambda item: (not _imports_later(item.module), item.path))


@cache
def _imports_later(module: ModuleType) -> bool:
    held = vars(module).values()
    return any(isinstance(each, Later) or getattr(each, "__module__", "") in PEERS for each in held)


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """What the tests of a file leave behind stays, as all that was collected: an engine that gives models back
    collects garbage, and would walk through it all."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """CI may run us under `nohup`, and an engine in this process ignores SIGHUP; a signal with a handler is its
    default again in a new program."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_folder(tmp_path_factory, re.sub(r"\W", "_", request.node.name)[:30])


@pytest.fixture(autouse=True)
def copied_stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module whose subject is how stores are made says MAKES_STORES."""
    if not getattr(request.module, "MAKES_STORES", False):
        quick_stores.copy_new_stores(monkeypatch)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds this test's `store`, `config` and `models`, and is its home: where nothing was put into
    one, it is the next test's too."""
    if not _homes or not is_empty(_homes[-1]):
        _homes[:] = [new_folder(tmp_path_factory, "home")]
    live_in(monkeypatch, _homes[-1])
    return _homes[-1]
