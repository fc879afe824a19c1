"""Which components exist, by kind and name. Torch-free; finding one imports it, listing them does not.

Built-in ones are rows of a table; a third-party package adds one through the entry-point group `modiff.components`,
with the entry named `kind.name` and its value a provider (engine.components.protocols).
"""

from __future__ import annotations

import importlib
from typing import Any

from engine.components.protocols import KINDS, Provider
from engine.errors import ComponentError

ENTRY_POINT_GROUP = "modiff.components"

# (kind, name) -> "module" or "module:object" of the provider
_FROM_FILES = {
    ("text_encoder", "umt5"): "engine.components.umt5",
    ("image_encoder", "clip"): "engine.components.clip",
    ("denoiser", "wan-dit"): "engine.components.wan_dit",
    ("vae", "wan-vae"): "engine.components.wan_vae",
    ("vae", "taehv"): "engine.components.taehv",
}
_BUILTIN = _FROM_FILES | {
    ("text_encoder", "remote"): "engine.components.remote:text_encoder",
    ("text_encoder", "llama.cpp"): "engine.components.llama_cpp",
    ("image_encoder", "remote"): "engine.components.remote:image_encoder",
    ("denoiser", "remote"): "engine.components.remote:denoiser",
    ("vae", "remote"): "engine.components.remote:vae",
    ("prompt_expander", "openai"): "engine.expansion.openai",
    ("prompt_expander", "transformers"): "engine.expansion.local",
}


def components() -> dict[tuple[str, str], str]:
    """(kind, name) -> import path of every known provider; imports none of them.

    Raises ComponentError where two packages claim one name, or an entry's name is malformed.
    """
    from importlib.metadata import entry_points  # what reads mail comes with it

    table = dict(_BUILTIN)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        kind, _, name = entry.name.partition(".")
        owner = entry.dist.name if entry.dist else entry.value
        if kind not in KINDS or not name:
            raise ComponentError(
                f"{owner}: entry point {entry.name!r} should be named kind.name, with a kind of "
                f"{', '.join(KINDS)}"
            )
        if (kind, name) in table:
            raise ComponentError(
                f"{owner} adds the {kind} {name!r}, which {table[kind, name]} provides already; "
                "remove one of the two packages"
            )
        table[kind, name] = entry.value
    return table


def is_builtin(kind: str, name: str) -> bool:
    """Whether a component is one of ours."""
    return (kind, name) in _BUILTIN


def reads_weights(kind: str, name: str) -> bool:
    """Whether a component is one of ours that reads the weights which its spec names."""
    return (kind, name) in _FROM_FILES


def provider(kind: str, name: str) -> Provider:
    """The provider of a component. Raises ComponentError where there is none, or it cannot be imported."""
    path = _BUILTIN.get((kind, name)) or components().get((kind, name))
    if path is None:
        known = ", ".join(sorted(n for k, n in components() if k == kind))
        raise ComponentError(f"unknown {name!r}; known: {known}", key=f"components.{kind}.name")
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ComponentError(f"the {kind} {name!r} cannot be imported: {error}") from error
    absent = [each for each in ("describe", "load") if not callable(getattr(found, each, None))]
    if absent:
        raise ComponentError(
            f"the {kind} {name!r} ({path}) has no {' and no '.join(absent)}; a provider has both "
            "(docs/components.md)"
        )
    provided: Provider = found
    return provided
