"""One process that forks servers for all tests of this folder, and runs in this process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from engine.components.memory.residents import Residents
from engine.components.providers import remote
from engine.errors import EngineError
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.lineage.events import Event
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.delivered import content
from tests.integration.remote.serving import ALL, Servers

SEEDS = itertools.count(7000)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as started:
        yield started


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what servers remember."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def everything(servers: Servers, root: Path) -> str:
    """The address of a server of all kinds, which no test may end."""
    return servers.start(*ALL, root=root)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is taken at its word of an earlier moment, and pauses between two calls are short."""
    remote._recent.clear()
    monkeypatch.setattr("engine.remote.waiting.random.uniform", lambda low, high: 0.01)


@dataclass
class Lab:
    """A store, and what executes the runs of it here."""

    store: Store
    runner: Runner
    events: list[Event]

    def make(
        self,
        spec: RunSpec,
        segments: tuple[Segment, ...] = (),
        *,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """A run of these settings; returns its id. Raises as it does."""
        output = str(self.store.root.parent / "{run}.mp4")
        run_id = self.store.enqueue(
            encode_spec(spec), preset="micro", output=output, segments=segments
        )
        self.go_on(run_id, spec, cancelled=cancelled)
        return run_id

    def go_on(
        self,
        run_id: str,
        spec: RunSpec,
        *,
        emit: Callable[[object], None] = lambda _event: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        def keep(event: object) -> None:
            self.events.append(event)
            emit(event)

        self.events.clear()
        self.runner.execute(self.store.run(run_id), spec, emit=keep, cancelled=cancelled)

    def told(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def files(self, run_id: str) -> tuple[object, object]:
        path = Path(self.store.run(run_id).output)
        return content(path), content(path.with_suffix(".safetensors"))


@pytest.fixture(scope="session")
def residents() -> Residents:
    """The models of this process, for all runs here."""
    return Residents()


@pytest.fixture
def make_lab(tmp_path: Path, residents: Residents) -> Iterator[Callable[[], Lab]]:
    names = itertools.count()
    with contextlib.ExitStack() as stack:

        def make() -> Lab:
            folder = tmp_path / str(next(names))
            folder.mkdir()
            store = stack.enter_context(open_store(folder / "store"))
            return Lab(store, stack.enter_context(Runner(store, residents)), [])

        yield make
    torch.set_num_threads(1)


@pytest.fixture
def lab(make_lab: Callable[[], Lab]) -> Lab:
    return make_lab()


def spec_of(urls: dict[str, str], *overrides: str, seed: int | None = None) -> RunSpec:
    """A small run of the micro model that nobody made before, with these components elsewhere."""
    own = [
        *("width=32", "height=32", "frames=5", "scheduler.steps=4"),
        'output.kinds=["video","latents"]',
        f"seed={next(SEEDS) if seed is None else seed}",
    ]
    for kind, url in urls.items():
        own += [f"components.{kind}.name=remote", f"components.{kind}.url={url}"]
    return load_preset("micro", [*own, *overrides])


def error_of(make: Callable[[], object]) -> str:
    with pytest.raises(EngineError) as caught:
        make()
    return str(caught.value)
