"""The settings of a run by the names that people type for them: a whole key, or the end of one that is no other's."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from presets.fields.listing import fields, groups, item_fields
from presets.fields.lookup import nearest_keys
from presets.fields.wording import did_you_mean, nearest
from presets.spec.run import RunSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from presets.fields.listing import Field

# Where a run writes and what it keeps is no difference of what it makes.
_OF_FILES = ("output.", "keep.")
# Names that say nothing without what they are of.
_VAGUE = {"name", "device", "dtype", "scale", "options", "checkpoint", "url", "background"}
# What a run begins from is called by its table, of which the path is what counts.
_GIVEN = ("picture", "clip")

_OPTION = re.compile(r"[\w+-]{1,64}")
_OPTIONS_OF_ITEM = "extensions[N].options"
_PLACE = re.compile(r"\[\d+\]")


class UnknownKey(ValueError):
    """No setting has this name, or several do; says what was expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting that can be asked for. key: dotted, with the place of an item in its list, or N for any of them. field:
    what is known about it, None for an option of an extension or of a component of somebody else's."""

    key: str
    field: Field | None


def setting(name: str, others: Sequence[str] = ()) -> Setting:
    """The one setting of this name: its key, or last parts of it that no other setting has; inside a list
    `extensions[0].name` is of one item, `extensions.name` of any, and an option of an installed extension is that of
    any.

    others: names that can stand in its place, for who mistyped one. Raises UnknownKey.
    """
    found = _by_end().get(name, ())
    exact = [field for field in found if field.key == name]
    # where a run writes and what it keeps is asked for by whole keys
    of_result = [field for field in found if not field.key.startswith(_OF_FILES)]
    for candidates in (exact, of_result, found):
        if len(candidates) == 1:
            return Setting(candidates[0].key, candidates[0])
    if found:
        raise UnknownKey(f"{name} is said of {', '.join(field.key for field in found)}; name one")
    if (of_item := item_setting(name)) is not None:
        return of_item
    table, _, option = name.rpartition(".")
    if table.endswith(".options") and _OPTION.fullmatch(option):
        tables = _by_end().get(table, ())
        if len(tables) == 1:
            return Setting(f"{tables[0].key}.{option}", None)
    inside = [field.key for field in fields(RunSpec) if field.key.startswith(f"{name}.")]
    if inside:
        raise UnknownKey(f"{name} is a table of settings: {', '.join(inside)}; name one")
    if name in _extension_options():
        return Setting(f"{_OPTIONS_OF_ITEM}.{name}", None)
    near = nearest(name, others) or nearest_keys(name, RunSpec)
    hint = did_you_mean(near, quoted=False) or "; `modiff presets show --keys` lists the settings"
    raise UnknownKey(f"{name} is no setting of a run{hint}")


def item_setting(name: str) -> Setting | None:
    """The setting of this whole key inside the items of a list; None where there is none."""
    known = {field.key: field for field in item_fields(RunSpec)}
    for table in {key.partition("[N]")[0] for key in known}:
        if name.startswith(f"{table}."):
            name = f"{table}[N].{name.removeprefix(f'{table}.')}"
    general = _PLACE.sub("[N]", name)
    if general in known:
        return Setting(name, known[general])
    table, _, option = general.rpartition(".")
    is_option = table == _OPTIONS_OF_ITEM and _OPTION.fullmatch(option)
    return Setting(name, None) if is_option else None


@cache
def _extension_options() -> frozenset[str]:
    """The names of the options of all extensions that are installed and can be imported; none where two packages claim
    one name, which a run tells."""
    from engine.errors import ComponentError
    from engine.extensions import registry

    found: set[str] = set()
    with suppress(ComponentError):
        for name in registry.extensions():
            with suppress(ComponentError):
                found.update(registry.find(name).Options.__struct_fields__)
    return frozenset(found)


def short_name(key: str) -> str:
    """What a setting is called where there is little room: `seed`, `steps`, `guidance`, `scheduler`, `vae.dtype`."""
    parts = key.replace("[N]", "").split(".")
    table = key.rpartition(".")[0]
    if table in _alone() or key in given_files():
        return table
    if len(parts) > 1 and parts[-1] == "name":
        return parts[-2]
    if key.startswith((*_OF_FILES, "expansion.")):
        return key
    return ".".join(parts[-2:] if parts[-1] in _VAGUE else parts[-1:])


@cache
def short_names() -> tuple[str, ...]:
    """Of all settings, in their order."""
    return tuple(short_name(field.key) for field in fields(RunSpec))


@cache
def given_files() -> frozenset[str]:
    """The keys of the paths of what a run begins from: pictures and a clip."""
    return frozenset(field.key for field in fields(RunSpec) if field.role in _GIVEN)


@cache
def _by_end() -> dict[str, tuple[Field, ...]]:
    found: dict[str, tuple[Field, ...]] = {}
    for field in fields(RunSpec):
        for end in _ends(field.key):
            found[end] = (*found.get(end, ()), field)
    named = {
        field.key.removesuffix(".name"): field
        for field in fields(RunSpec)
        if field.key.endswith(".name")
    }
    given = {
        field.key.removesuffix(".path"): field
        for field in fields(RunSpec)
        if field.key in given_files()
    }
    for table, field in [*_alone().items(), *named.items(), *given.items()]:
        for end in _ends(table):
            found.setdefault(end, (field,))
    return found


@cache
def _alone() -> dict[str, Field]:
    """By table the setting that is the only one in it."""
    inside = {
        table: [field for field in fields(RunSpec) if field.key.startswith(f"{table}.")]
        for table in groups(RunSpec)
    }
    return {table: found[0] for table, found in inside.items() if len(found) == 1}


def _ends(key: str) -> list[str]:
    """The key and its last parts, the longest first."""
    parts = key.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]
