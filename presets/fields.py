"""What annotations say about the keys of a struct: the one source of checks, messages and help.

msgspec decides what is valid; the code here finds the key that is to blame and words the refusal.
Four rules that msgspec cannot state ride in `Meta(extra=...)` and are enforced by `build`:
`step` (an integer is the lower limit plus a multiple of it), `max` (of an integer, where it has more
than 63 bits), `max_bytes` (of text in UTF-8) and finite numbers everywhere. `expected` in `extra`
replaces the worded expectation, for patterns.

Two more are for those who show a field: `role` says what it is ("seed", "device", "component:vae", ...), and so which
editor it gets; `section` in which part of a form it stands, with all keys that it holds (`presets.sections`).
`"setting": False` is of a key that a file may hold and nobody sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import inspect, structs

from presets.errors import PresetError
from presets.keys import key_of, parse_key, value_at
from presets.wording import MAX_ECHO, did_you_mean, expected, nearest, refusal

S = TypeVar("S", bound=msgspec.Struct)

_TABLES = (inspect.StructType, inspect.DictType)

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
class _Member:
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
    for member in _members(struct):
        field = _inside(member.field, prefix)
        for variant in _variants(field.type):
            if variant.tag_field is not None:
                key = f"{field.key}.{variant.tag_field}"
                found[key] = _tag_of(field.type, key, variant.tag, field.section)
            for inner in fields(variant.cls, f"{field.key}."):
                section = inner.section or field.section
                found.setdefault(inner.key, replace(inner, section=section))
        if not _variants(field.type) and member.is_set:
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
    for member in _members(type(value)):
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
        for item in _item_structs(field.type)
        for inner in fields(item.cls, f"{field.key}[N].")
    )


def value_of(spec: msgspec.Struct, field: Field) -> Any:
    """What a struct holds at a field of it; its default where an option is not set."""
    try:
        return value_at(spec, parse_key(field.key) or ())
    except LookupError:
        return field.default


@lru_cache(maxsize=1024)
def annotation_at(key: str, struct: type[msgspec.Struct]) -> object:
    """The annotation of a key, also of one inside lists and tables, whatever the struct holds.

    Raises `PresetError`: an unknown key, naming the nearest that there is, or one inside of what holds no keys.
    """
    annotation: object = struct
    done: tuple[str | int, ...] = ()
    for part in parse_key(key) or (key,):
        inner = _inner(annotation, part)
        if inner is None:
            if isinstance(part, int):
                raise PresetError(f"{key_of(done)} is no list", key=key)
            if _inner(annotation, 0) is not None:
                raise PresetError(
                    f"{key_of(done)} is a list; name one of its items, as in {key_of((*done, 0))}",
                    key=key,
                )
            raise _unknown_inside(key, annotation, done, struct)
        annotation, done = inner, (*done, part)
    return annotation


def node_of(annotation: object) -> inspect.Type:
    """What an annotation takes, without what else it says."""
    return _unwrap(annotation)[0]


def is_list(annotation: object) -> bool:
    """Whether an annotation takes a list, alone or beside other things."""
    return _inner(annotation, 0) is not None


def check_value(value: object, annotation: object, key: str, root: type[msgspec.Struct]) -> None:
    """Raises `PresetError` for a value that does not fit the annotation of its key."""
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        raise _explain(value, annotation, key, root) from None
    except UnicodeEncodeError:  # as in `build`
        _refuse_unstorable(value, key)
        raise
    node, _, extra = _unwrap(annotation)
    if not _keeps_extra_rules(value, node, extra):
        raise refusal(value, node, extra, key)
    _refuse_unstorable(value, key)


@cache
def groups(struct: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """The dotted keys of `struct` that hold further keys and cannot be set themselves."""
    found: list[str] = []
    for member in _members(struct):
        for variant in _variants(member.field.type):
            key = prefix + member.field.key
            found += [key, *groups(variant.cls, f"{key}.")]
    return tuple(dict.fromkeys(found))


@cache
def found_out(struct: type[msgspec.Struct], prefix: str = "") -> tuple[str, ...]:
    """The keys that a file may hold and nobody sets: its version, and what was found out of what was given."""
    found: list[str] = []
    for member in _members(struct):
        key = prefix + member.field.key
        for variant in _variants(member.field.type):
            found += found_out(variant.cls, f"{key}.")
        if not member.is_set:
            found.append(key)
    return tuple(found)


def build(data: object, struct: type[S]) -> S:
    """Plain data -> `struct`; raises `PresetError` naming the first key that is wrong.

    Keys that are left out take their defaults, so a part of a preset can be checked on its own.
    """
    try:
        built = msgspec.convert(data, struct)
    except msgspec.ValidationError:
        raise _explain(data, struct, "", struct) from None
    except UnicodeEncodeError:  # half a pair of surrogates where one of a few texts belongs
        _refuse_unstorable(data, "")
        raise
    _check_extra_rules(built, "")
    _refuse_unstorable(msgspec.to_builtins(built), "")
    return built


def unknown_key(key: str, struct: type[msgspec.Struct]) -> PresetError:
    """The error for a dotted `key` that `struct` does not have, naming the nearest it has."""
    return PresetError(
        f"unknown key{did_you_mean(nearest_keys(key, struct), quoted=False)}", key=key
    )


def nearest_keys(key: str, struct: type[msgspec.Struct]) -> list[str]:
    """The keys that a mistyped `key` most probably means, none when nothing is near.

    By its letters alone, else by the last word in the same group, else by the last word anywhere,
    else by the whole key.
    """
    keys = [*(field.key for field in fields(struct)), *groups(struct)]
    if found := [k for k in keys if _letters(k) == _letters(key)]:
        return found
    group, _, word = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == group}
    if found := nearest(word, list(siblings)):
        return [siblings[found[0]]]
    words = [k.rpartition(".")[2] for k in keys]
    if found := nearest(word, words, cutoff=0.8):
        return [k for k in keys if k.rpartition(".")[2] == found[0]]
    return nearest(key, keys)


@cache
def _members(struct: type[msgspec.Struct]) -> tuple[_Member, ...]:
    found = []
    for info in structs.fields(struct):
        node, description, extra = _unwrap(info.type)
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
        found.append(_Member(info.name, field))
    return tuple(found)


def _inside(field: Field, prefix: str) -> Field:
    return replace(field, key=prefix + field.key) if prefix else field


def _variants(node: inspect.Type) -> tuple[inspect.StructType, ...]:
    """The structs that a field is one of; none where it may be something else too."""
    options = node.types if isinstance(node, inspect.UnionType) else (node,)
    found = tuple(each for each in options if isinstance(each, inspect.StructType))
    return found if len(found) == len(options) else ()


def _item_structs(node: inspect.Type) -> tuple[inspect.StructType, ...]:
    """The structs that items of a list may be, also where it is a list among other things."""
    match node:
        case inspect.Metadata():
            return _item_structs(node.type)
        case inspect.UnionType():
            return tuple(found for option in node.types for found in _item_structs(option))
        case inspect.VarTupleType(item):
            item = item.type if isinstance(item, inspect.Metadata) else item
            options = item.types if isinstance(item, inspect.UnionType) else (item,)
            plain = (each.type if isinstance(each, inspect.Metadata) else each for each in options)
            return tuple(each for each in plain if isinstance(each, inspect.StructType))
    return ()


def _opened(
    part: msgspec.Struct, field: Field, schemas: Schemas | None, among: inspect.Type | None = None
) -> list[Field]:
    """The keys of a struct inside another. among: the type of the list that it is in, for its tag."""
    found = []
    config = part.__struct_config__
    if config.tag_field is not None:
        key = f"{field.key}.{config.tag_field}"
        found.append(_tag_of(among or field.type, key, config.tag, field.section))
    inner = fields_of(part, schemas, f"{field.key}.")
    return found + [replace(each, section=each.section or field.section) for each in inner]


def _tag_of(node: inspect.Type, key: str, tag: object, section: str) -> Field:
    """The field that says which of several structs there is."""
    variants = _variants(node) or _item_structs(node)
    kind = inspect.LiteralType(tuple(sorted(v.tag for v in variants if v.tag is not None)))
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
    _, item = _arguments(field.annotation)
    node, _, extra = _unwrap(item)
    for name in part:
        key = f"{field.key}.{key_of((name,))}"
        if key not in known:  # to be told and taken out again
            about = "not an option of it"
            found.append(
                Field(key, node, expected(node, extra), about, None, extra, annotation=item)
            )
    return found


def _inner(annotation: object, part: str | int) -> object | None:
    """The annotation of a member of a struct, an item of a list or an option of a table; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return _member_of(annotation, part)
    node, _, _ = _unwrap(annotation)
    match node:
        case inspect.UnionType():
            inner = (_inner(option, part) for option in _arguments(annotation))
            return next((each for each in inner if each is not None), None)
        case inspect.StructType() if isinstance(part, str):
            return _member_of(node.cls, part)
        case inspect.VarTupleType() if isinstance(part, int):
            return _arguments(annotation)[0]
        case inspect.DictType() if isinstance(part, str):
            return _arguments(annotation)[1]
    return None


def _member_of(struct: type[msgspec.Struct], part: str | int) -> object | None:
    config = struct.__struct_config__
    if config.tag_field is not None and part == config.tag_field:
        return type(config.tag)
    return next((m.field.annotation for m in _members(struct) if m.field.key == part), None)


def _unknown_inside(
    key: str, annotation: object, done: tuple[str | int, ...], root: type[msgspec.Struct]
) -> PresetError:
    """The refusal of a name that what is at `done` does not have."""
    node, _, _ = _unwrap(annotation)
    structs_ = _variants(node)
    if not structs_:
        return PresetError(f"{key_of(done)} holds no other keys", key=key)
    if any(isinstance(part, int) for part in done):
        within = [
            f"{key_of(done)}.{member.field.key}"
            for variant in structs_
            for member in _members(variant.cls)
        ]
        found = nearest(key, within)
        hint = did_you_mean(found, quoted=False) or f"; there are {', '.join(within)}"
        return PresetError(f"unknown key{hint}", key=key)
    return unknown_key(key, root)


def _unwrap(annotation: object) -> tuple[inspect.Type, str, Mapping[str, Any]]:
    node = inspect.type_info(annotation)
    description, extra = "", {}
    if isinstance(node, inspect.Metadata):
        description = (node.extra_json_schema or {}).get("description", "")
        extra = node.extra or {}
        node = node.type
    return node, description, extra


def _arguments(annotation: object) -> tuple[object, ...]:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation)


def _explain(
    value: object, annotation: object, key: str, root: type[msgspec.Struct]
) -> PresetError:
    """The refusal for the first part of `value`, which is known not to fit `annotation`."""
    node, _, extra = _unwrap(annotation)
    if isinstance(node, inspect.UnionType):
        if (tagged := _variants(node)) and isinstance(value, Mapping):
            tag = tagged[0].tag_field
            given = value.get(tag) if tag is not None else None
            if tag is not None and given not in {variant.tag for variant in tagged}:
                field = _tag_of(node, _joined(key, tag), given, "")
                return refusal(given, field.type, {}, field.key)
        option = _option_like(value, annotation)
        if option is not None:
            return _explain(value, option, key, root)
    parts: Iterator[tuple[object, object, str]] = iter(())
    if isinstance(node, inspect.StructType) and isinstance(value, Mapping):
        known = {info.encode_name: info for info in structs.fields(node.cls)}
        for name in value:
            if name not in known and name != node.tag_field:
                siblings = [f"{key}.{sibling}" if key else sibling for sibling in known]
                return _unknown_in(_joined(key, name), siblings, root)
        for name, info in known.items():
            if info.required and name not in value:
                wanted = expected(*_unwrap(info.type)[::2])
                return PresetError(f"missing, expected {wanted}", key=_joined(key, name))
        parts = ((value[n], info.type, _joined(key, n)) for n, info in known.items() if n in value)
    elif isinstance(node, inspect.VarTupleType) and isinstance(value, list | tuple):
        item = _arguments(annotation)[0]
        parts = ((part, item, f"{key}[{index}]") for index, part in enumerate(value))
    elif isinstance(node, inspect.DictType) and isinstance(value, Mapping):
        name_type, item = _arguments(annotation)
        for name in value:
            if not _converts(name, name_type):
                wanted = expected(*_unwrap(name_type)[::2])
                return PresetError(f"expected a name that is {wanted}", key=_joined(key, name))
        parts = ((part, item, _joined(key, name)) for name, part in value.items())
    for part, part_annotation, part_key in parts:
        if not _converts(part, part_annotation):
            return _explain(part, part_annotation, part_key, root)
    return refusal(value, node, extra, key)


def _option_like(value: object, annotation: object) -> object | None:
    """Of a union that takes arrays or tables the option that is meant by `value`; None where there is none."""
    options = [(option, _unwrap(option)[0]) for option in _arguments(annotation)]
    for option, node in options:
        if isinstance(node, inspect.StructType) and node.tag is not None:
            assert node.tag_field is not None
            if isinstance(value, Mapping) and value.get(node.tag_field) == node.tag:
                return option
    if not any(isinstance(node, (*_TABLES, inspect.VarTupleType)) for _, node in options):
        return None
    wanted: tuple[type[inspect.Type], ...] = ()
    match value:
        case Mapping():
            wanted = _TABLES
        case list() | tuple():
            wanted = (inspect.VarTupleType,)
        case int() | float() if not isinstance(value, bool):
            wanted = (inspect.FloatType, inspect.IntType)
    return next((option for option, node in options if isinstance(node, wanted)), None)


def _converts(value: object, annotation: object) -> bool:
    try:
        msgspec.convert(value, annotation)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _joined(key: str, name: object) -> str:
    shown = str(name)
    if len(shown) > MAX_ECHO:
        shown = shown[:MAX_ECHO] + "..."
    return f"{key}.{shown}" if key else shown


def _check_extra_rules(struct: msgspec.Struct, prefix: str) -> None:
    for member in _members(type(struct)):
        field, value = member.field, getattr(struct, member.name)
        if isinstance(value, msgspec.Struct):
            _check_extra_rules(value, f"{prefix}{field.key}.")
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, msgspec.Struct):
                    _check_extra_rules(item, f"{prefix}{field.key}[{index}].")
        elif not _keeps_extra_rules(value, field.type, field.extra):
            raise refusal(value, field.type, field.extra, prefix + field.key)


def _keeps_extra_rules(value: object, node: inspect.Type, extra: Mapping[str, Any]) -> bool:
    if "step" in extra and isinstance(node, inspect.IntType):
        assert isinstance(value, int)
        assert node.ge is not None
        return (value - node.ge) % int(extra["step"]) == 0
    if "max" in extra:
        assert isinstance(value, int)
        return value <= int(extra["max"])
    if "max_bytes" in extra:
        assert isinstance(value, str)
        return len(value.encode("utf-8", "surrogatepass")) <= int(extra["max_bytes"])
    return True


def _refuse_unstorable(value: object, key: str) -> None:
    """Refuse what msgspec accepts but JSON, TOML, SQLite or a file name cannot hold."""
    match value:
        case float() if not math.isfinite(value):
            raise PresetError(f"expected a finite number, got {value}", key=key)
        case str() if "\0" in value:
            raise PresetError("expected text without NUL characters", key=key)
        case str() if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise PresetError("expected text that is valid Unicode (UTF-8)", key=key)
        case Mapping():
            for name, part in value.items():
                _refuse_unstorable(name, _joined(key, name))
                _refuse_unstorable(part, _joined(key, name))
        case list() | tuple():
            for index, part in enumerate(value):
                _refuse_unstorable(part, f"{key}[{index}]")


def _unknown_in(key: str, siblings: Sequence[str], root: type[msgspec.Struct]) -> PresetError:
    found = nearest(key, siblings, cutoff=0.75)
    if not found:
        return unknown_key(key, root)
    return PresetError(f"unknown key{did_you_mean(found, quoted=False)}", key=key)


def _letters(key: str) -> str:
    return key.translate(str.maketrans("", "", "._-")).lower()
