"""The options of components and extensions, told without what computes. Torch-free; asked at the start of the app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.components import registry
from engine.components.protocols import KINDS
from engine.errors import ComponentError

if TYPE_CHECKING:
    import msgspec


def schemas(kind: str, name: str) -> type[msgspec.Struct] | None:
    """The options of an extension or of a component, as `presets.fields.listing.fields_of` asks for them; None where
    there are none, or they are not known here."""
    if kind not in KINDS:
        from engine.extensions.registry import schemas as extension_schemas

        return extension_schemas(kind, name)
    try:
        return registry.options(kind, name)
    except ComponentError:
        return None
