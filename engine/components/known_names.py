"""What the fields of a run can be set to on this machine, by their keys: components, models, backends. Torch-free."""

from __future__ import annotations

from engine.checkpoints.known.catalogue import MODELS
from engine.checkpoints.locate import BUILTIN_MICRO
from engine.components import registry
from engine.components.protocols import KINDS
from engine.components.wan_dit import ATTENTION_BACKENDS


def known_names() -> dict[str, tuple[str, ...]]:
    """Raises ComponentError where two packages claim one name."""
    components = registry.components()
    names: dict[str, tuple[str, ...]] = {"components.denoiser.attention": ATTENTION_BACKENDS}
    for kind in KINDS:
        names[f"components.{kind}.name"] = tuple(name for of, name in components if of == kind)
        models = (model.name for model in MODELS if model.kind == kind)
        names[f"components.{kind}.checkpoint"] = (BUILTIN_MICRO, *models)
    return names
