"""The keys that a struct has, in their order, and what is said about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect, structs

from presets.fields.annotations import arguments, item_structs, unwrap, variants
from presets.fields.keys import key_of, parse_key, value_at
from presets.fields.wording import expected

OPTIONS = "options:"
"""How the role of a table of options begins; the rest is the kind of what they are options of."""

Schemas = Callable[[str, str], type[msgspec.Struct] | None]
"""The options of a thing by its kind and name, such as "extension" and "teacache"; None where they are not known."""


@dataclass(frozen=True, slots=True)
class Field:
    """One settable key of a struct.

    key: dotted, as in `--set KEY=VALUE`. expected: what it takes, in words. extra: the `extra` of
    its Meta. section: that of the field or of what holds it, empty for none. annotation: what it is typed as, for
    `check_value`; None of a tag.
    """

    key: str
    type: inspect.Type
    expected: str
    description: str
    default: object
    extra: Mapping[str, Any]
    section: str = ""
    annotation: object = None

    @property
    def role(self) -> str:
        """What it is, empty where its type says all."""
        return str(self.extra.get("role", ""))

    @property
    def title(self) -> str:
        """Its name for people."""
        path = parse_key(self.key) or (self.key,)
        return str(self.extra.get("title") or path[-1]).replace("_", " ")


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a struct before it is opened. name: of the attribute."""

    name: str
    field: Field

    @property
    def is_set(self) -> bool:
        return self.field.extra.get("setting", True) is not False


@cache
def fields(struct: type[msgspec.Struct], prefix: str = "") -> tuple[Field, ...]:
    """All settable keys of `struct` in their order, whatever it holds.

    Nested structs are opened, of tagged ones the tag and then the keys of every variant; lists are not.
    """
    found: dict[str, Field] = {}
    for member in members(struct):
        field = _inside(member.field, prefix)
        for variant in variants(field.type):
            if variant.tag_field is not None:
                key = f"{field.key}.{variant.tag_field}"
                found[key] = tag_of(field.type, key, variant.tag, field.section)
            for inner in fields(variant.cls, f"{field.key}."):
                section = inner.section or field.section
                found.setdefault(inner.key, replace(inner, section=section))
        if not variants(field.type) and member.is_set:
            found[field.key] = field
    return tuple(found.values())


def fields_of(
    value: msgspec.Struct, schemas: Schemas | None = None, prefix: str = ""
) -> tuple[Field, ...]:
    """All settable keys of what `value` holds: those of `fields`, and inside lists those of each item that has keys.

    Of a tagged struct the tag and then the keys of the variant that is there. schemas: opens tables of options, which
    else are keys as a whole. A default is what a key has where nobody sets it.
    """
    found: list[Field] = []
    for member in members(type(value)):
        field = _inside(member.field, prefix)
        part = getattr(value, member.name)
        if isinstance(part, msgspec.Struct):
            found += _opened(part, field, schemas)
            continue
        options = _options(value, part, field, schemas)
        if options is not None:
            found += options
        elif member.is_set:
            found.append(field)
        if isinstance(part, list | tuple):
            for index, item in enumerate(part):
                if isinstance(item, msgspec.Struct):
                    found += _opened(
                        item, replace(field, key=f"{field.key}[{index}]"), schemas, field.type
                    )
    return tuple(found)


@cache
def item_fields(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """The keys of the items of every list of `struct`, with N for the index: `extensions[N].name`."""
    return tuple(
        replace(inner, section=inner.section or field.section)
        for field in fields(struct)
        for item in item_structs(field.type)
        for inner in fields(item.cls, f"{field.key}[N].")
    )


def value_of(spec: msgspec.Struct, field: Field) -> Any:
    """What a struct holds at a field of it; its default where an option is not set."""
    try:
        return value_at(spec, parse_key(field.key) or ())
    except LookupError:
        return field.default


@cache
def groups(struct: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """The dotted keys of `struct` that hold further keys and cannot be set themselves."""
    found: list[str] = []
    for member in members(struct):
        for variant in variants(member.field.type):
            key = prefix + member.field.key
            found += [key, *groups(variant.cls, f"{key}.")]
    return tuple(dict.fromkeys(found))


@cache
def found_out(struct: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """The keys that a file may hold and nobody sets: its version, and what was found out of what was given."""
    found: list[str] = []
    for member in members(struct):
        key = prefix + member.field.key
        for variant in variants(member.field.type):
            found += found_out(variant.cls, f"{key}.")
        if not member.is_set:
            found.append(key)
    return tuple(found)


@cache
def members(struct: type[msgspec.Struct]) -> tuple[Member, ...]:
    """The fields of a struct in their order, none of them opened."""
    found = []
    for info in structs.fields(struct):
        node, description, extra = unwrap(info.type)
        default = info.default_factory() if callable(info.default_factory) else info.default
        field = Field(
            key_of((info.encode_name,)),
            node,
            expected(node, extra),
            description,
            default,
            extra,
            str(extra.get("section", "")),
            info.type,
        )
        found.append(Member(info.name, field))
    return tuple(found)


def _inside(field: Field, prefix: str) -> Field:
    return replace(field, key=prefix + field.key) if prefix else field


def _opened(
    part: msgspec.Struct, field: Field, schemas: Schemas | None, among: inspect.Type | None = None
) -> list[Field]:
    """The keys of a struct inside another. among: the type of the list that it is in, for its tag."""
    found = []
    config = part.__struct_config__
    if config.tag_field is not None:
        key = f"{field.key}.{config.tag_field}"
        found.append(tag_of(among or field.type, key, config.tag, field.section))
    inner = fields_of(part, schemas, f"{field.key}.")
    return found + [replace(each, section=each.section or field.section) for each in inner]


def tag_of(node: inspect.Type, key: str, tag: object, section: str) -> Field:
    """The field that says which of several structs there is."""
    found = variants(node) or item_structs(node)
    kind = inspect.LiteralType(tuple(sorted(v.tag for v in found if v.tag is not None)))
    return Field(key, kind, expected(kind, {}), "which kind", tag, {}, section)


def _options(
    holder: msgspec.Struct, part: object, field: Field, schemas: Schemas | None
) -> list[Field] | None:
    """The keys of a table of options, whose kind its role says and whose name is beside it; None where they are not
    known."""
    if schemas is None or not field.role.startswith(OPTIONS) or not isinstance(part, Mapping):
        return None
    struct = schemas(field.role.removeprefix(OPTIONS), str(getattr(holder, "name", "")))
    if struct is None:
        return None
    found = list(fields(struct, f"{field.key}."))
    known = {inner.key for inner in found}
    _, item = arguments(field.annotation)
    node, _, extra = unwrap(item)
    for name in part:
        key = f"{field.key}.{key_of((name,))}"
        if key not in known:  # to be told and taken out again
            about = "not an option of it"
            found.append(
                Field(key, node, expected(node, extra), about, None, extra, annotation=item)
            )
    return found
