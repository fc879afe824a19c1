"""Which extensions exist, by name, and whether a run's choice of them can be met. Torch-free.

Built-in ones are rows of a table; a third-party package adds one through the entry-point group `modiff.extensions`,
with the entry named as the extension.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import msgspec

from engine.errors import ComponentError
from engine.extensions.extension import Extension, Facts
from engine.models.seams import SEAMS
from presets.errors import PresetError
from presets.fields.checks import build
from presets.fields.listing import fields
from presets.fields.wording import did_you_mean, nearest
from presets.settings.settling import BLOCK_SWAP
from presets.spec.sampling import ExtensionSpec

ENTRY_POINT_GROUP = "modiff.extensions"

_BUILTIN = {
    "skip-layer-guidance": "engine.extensions.guidance.skip_layer:SkipLayerGuidance",
    "teacache": "engine.extensions.caching.teacache:TeaCache",
}
_DECLARED = ("exact", "version", "Options", "is_active")


@functools.cache  # it reads what every installed package says of itself
def extensions() -> dict[str, str]:
    """name -> "module:Class" of every known extension; imports none of them.

    Raises ComponentError where two packages claim one name.
    """
    table = dict(_BUILTIN)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in table:
            owner = entry.dist.name if entry.dist else entry.value
            raise ComponentError(
                f"{owner} adds the extension {entry.name!r}, which {table[entry.name]} provides already; "
                "remove one of the two packages"
            )
        table[entry.name] = entry.value
    return table


def find(name: str, key: str = "extensions") -> type[Extension]:
    """The class of an extension. key: of the spec that names it, for the error.

    Raises ComponentError where there is none, or it cannot be imported, or is no extension.
    """
    table = extensions()
    if name not in table:
        if name == BLOCK_SWAP:
            raise ComponentError(
                "block swap is a setting of the denoiser now; leave the extension out and set "
                "components.denoiser.resident_blocks",
                key=f"{key}.name",
            )
        hint = did_you_mean(nearest(name, list(table))) or f"; known: {', '.join(sorted(table))}"
        raise ComponentError(f"unknown extension {name!r}{hint}", key=f"{key}.name")
    module, _, attribute = table[name].partition(":")
    try:
        found: type[Extension] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ComponentError(f"the extension {name!r} cannot be imported: {error}") from error
    absent = [member for member in _DECLARED if not hasattr(found, member)]
    if absent:
        raise ComponentError(f"the extension {name!r} ({table[name]}) has no {', '.join(absent)}")
    return found


def options_of(spec: ExtensionSpec, key: str = "extensions") -> msgspec.Struct:
    """The options of an extension, with its defaults for those left out. key: of the spec, "extensions[0]".

    Raises ComponentError as `find` does, and PresetError, whose key names the option that is wrong.
    """
    struct = find(spec.name, key).Options
    try:
        return build(spec.options, struct)
    except PresetError as error:
        raise _of_option(error, key) from None


def make(spec: ExtensionSpec, facts: Facts, key: str = "extensions") -> Extension:
    """The extension, for a denoiser of which these facts are told.

    Raises PresetError (the option's key) or ComponentError: one line.
    """
    options = options_of(spec, key)
    try:
        return find(spec.name, key)(options, facts)
    except PresetError as error:
        raise _of_option(error, key) from None
    except ComponentError as error:
        raise ComponentError(str(error), key=key) from None


def check(specs: Sequence[ExtensionSpec], facts: Facts) -> None:
    """Refuses extensions that do not exist or cannot work with this denoiser; raises as `make` does."""
    for index, spec in enumerate(specs):
        if spec.enabled:
            key = f"extensions[{index}]"
            _check_reach(type(make(spec, facts, key)), facts, spec.name, key)


def _check_reach(extension: type, facts: Facts, name: str, key: str) -> None:
    """facts: of a denoiser that cannot be wrapped everywhere "seams" names those where it can."""
    within = facts.get("seams")
    if within is None:
        return
    beyond = [seam for seam in SEAMS if hasattr(extension, seam) and seam not in within]
    if beyond:
        raise ComponentError(
            f"{name} works inside the denoiser, which runs elsewhere; leave it out, or run the denoiser here "
            "(--set components.denoiser.name=wan-dit)",
            key=key,
        )


def enabled(specs: Sequence[ExtensionSpec]) -> tuple[ExtensionSpec, ...]:
    """Those that are switched on: what is off is no part of a run, and need not even exist here."""
    return tuple(spec for spec in specs if spec.enabled)


def schemas(kind: str, name: str) -> type[msgspec.Struct] | None:
    """The options of an extension, as `presets.fields.listing.fields_of` asks for them; None where they are not
    known here."""
    if kind != "extension":
        return None
    try:
        return find(name).Options
    except ComponentError:
        return None


def identity(spec: ExtensionSpec, facts: Facts) -> dict[str, Any]:
    """What an extension's numbers depend on: name, version, and where there are any, its options that are not
    neutral and the facts of the denoiser that it uses.

    Of an exact extension nothing belongs in a key: ask `find(spec.name).exact` first.
    """
    found, options = find(spec.name), options_of(spec)
    told = {
        field.key: getattr(options, field.key)
        for field in fields(type(options))
        if not field.extra.get("place")
        and not field.extra.get("when")
        and ("neutral" not in field.extra or getattr(options, field.key) != field.extra["neutral"])
    }
    used = {name: facts.get(name, "") for name in getattr(found, "facts_in_key", ())}
    parts = {"options": told, "facts": used}
    named = {"name": spec.name, "version": found.version}
    return named | {name: part for name, part in parts.items() if part}


def _of_option(error: PresetError, key: str) -> PresetError:
    option = f"{key}.options.{error.key}" if error.key else f"{key}.options"
    return PresetError(error.problem, key=option)
