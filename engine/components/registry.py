"""Which components exist, by kind and name. Torch-free; finding one imports it, listing them does not.

Built-in ones are rows of a table; a third-party package adds one through the entry-point group `modiff.components`,
with the entry named `kind.name` and its value a provider (engine.components.protocols).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.components.protocols import KINDS, Provider
from engine.errors import ComponentError

if TYPE_CHECKING:
    import msgspec

ENTRY_POINT_GROUP = "modiff.components"


@dataclass(frozen=True, slots=True)
class _Row:
    """One of our components. provider: "module" or "module:object". options: "module:object" of its options, where its
    provider need not be imported for them. reads_weights: whether it reads the weights that its spec names, and so has
    no options of its own."""

    provider: str
    options: str = ""
    reads_weights: bool = False


_PROVIDERS = "engine.components.providers"
_BUILTIN = {
    ("text_encoder", "umt5"): _Row(f"{_PROVIDERS}.umt5", reads_weights=True),
    ("text_encoder", "remote"): _Row(f"{_PROVIDERS}.remote:text_encoder"),
    ("text_encoder", "llama.cpp"): _Row(f"{_PROVIDERS}.llama_cpp"),
    ("image_encoder", "clip"): _Row(f"{_PROVIDERS}.clip", reads_weights=True),
    ("image_encoder", "remote"): _Row(f"{_PROVIDERS}.remote:image_encoder"),
    ("denoiser", "wan-dit"): _Row(f"{_PROVIDERS}.wan_dit", reads_weights=True),
    ("denoiser", "remote"): _Row(f"{_PROVIDERS}.remote:denoiser"),
    ("vae", "wan-vae"): _Row(f"{_PROVIDERS}.wan_vae", reads_weights=True),
    ("vae", "taehv"): _Row(f"{_PROVIDERS}.taehv", reads_weights=True),
    ("vae", "remote"): _Row(f"{_PROVIDERS}.remote:vae"),
    # what every run has that asks no other: the app's form must not import an HTTP client at its start
    ("prompt_expander", "openai"): _Row(
        "engine.expansion.openai", "engine.expansion.options:Options"
    ),
    ("prompt_expander", "transformers"): _Row("engine.expansion.local"),
}


def components() -> dict[tuple[str, str], str]:
    """(kind, name) -> import path of every known provider; imports none of them.

    Raises ComponentError where two packages claim one name, or an entry's name is malformed.
    """
    from importlib.metadata import entry_points  # what reads mail comes with it

    table = {key: row.provider for key, row in _BUILTIN.items()}
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
    return (kind, name) in _BUILTIN and _BUILTIN[kind, name].reads_weights


def options(kind: str, name: str) -> type[msgspec.Struct] | None:
    """The options of a component; None where it has none. Raises ComponentError as `provider`, which is imported where
    the table does not say where they are."""
    row = _BUILTIN.get((kind, name))
    if row is None or not (row.reads_weights or row.options):
        return getattr(provider(kind, name), "Options", None)
    return None if row.reads_weights else _imported(row.options)


def provider(kind: str, name: str) -> Provider:
    """The provider of a component. Raises ComponentError where there is none, or it cannot be imported."""
    row = _BUILTIN.get((kind, name))
    path = row.provider if row else components().get((kind, name))
    if path is None:
        known = ", ".join(sorted(n for k, n in components() if k == kind))
        raise ComponentError(f"unknown {name!r}; known: {known}", key=f"components.{kind}.name")
    try:
        found = _imported(path)
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


def _imported(path: str) -> Any:
    """What is at "module" or "module:object"."""
    module, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found
