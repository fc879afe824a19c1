"""What the fields of a run can be set to on this machine, by their roles: components, models, backends, extensions.
Torch-free."""

from __future__ import annotations

from engine.checkpoints.known.catalogue import MODELS
from engine.checkpoints.locate import builtin_names
from engine.components import registry
from engine.components.protocols import KINDS
from engine.components.providers.wan_dit import ATTENTION_BACKENDS
from engine.errors import ComponentError
from engine.extensions.registry import extensions
from engine.remote.hosts import known_hosts
from presets.library.templates import list_templates


def _hosts() -> tuple[str, ...]:
    try:
        return tuple(host.name for host in known_hosts())
    except ComponentError:  # whoever names one is told
        return ()


def known_names() -> dict[str, tuple[str, ...]]:
    """Raises ComponentError where two packages claim one name."""
    components = registry.components()
    names: dict[str, tuple[str, ...]] = {
        "component:attention": ATTENTION_BACKENDS,
        "component:extension": tuple(sorted(extensions())),
        "host": _hosts(),
    }
    for kind in KINDS:
        names[f"component:{kind}"] = tuple(name for of, name in components if of == kind)
        models = (model.name for model in MODELS if model.kind == kind)
        names[f"model:{kind}"] = (*builtin_names(kind), *models)
    names["template"] = tuple(template.name for template in list_templates())
    return names
