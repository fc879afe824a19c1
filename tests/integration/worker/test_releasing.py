"""A worker lets go of idle models as it is asked: between pieces of a run's work, and while it waits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from engine.process import worker as workers
from engine.process.launch import release_engines
from engine.process.version import installed_version
from engine.process.worker import Worker
from store.lineage.records import HeldModel
from tests.integration.worker_runs import enqueue

ENGINE = "engineaaaa"
VAE = HeldModel("vae", "wan-vae", "cpu", 5)
DENOISER = HeldModel("denoiser", "wan-dit", "cpu", 7)


@dataclass
class Stop:
    is_set: bool = False


@dataclass
class Holding:
    """A runner that holds two models, of which its run uses one."""

    store: object
    stop: Stop
    held_models: tuple[HeldModel, ...] = ()
    is_short: bool = False
    told: list[object] = field(default_factory=list)
    relieved: int = 0

    def execute(self, run, spec, *, emit, cancelled, paused, between):
        self.held_models = (DENOISER, VAE)
        between()
        self.told.append(self.engine().models)
        self.store.request_release()
        between()
        self.told.append(
            (self.engine().models, self.engine().released, self.engine().is_to_release)
        )
        between()
        return run.output

    def engine(self):
        (engine,) = self.store.engines()
        return engine

    def held(self):
        return tuple(each.kind for each in self.held_models)

    def models(self):
        return self.held_models

    def release(self):
        is_at_work = len(self.told) == 1
        gone = tuple(each for each in self.held_models if each is VAE or not is_at_work)
        self.held_models = tuple(each for each in self.held_models if each not in gone)
        return gone

    def relieve(self):
        """The first time the system is not short, then it is; after that the worker is to stop."""
        self.relieved += 1
        if self.relieved == 1:
            self.told.append(self.engine().models)
        if self.relieved == 2:
            return self.release()
        if self.relieved == 3:
            self.told.append((self.engine().models, self.engine().held))
            self.held_models = (VAE,)
            self.store.request_release()
        if self.relieved == 4:
            self.told.append(self.engine().released)
            self.stop.is_set = True
        return ()


def test_idle_models_go_as_asked_and_where_the_system_is_short(store, monkeypatch):
    monkeypatch.setattr(workers, "RELIEF_SECONDS", 0.0)
    stop = Stop()
    runner = Holding(store, stop)
    enqueue(store, "steps 1")
    with store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()):
        Worker(store, ENGINE, lambda root: runner, stop).work(idle_seconds=600)
    assert runner.told == [
        (DENOISER, VAE),  # as soon as they are loaded
        ((DENOISER,), (VAE,), False),  # what the run uses stays
        (DENOISER,),
        ((), ()),  # what went by itself is told too
        (VAE,),
    ]


@pytest.mark.parametrize("is_there", [False, True])
def test_who_asks_is_told_what_went(store, monkeypatch, is_there):
    if not is_there:
        assert release_engines(store) == []
        return
    with store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()):
        (busy,) = release_engines(store, timeout_seconds=0)
        assert busy.is_to_release
        store.set_released(ENGINE, [VAE])
        assert [each.released for each in store.engines()] == [(VAE,)]
