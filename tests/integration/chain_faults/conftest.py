"""Stores, and engines of this process and of others, for the tests of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.store import Store, open_store
from tests.deadline import deadline
from tests.integration.chain_engine import Engines
from tests.integration.chain_runs import TEST_SECONDS, Calm, Here


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    with deadline(TEST_SECONDS):
        yield


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with Engines() as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    with open_store(tmp_path_factory.mktemp("calm") / "store") as opened:
        yield Calm(opened)


@pytest.fixture
def here(store: Store, calm: Calm) -> Here:
    return Here(store, like=calm)


@pytest.fixture
def gate(store: Store) -> Path:
    """The file before which a run with the fault `gated` does not go beyond its third step."""
    return store.root.parent / "gate"
