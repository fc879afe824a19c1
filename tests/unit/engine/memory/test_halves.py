"""The two halves of the guidance on two devices."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from engine.components import choice
from engine.components.memory.halves import GuidanceHalves, copies, joined, other_device, used
from engine.components.protocols import Description
from engine.errors import ComponentError, OutOfMemory
from engine.fit.out_of_memory import out_of_memory_explained
from engine.models.seams import At
from presets.library.loading import load_preset
from presets.spec.components import DenoiserSpec, VAESpec

BRANCHES = {"positive": {"text": torch.ones(1, 2)}, "negative": {"text": torch.zeros(1, 2)}}
POSITIVE, NEGATIVE = (At(step=0, total=1, sigma=1.0, branch=name) for name in BRANCHES)
CPU = torch.device("cpu")
X, TIMESTEP = torch.zeros(1, 1, 1, 2, 2), torch.tensor([500])


class Extension:
    exact = False

    def is_active(self, step: int, total: int) -> bool:
        return True


@dataclass
class Half:
    """Its velocity of a branch is filled with `value`."""

    value: float
    device: torch.device = CPU
    calls: list[tuple[str, ...]] = field(default_factory=list)
    begun: list[tuple[str, ...]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    meet: Callable[[], Any] = lambda: None

    @contextmanager
    def begin(
        self, branches: Mapping[str, Any], extensions: Sequence[Any] = ()
    ) -> Iterator[Callable[..., list[Tensor]]]:
        self.begun.append(tuple(branches))
        yield self.predict

    def predict(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        self.meet()
        self.calls.append(tuple(at.branch for at in ats))
        self.threads.append(threading.get_ident())
        return [torch.full_like(x, self.value) for _ in ats]


def test_a_spec_for_each_device() -> None:
    part = DenoiserSpec(device="cuda:0", guidance_device="cuda:1", dtype="fp16")
    first, other = copies(part)
    assert first is part
    assert other == DenoiserSpec(device="cuda:1", dtype="fp16")
    for one in (DenoiserSpec(), DenoiserSpec(device="mps", guidance_device="mps"), VAESpec()):
        assert copies(one) == (one,)


def test_two_on_one_device_are_one() -> None:
    half = Half(1)
    assert joined([half]) is half
    assert joined([half, Half(2)]) is half
    assert isinstance(joined([half, Half(2, torch.device("mps"))]), GuidanceHalves)


def test_both_at_one_time() -> None:
    """Neither goes on before the other has begun."""
    barrier = threading.Barrier(2, timeout=60)
    first, other = Half(1, meet=barrier.wait), Half(2, meet=barrier.wait)
    with GuidanceHalves(first, other).begin(BRANCHES) as predict:
        found = predict(X, TIMESTEP, [NEGATIVE, POSITIVE])
    assert [float(each.mean()) for each in found] == [2, 1]
    assert (first.begun, other.begun) == ([("positive",)], [("negative",)])
    assert (first.calls, other.calls) == ([("positive",)], [("negative",)])
    assert first.threads == [threading.get_ident()] != other.threads


@pytest.mark.parametrize("by", ["what wraps the model", "who asks"])
def test_one_after_the_other_in_one_thread(by: str) -> None:
    first, other = Half(1), Half(2)
    halves = GuidanceHalves(first, other, in_turn=by == "who asks")
    wrapping: Any = [] if halves.in_turn else [Extension()]
    with halves.begin(BRANCHES, wrapping) as predict:
        found = predict(X, TIMESTEP, [POSITIVE, NEGATIVE])
    assert [float(each.mean()) for each in found] == [1, 2]
    assert first.threads == other.threads == [threading.get_ident()]


@pytest.mark.parametrize(("at", "value"), [(POSITIVE, 1), (NEGATIVE, 2)])
def test_one_branch_is_one_call(at: At, value: float) -> None:
    first, other = Half(1), Half(2)
    with GuidanceHalves(first, other).begin(BRANCHES) as predict:
        (found,) = predict(X, TIMESTEP, [at])
    assert float(found.mean()) == value
    assert len(first.calls) + len(other.calls) == 1


@pytest.mark.parametrize("fails", [0, 1])
def test_an_error_of_either_is_that_of_both(fails: int) -> None:
    halves = [Half(1), Half(2)]
    halves[fails].meet = failing(ValueError("no more"))
    with (
        GuidanceHalves(*halves).begin(BRANCHES) as predict,
        pytest.raises(ValueError, match="no more"),
    ):
        predict(X, TIMESTEP, [POSITIVE, NEGATIVE])


@pytest.mark.parametrize("ats", [[POSITIVE, NEGATIVE], [NEGATIVE]])
@pytest.mark.parametrize("in_turn", [False, True])
def test_it_is_told_that_memory_ended_beside(ats: list[At], in_turn: bool) -> None:
    other = Half(2, meet=failing(torch.OutOfMemoryError("no more")))
    with (
        pytest.raises(OutOfMemory, match=r"^out of memory in denoise$") as caught,
        out_of_memory_explained("denoise", "denoiser"),
        GuidanceHalves(Half(1), other, in_turn).begin(BRANCHES) as predict,
    ):
        predict(X, TIMESTEP, ats)
    assert (caught.value.kind, caught.value.copy) == ("denoiser", 1)


def test_where_memory_ended_first_there_is_none_beside() -> None:
    first = Half(1, meet=failing(torch.OutOfMemoryError("no more")))
    with (
        pytest.raises(OutOfMemory) as caught,
        out_of_memory_explained("denoise", "denoiser"),
        GuidanceHalves(first, Half(2)).begin(BRANCHES) as predict,
    ):
        predict(X, TIMESTEP, [POSITIVE, NEGATIVE])
    assert caught.value.copy == 0


@pytest.mark.parametrize(("full", "copy"), [("cuda:0", 0), ("cuda:1", 1)])
def test_it_is_told_which_copy_there_was_no_memory_for(full: str, copy: int) -> None:
    class Some:
        def holds(self, part: Any, about: Any) -> bool:
            return bool(part.device == "cuda:1")

        @contextmanager
        def use(self, kind: str, part: Any, *given: Any) -> Iterator[Half]:
            if part.device == full:
                raise torch.OutOfMemoryError("no more")
            yield Half(1, torch.device(part.device))

    part = DenoiserSpec(device="cuda:0", guidance_device="cuda:1")
    residents, about = cast("Any", Some()), cast("Any", None)
    with (
        pytest.raises(OutOfMemory) as caught,
        out_of_memory_explained("load", "denoiser"),
        used(residents, "denoiser", part, about),
    ):
        pass
    assert caught.value.copy == copy


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("device", "beside", "others"),
    [("cpu", "mps", ("mps", "cpu")), ("cpu", "", ("", "")), ("cpu", "cpu", ("", ""))],
)
def test_where_the_other_copy_is(
    device: str, beside: str, others: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.dtypes.torch_device", torch.device)
    part = DenoiserSpec(device=device, guidance_device=beside)
    assert (other_device(part, 0), other_device(part, 1)) == others


def test_the_environment_tells_of_the_other_device_where_it_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def environment(device: torch.device) -> str:
        card = {"gpu": f"card {device.index}"} if device.index else {}
        return json.dumps({"device": device.type, "torch": "2", **card})

    monkeypatch.setattr("engine.environment.environment", environment)

    def told(first: str, other: str) -> dict[str, str]:
        halves = GuidanceHalves(Half(1, torch.device(first)), Half(2, torch.device(other)))
        found: dict[str, str] = json.loads(halves.environment)
        return found

    assert told("cuda:0", "cpu") == {"device": "cuda", "torch": "2", "guidance device": "cpu"}
    assert told("cpu", "cuda:1")["guidance gpu"] == "card 1"
    assert told("cpu", "cpu") == {"device": "cpu", "torch": "2"}


def test_where_somebody_else_runs_both_it_is_refused() -> None:
    spec = load_preset(
        "micro",
        [
            "components.denoiser.name=remote",
            "components.denoiser.url=http://127.0.0.1:9",
            "components.denoiser.guidance_device=cuda:1",
        ],
    )

    def describe(kind: str, part: Any) -> Description:
        raise AssertionError("it is refused before anybody is asked")

    with pytest.raises(
        ComponentError,
        match=r"^components\.denoiser\.guidance_device: got cuda:1, but .* of remote .* leave it empty",
    ):
        choice.check(spec, describe)
