"""The cheapest settings with which each stage of a run fits its device, over whatever tells what a stage takes.
Torch-free.

Cheapest means: what changes no bit before what only rounds otherwise, and that before what is approximate. Models
that are not in use cost nothing: engines let them go where the room is needed. Frames never get smaller by themselves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from engine.errors import EngineError
from engine.fit.learned import Learned
from engine.fit.work import Use
from engine.models.swap.residency import NUM_SLOTS

Numbers = Literal["exact", "rounded", "approximate"]
"""What becomes of the numbers: the same bits; the same up to rounding; others."""

Changes = Mapping[str, Any]
"""Settings of a component, by their names within it."""

QUANTISED = "int8"
TILES = (512, 256)


class Option(msgspec.Struct, frozen=True):
    """What may be set for the stages of one component.

    stages: those of the component. settings: as `--set` takes them. needed_bytes: device -> the most that it needs
    then. moved_blocks of num_blocks come to the device at each step, moved_bytes of them all, from the host's memory or
    ("cpu") from their file.
    """

    kind: str
    device: str
    stages: tuple[str, ...]
    settings: dict[str, str]
    numbers: Numbers
    needed_bytes: dict[str, int]
    fits: bool
    is_chosen: bool = False
    moved_bytes: int = 0
    moved_blocks: int = 0
    num_blocks: int = 0


class Fit(msgspec.Struct, frozen=True):
    """limits: device -> what may be taken of it. needed_bytes: stage -> device -> what it needs as the run is set.
    options: what was looked at, in the order of price for each component. misses: stages for which nothing fits.
    alone_bytes: of those, what their work needs without any weights, where that is more than there is. learned: device
    -> what the needs were reckoned with."""

    limits: dict[str, int]
    needed_bytes: dict[str, dict[str, int]]
    options: tuple[Option, ...]
    misses: tuple[str, ...] = ()
    alone_bytes: dict[str, int] = {}
    learned: dict[str, Learned] = {}

    @property
    def settings(self) -> dict[str, str]:
        """All that is to be set."""
        chosen = [option.settings for option in self.options if option.is_chosen]
        return {key: value for settings in chosen for key, value in settings.items()}


class Trial(Protocol):
    """Tells what stages would take."""

    def uses(self, kind: str, changes: Changes) -> Sequence[Use]:
        """Of the stages on a component, with some of its settings changed. Raises EngineError for what cannot be."""
        ...

    def held_bytes(self, part: Part, changes: Changes) -> int:
        """What the weights of a component take of its device, with some of its settings changed."""
        ...

    def needed(self, device: str, num_bytes: int) -> int:
        """What is needed of a device for so many bytes that are told."""
        ...


@dataclass(frozen=True)
class Part:
    """A component of a run. device: as a use tells it. num_blocks: of its model, 0 where they do not move. side: the
    longest side of a frame in pixels."""

    kind: str
    spec: Any
    device: str
    num_blocks: int = 0
    side: int = 0


def search(parts: Sequence[Part], trial: Trial, limits: Mapping[str, int]) -> Fit:
    """What to set so that every stage takes no more than the limits. Raises as `trial.uses`."""
    needed: dict[str, dict[str, int]] = {}
    options: list[Option] = []
    misses: list[str] = []
    alone: dict[str, int] = {}
    for part in parts:
        uses = trial.uses(part.kind, {})
        for use in uses:
            needed.setdefault(use.stage, {})[use.device] = _needed(use, trial)
        if _fits(_most(uses, trial), limits):
            continue
        too_much = _alone(uses, trial, limits) if part.num_blocks else {}
        alone |= too_much
        # whatever is done to the weights, the work stays
        found = [] if too_much else list(_tried(part, trial, limits))
        options += found
        if not any(option.is_chosen for option in found):
            misses += dict.fromkeys(use.stage for use in uses)
    return Fit(dict(limits), needed, tuple(options), tuple(misses), alone)


def _alone(uses: Sequence[Use], trial: Trial, limits: Mapping[str, int]) -> dict[str, int]:
    """stage -> what it needs of a device that has less, without all weights."""
    found = {use: _needed(use, trial, -use.weights_bytes) for use in uses}
    return {
        use.stage: num_bytes
        for use, num_bytes in found.items()
        if not _fits({use.device: num_bytes}, limits)
    }


def _tried(part: Part, trial: Trial, limits: Mapping[str, int]) -> Iterator[Option]:
    """The options of a component up to the cheapest that fits, and one that is dearer."""
    has_chosen = False
    for changes, numbers in _ladder(part):
        try:
            option = _option(part, trial, limits, changes, numbers)
        except EngineError:
            continue  # what its file or its device does not allow
        if option is None:
            continue
        is_chosen = option.fits and not has_chosen
        yield msgspec.structs.replace(option, is_chosen=is_chosen)
        if has_chosen:
            return
        has_chosen = is_chosen


def _ladder(part: Part) -> Iterator[tuple[dict[str, Any], Numbers]]:
    """Changes of a component in the order of their price; of `resident_blocks` None stands for as many as fit."""
    spec, is_away = part.spec, part.device != "cpu"
    quantise = getattr(spec, "quantise", None)
    if part.kind == "vae":
        yield from _of_vae(part)
        return
    if getattr(spec, "unpack", "") == "auto":
        yield {"unpack": "call"}, "exact"
    if part.num_blocks:
        yield {"resident_blocks": None}, "exact"
    elif is_away:
        yield {"device": "cpu"}, "rounded"
    if quantise == "":
        yield {"quantise": QUANTISED}, "approximate"
        if part.num_blocks:
            yield {"quantise": QUANTISED, "resident_blocks": None}, "approximate"


def _of_vae(part: Part) -> Iterator[tuple[dict[str, Any], Numbers]]:
    spec = part.spec
    small: dict[str, Any] = {} if spec.chunk_frames == 1 else {"chunk_frames": 1}
    if small:
        yield small, "rounded"
    # others know no tiles
    for side in TILES if spec.name == "wan-vae" else ():
        if side < part.side and not 0 < spec.tile_size <= side:
            small["tile_size"] = side
            yield {**small}, "approximate"
    if part.device != "cpu" and spec.dtype == "fp32":
        yield {**small, "dtype": "bf16"}, "approximate"
    if part.device != "cpu":
        yield {"device": "cpu"}, "rounded"


def _option(
    part: Part,
    trial: Trial,
    limits: Mapping[str, int],
    changes: dict[str, Any],
    numbers: Numbers,
) -> Option | None:
    """None for what changes nothing."""
    if changes == {"unpack": "call"} and trial.held_bytes(part, changes) >= trial.held_bytes(
        part, {}
    ):
        return None
    if "resident_blocks" in changes:
        return _swapped(part, trial, limits, changes, numbers)
    uses = trial.uses(part.kind, changes)
    most = _most(uses, trial)
    device = "cpu" if changes.get("device") == "cpu" else part.device
    settings = _settings(part.kind, changes)
    stages = _stages(uses)
    return Option(part.kind, device, stages, settings, numbers, most, _fits(most, limits))


def _swapped(
    part: Part,
    trial: Trial,
    limits: Mapping[str, int],
    changes: dict[str, Any],
    numbers: Numbers,
) -> Option | None:
    """With as many blocks on the device as fit, found from one walk with none: what a block takes that stays is what
    its weights take."""
    # where no more than the slots would come, all stay
    if part.num_blocks <= NUM_SLOTS:
        return None

    def with_resident(count: int) -> dict[str, Any]:
        return {**changes, "resident_blocks": str(count)}

    uses = trial.uses(part.kind, with_resident(0))
    least = trial.held_bytes(part, with_resident(0))

    def needed(count: int) -> dict[str, int]:
        more = trial.held_bytes(part, with_resident(count)) - least
        return _most(uses, trial, more={part.device: more})

    # more blocks take more
    counts = range(part.num_blocks - NUM_SLOTS)
    too_many = bisect_left(counts, True, key=lambda count: not _fits(needed(count), limits))
    count = max(0, too_many - 1)
    most = needed(count)
    per_block = trial.held_bytes(part, with_resident(1)) - least
    moved = part.num_blocks - count
    return Option(
        part.kind,
        part.device,
        _stages(uses),
        _settings(part.kind, with_resident(count)),
        numbers,
        most,
        _fits(most, limits),
        moved_bytes=moved * per_block,
        moved_blocks=moved,
        num_blocks=part.num_blocks,
    )


def _stages(uses: Sequence[Use]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(use.stage for use in uses))


def _settings(kind: str, changes: Changes) -> dict[str, str]:
    return {f"components.{kind}.{name}": str(value) for name, value in changes.items()}


def _most(
    uses: Sequence[Use], trial: Trial, more: Mapping[str, int] | None = None
) -> dict[str, int]:
    """device -> the most that one of the stages needs."""
    found: dict[str, int] = {}
    for use in uses:
        extra = (more or {}).get(use.device, 0)
        found[use.device] = max(found.get(use.device, 0), _needed(use, trial, extra))
    return found


def _needed(use: Use, trial: Trial, more: int = 0) -> int:
    """Without the models that stay loaded: they go where their room is needed."""
    return trial.needed(use.device, use.peak_bytes - use.kept_bytes + more)


def _fits(needed: Mapping[str, int], limits: Mapping[str, int]) -> bool:
    return all(num_bytes <= limits.get(device, num_bytes) for device, num_bytes in needed.items())
