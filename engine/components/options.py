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
    if registry.reads_weights(kind, name):
        return None  # as `engine.components.files` has it: no need to import the model's module
    if (kind, name) == ("prompt_expander", "openai"):  # what every run has that asks no other
        from engine.expansion.options import Options

        return Options
    try:
        return getattr(registry.provider(kind, name), "Options", None)
    except ComponentError:
        return None
