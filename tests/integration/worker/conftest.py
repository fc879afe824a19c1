"""A store, and processes that are gone when the test ends."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from store.store import open_store
from tests.deadline import deadline
from tests.integration.forker import launch_forks
from tests.integration.worker_runs import ENGINE, TEST_SECONDS


@pytest.fixture(autouse=True)
def _deadline():
    with deadline(TEST_SECONDS):
        yield


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path / "store") as opened:
        yield opened
    # Those too that lost a race and had not noticed when the test ended.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(tmp_path / "store") in process.cmdline():
                process.kill()


@pytest.fixture(autouse=True)
def _forks(monkeypatch):
    started = launch_forks(monkeypatch, "tests.integration.engine_process", command=ENGINE)
    yield
    for engine in started:
        engine.kill()


@pytest.fixture
def processes():
    """A list whose processes are gone when the test ends."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()
