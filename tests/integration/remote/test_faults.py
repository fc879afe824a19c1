"""Servers that die, hang or come back: a clear error, nothing lost, and the same bytes afterwards."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from engine.errors import ComponentError, RunCancelled
from presets.encoding import encode_spec
from presets.spec.run import RunSpec
from store.lineage.events import StepFinished
from tests.integration.remote.conftest import Lab, error_of, spec_of
from tests.integration.remote.serving import ALL, Servers


def test_a_server_that_is_killed_at_any_moment_costs_nothing(
    make_lab: Callable[[], Lab], servers: Servers, root: Path
) -> None:
    here = make_lab()
    url = servers.start(*ALL, root=root)
    delays = random.Random(5)
    killed = 0
    for seed, (step, seconds) in enumerate(
        [(2, 0.0), (0, delays.uniform(0, 0.1)), (1, delays.uniform(0, 0.1))]
    ):
        spec = spec_of(dict.fromkeys(ALL, url), "components.denoiser.options.retries=0", seed=seed)
        there = make_lab()
        run_id = queued(there, spec)
        kill = Kill(servers, url, step, seconds)
        kill.at(0)
        told = told_by(partial(there.go_on, run_id, spec, emit=kill.emit))
        killed += bool(told)
        assert not told or url in told
        assert "\n" not in told
        kill.wait()
        servers.again(url, *ALL, root=root)
        there.go_on(run_id, spec)
        assert there.files(run_id) == here.files(here.make(spec_of({}, seed=seed)))
    assert killed
    servers.kill(url)


def test_a_run_goes_on_from_the_step_at_which_its_denoiser_died(
    make_lab: Callable[[], Lab], servers: Servers, root: Path
) -> None:
    here, there = make_lab(), make_lab()
    url = servers.start("denoiser", root=root)
    spec = spec_of({"denoiser": url}, "components.denoiser.options.retries=0", seed=40)
    run_id = queued(there, spec)

    def emit(event: object) -> None:
        there.events.append(event)
        if isinstance(event, StepFinished) and event.step == 2:
            servers.kill(url)

    with pytest.raises(ComponentError, match=r"components\.denoiser: .*does not answer"):
        there.runner.execute(there.store.run(run_id), spec, emit=emit, cancelled=lambda: False)
    servers.again(url, "denoiser", root=root)
    there.go_on(run_id, spec)
    steps = [(step.step, step.source) for step in there.told(StepFinished)]
    assert steps == [(1, "reused"), (2, "reused"), (3, "computed"), (4, "computed")]
    assert there.files(run_id) == here.files(here.make(spec_of({}, seed=40)))
    servers.kill(url)


def test_a_server_that_comes_back_in_time_is_not_noticed(
    lab: Lab, servers: Servers, root: Path
) -> None:
    url = servers.start("denoiser", root=root)
    spec = spec_of({"denoiser": url}, "components.denoiser.options.retries=100")
    run_id = queued(lab, spec)

    def emit(event: object) -> None:
        lab.events.append(event)
        if isinstance(event, StepFinished) and event.step == 2:
            servers.kill(url)
            back = threading.Thread(
                target=servers.again, args=(url, "denoiser"), kwargs={"root": root}
            )
            back.start()

    lab.runner.execute(lab.store.run(run_id), spec, emit=emit, cancelled=lambda: False)
    assert [step.step for step in lab.told(StepFinished)] == [1, 2, 3, 4]
    servers.kill(url)


def test_a_server_that_hangs_is_given_up(lab: Lab, servers: Servers, root: Path) -> None:
    url = servers.start("denoiser", root=root)
    spec = spec_of({"denoiser": url}, "components.denoiser.options.timeout=1")
    run_id = queued(lab, spec)

    def emit(event: object) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            servers.signal(url, signal.SIGSTOP)

    told = error_of(
        lambda: lab.runner.execute(lab.store.run(run_id), spec, emit=emit, cancelled=lambda: False)
    )
    assert f"{url} has given no sign of life for 1 s" in told
    servers.signal(url, signal.SIGCONT)
    lab.go_on(run_id, spec)
    servers.kill(url)


def test_a_run_that_waits_can_be_cancelled(lab: Lab, servers: Servers, root: Path) -> None:
    url = servers.start("denoiser", root=root)
    spec = spec_of({"denoiser": url}, "components.denoiser.options.timeout=600")
    is_stopped = threading.Event()

    def emit(event: object) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            servers.signal(url, signal.SIGSTOP)
            is_stopped.set()

    with pytest.raises(RunCancelled):
        lab.runner.execute(
            lab.store.run(queued(lab, spec)), spec, emit=emit, cancelled=_after(is_stopped, 0.3)
        )
    servers.kill(url)


def queued(lab: Lab, spec: RunSpec) -> str:
    output = str(lab.store.root.parent / "{run}.mp4")
    return lab.store.enqueue(encode_spec(spec), preset="micro", output=output)


def told_by(make: Callable[[], object]) -> str:
    """What it says where it fails, "" where it was quicker."""
    try:
        make()
    except ComponentError as error:
        return str(error)
    return ""


class Kill:
    """Of a server, so many seconds after a step: after none at once, before the run goes on."""

    def __init__(self, servers: Servers, url: str, step: int, seconds: float) -> None:
        self._kill = partial(servers.kill, url)
        self._step, self._seconds = step, seconds
        self._timer = threading.Timer(seconds, self._kill)

    def emit(self, event: object) -> None:
        if isinstance(event, StepFinished):
            self.at(event.step)

    def at(self, step: int) -> None:
        if step == self._step and self._seconds:
            self._timer.start()
        elif step == self._step:
            self._kill()

    def wait(self) -> None:
        if self._seconds:
            self._timer.join()


def _after(event: threading.Event, seconds: float) -> Callable[[], bool]:
    """Says yes so long after the event; then whoever asks waits for the answer that does not come."""
    since: list[float] = []

    def asked() -> bool:
        if event.is_set() and not since:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] > seconds

    return asked
