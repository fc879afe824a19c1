"""What fits a machine: the settings of a run with which it does, and smaller runs where none do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.fit.options import Fit
    from presets.spec.run import RunSpec
    from store.store import Store

_AREA = 832 * 480
_FRAMES = (49, 33)


def fitted(store: Store, spec: RunSpec, limit: int | None) -> Fit:
    """limit: as of `engine.fit.trials.fit_of`. Raises as it does, and as `planned`."""
    from engine import client
    from engine.components.needed import ModelsAbsent
    from engine.fit.trials import fit_of

    try:
        plan = client.plan(store, spec)
    except ModelsAbsent:
        plan, _ = client.plan_unseen(store, spec)
    return fit_of(store, plan, limit)


def smaller(store: Store, spec: RunSpec, limit: int | None) -> tuple[dict[str, str], Fit] | None:
    """The largest run of this kind that fits, of a few: (what makes it so, what is to be set for it). None where there
    is none."""
    for settings in _smaller(spec):
        changed = msgspec.structs.replace(spec, **settings)
        fit = fitted(store, changed, limit)
        if not fit.misses:
            return {key: str(value) for key, value in settings.items()}, fit
    return None


def _smaller(spec: RunSpec) -> Iterator[dict[str, int]]:
    found: dict[str, int] = {}
    if spec.width * spec.height > _AREA:
        width, height = (832, 480) if spec.width >= spec.height else (480, 832)
        found |= {"width": width, "height": height}
        yield {**found}
    for frames in _FRAMES:
        if frames < spec.frames:
            yield {**found, "frames": frames}
