"""A denoiser whose guidance runs on two devices: a copy of its weights on each, one branch beside the other.
Torch-free to import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.components.protocols import Conditions, Denoiser, Description, Predict
from engine.extensions.extension import Extension, active
from engine.fit.out_of_memory import out_of_memory_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.components.memory.residents import Residents
    from engine.models.seams import At

    class Placed(Denoiser, Protocol):
        told: str

        @property
        def device(self) -> torch.device: ...


NEGATIVE = "negative"


def alone(part: Any) -> Any:
    """The spec of a component without a second device."""
    if not getattr(part, "guidance_device", ""):
        return part
    return msgspec.structs.replace(part, guidance_device="")


def copies(part: Any) -> tuple[Any, ...]:
    """The spec of a component, once for each device that it names; two that come to one device, as `auto` and `cpu`
    may, share what is loaded there."""
    beside = getattr(part, "guidance_device", "")
    if beside in ("", part.device):
        return (part,)
    return part, msgspec.structs.replace(part, device=beside, guidance_device="")


def other_device(part: Any, copy: int) -> str:
    """Where the other one of two copies of a component is; "" where there is none."""
    from engine.dtypes import torch_device

    devices = [each.device for each in copies(part)]
    is_one = len({torch_device(each) for each in devices}) == 1
    return "" if is_one else devices[1 - copy]


@contextmanager
def used(
    residents: Residents,
    kind: str,
    part: Any,
    about: Description,
    loaded: Callable[[Any, float], None] = lambda part, seconds: None,
    work_bytes: int | None = None,
) -> Iterator[Any]:
    """The component of a spec, made of all its copies. loaded: called for each that was not in memory, with its spec
    and the seconds that took. work_bytes: what each is about to take beside its weights, None where nobody knows.
    Raises as `Residents.use`."""
    found = dict[int, Any]()
    with ExitStack() as stack:
        # those that are there first: what is not in use goes for one that is loaded
        for i, each in sorted(
            enumerate(copies(part)), key=lambda placed: not residents.holds(placed[1], about)
        ):
            with out_of_memory_of(i) if i else nullcontext():
                use = residents.use(kind, each, about, partial(loaded, each), work_bytes)
                found[i] = stack.enter_context(use)
        yield joined([found[i] for i in sorted(found)])


def joined(copies: Sequence[Any], *, in_turn: bool = False) -> Any:
    """One component of one or two. in_turn: as of `GuidanceHalves`."""
    if len(copies) == 1 or copies[0].device == copies[1].device:
        return copies[0]
    first, other = copies
    return GuidanceHalves(first, other, in_turn)


@dataclass(frozen=True)
class GuidanceHalves:
    """The branch "negative" runs on `other`, all else on `first`, in calls of their own. in_turn: one is called after
    the other, in one thread; devices that work by themselves overlap even so."""

    first: Placed
    other: Placed
    in_turn: bool = False

    @property
    def told(self) -> str:
        """What is to be said of both once they are loaded."""
        return "; ".join(filter(None, (each.told for each in (self.first, self.other))))

    @property
    def environment(self) -> str:
        """That of `first`; what differs on the other device stands beside it."""
        from engine.environment import environment
        from store.keys import canonical

        mine, others = (json.loads(environment(each.device)) for each in (self.first, self.other))
        differing = {
            f"guidance {name}": value for name, value in others.items() if mine.get(name) != value
        }
        return canonical(mine | differing).decode()

    @contextmanager
    def begin(
        self, branches: Mapping[str, Conditions], extensions: Sequence[Extension] = ()
    ) -> Iterator[HalvesPredict]:
        """As of `Denoiser`."""
        mine = {name: each for name, each in branches.items() if name != NEGATIVE}
        others = {name: each for name, each in branches.items() if name == NEGATIVE}
        with (
            ThreadPoolExecutor(1, thread_name_prefix="guidance") as executor,
            self.first.begin(mine, extensions) as first,
            ExitStack() as stack,
        ):
            with out_of_memory_of(1):
                other = stack.enter_context(self.other.begin(others, extensions))
            yield HalvesPredict(self, first, other, tuple(extensions), executor)


@dataclass(frozen=True)
class HalvesPredict:
    """See `Predict`. Velocities are on the devices of their halves."""

    halves: GuidanceHalves
    first: Predict
    other: Predict
    extensions: tuple[Extension, ...]
    executor: Executor

    def __call__(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        near, far = (
            [at for at in ats if (at.branch == NEGATIVE) is is_negative]
            for is_negative in (False, True)
        )
        if not far:
            return self.first(x, timestep, near)
        if not near:
            return self._negative(x, timestep, far)
        # both before any call: a copy waits for all that was asked of the device which it leaves
        mine = x.to(self.halves.first.device)
        with out_of_memory_of(1):
            others = x.to(self.halves.other.device)
        found = self._both(
            lambda: self.first(mine, timestep, near),
            lambda: self._negative(others, timestep, far),
            # what wraps a model may keep something from call to call
            in_turn=self.halves.in_turn or bool(active(self.extensions, ats[0].step, ats[0].total)),
        )
        velocities = {at.branch: each for at, each in zip([*near, *far], found, strict=True)}
        return [velocities[at.branch] for at in ats]

    def _negative(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        with out_of_memory_of(1):
            return self.other(x, timestep, ats)

    def _both(
        self, first: Callable[[], list[Tensor]], other: Callable[[], list[Tensor]], *, in_turn: bool
    ) -> list[Tensor]:
        if not in_turn:
            beside = self.executor.submit(other)
            return [*first(), *beside.result()]
        if self.halves.first.device.type == "cpu":
            # the device that works by itself is asked first
            negative = other()
            return [*first(), *negative]
        return [*first(), *other()]
