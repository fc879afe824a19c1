"""A plan with other settings of its components, walked without being made anew. Torch-free to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from engine.errors import EngineError
from engine.fit.dry_run import Describe, Facts, device_of, here, uses_in, works_of
from engine.fit.learned import Learned, learned
from engine.fit.options import Changes, Fit, Part, search
from engine.fit.work import Use, Work, latents_shape
from engine.graph import Ref

if TYPE_CHECKING:
    from engine.plan import Plan
    from store.index.index import Index
    from store.store import Store


@dataclass(frozen=True)
class Trials:
    """See `engine.fit.options.Trial`."""

    works: Sequence[Work]
    describe: Describe
    index: Index
    learned: Mapping[str, Learned]
    here: Facts

    def uses(self, kind: str, changes: Changes) -> Sequence[Use]:
        changed = [self._changed(work, changes) for work in self.works if work.kind == kind]
        return uses_in(changed, self.index, self.here)

    def held_bytes(self, part: Part, changes: Changes) -> int:
        spec = msgspec.structs.replace(part.spec, **changes)
        return self.describe(part.kind, spec).on(part.device.partition(":")[0]).num_bytes

    def needed(self, device: str, num_bytes: int) -> int:
        return self.learned.get(device, Learned()).needed(num_bytes)

    def _changed(self, work: Work, changes: Changes) -> Work:
        if not changes:
            return work
        part = msgspec.structs.replace(work.part, **changes)
        nodes = tuple(replace(node, part=part) for node in work.nodes)
        return replace(work, nodes=nodes, about=self.describe(work.kind, part))


def fit_of(store: Store, plan: Plan, limit: int | None) -> Fit:
    """What to set so that a plan fits. limit: bytes of each device that is not the CPU, or of the CPU where nothing
    else is used; None for what is free now.

    Raises as `memory_of`, and EngineError for a device that is not here where no limit is given.
    """
    from engine.components.descriptions import Descriptions
    from engine.components.unseen import Published
    from store.index.index import open_index

    with open_index(store.root) as index:
        describe = Published(Descriptions(index))
        works, _ = works_of(plan, describe, index)
        trials = Trials(works, describe, index, learned(index), here())
        parts = _parts(works, trials)
        limits = limits_of({part.device for part in parts}, limit)
        known = {device: trials.learned.get(device, Learned()) for device in limits}
        return msgspec.structs.replace(search(parts, trials, limits), learned=known)


def limits_of(devices: set[str], limit: int | None) -> dict[str, int]:
    """device -> what may be taken of it. Raises EngineError."""
    import psutil

    memory = psutil.virtual_memory()
    away = devices - {"cpu"}
    if limit is None:
        return {"cpu": memory.available, **{device: _free_on(device) for device in away}}
    if not away:
        return {"cpu": limit}
    return {"cpu": memory.total, **dict.fromkeys(sorted(away), limit)}


def _free_on(device: str) -> int:
    import torch

    is_here = device.startswith("cuda") and int(device.partition(":")[2] or 0) < (
        torch.cuda.device_count()
    )
    if not is_here:
        raise EngineError(
            f"how much of {device} is free is not known here; say how much there is, such as --fit 24"
        )
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return free


def _parts(works: Sequence[Work], trials: Trials) -> list[Part]:
    found: dict[str, Part] = {}
    for work in works:
        if work.kind in found:
            continue
        uses = trials.uses(work.kind, {})
        blocks = work.about.facts.get("num_blocks", 0)
        device = device_of(work.stage, uses)
        found[work.kind] = Part(work.kind, work.part, device, blocks, _side(work))
    return list(found.values())


def _side(work: Work) -> int:
    """The longest side of a frame that the VAE works on, in pixels."""
    node = work.nodes[0]
    if "latents" in node.inputs:
        ref = node.inputs["latents"]
        assert isinstance(ref, Ref)
        return 8 * max(latents_shape(ref.node)[3:])
    return max(node.params.get("size", [0]))
