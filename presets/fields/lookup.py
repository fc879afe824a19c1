"""A key -> the annotation of its value, or the refusal that names the nearest key that there is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
from msgspec import inspect

from presets.errors import PresetError
from presets.fields.annotations import arguments, unwrap, variants
from presets.fields.keys import key_of, parse_key
from presets.fields.listing import fields, groups, members
from presets.fields.wording import did_you_mean, nearest


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


def is_list(annotation: object) -> bool:
    """Whether an annotation takes a list, alone or beside other things."""
    return _inner(annotation, 0) is not None


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


def unknown_in(key: str, siblings: Sequence[str], root: type[msgspec.Struct]) -> PresetError:
    """The error for a key that is none of its siblings, naming the nearest of these, else of all of `root`."""
    found = nearest(key, siblings, cutoff=0.75)
    if not found:
        return unknown_key(key, root)
    return PresetError(f"unknown key{did_you_mean(found, quoted=False)}", key=key)


def _inner(annotation: object, part: str | int) -> object | None:
    """The annotation of a member of a struct, an item of a list or an option of a table; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return _member_of(annotation, part)
    node, _, _ = unwrap(annotation)
    match node:
        case inspect.UnionType():
            inner = (_inner(option, part) for option in arguments(annotation))
            return next((each for each in inner if each is not None), None)
        case inspect.StructType() if isinstance(part, str):
            return _member_of(node.cls, part)
        case inspect.VarTupleType() if isinstance(part, int):
            return arguments(annotation)[0]
        case inspect.DictType() if isinstance(part, str):
            return arguments(annotation)[1]
    return None


def _member_of(struct: type[msgspec.Struct], part: str | int) -> object | None:
    config = struct.__struct_config__
    if config.tag_field is not None and part == config.tag_field:
        return type(config.tag)
    return next((m.field.annotation for m in members(struct) if m.field.key == part), None)


def _unknown_inside(
    key: str, annotation: object, done: tuple[str | int, ...], root: type[msgspec.Struct]
) -> PresetError:
    """The refusal of a name that what is at `done` does not have."""
    node, _, _ = unwrap(annotation)
    structs_ = variants(node)
    if not structs_:
        return PresetError(f"{key_of(done)} holds no other keys", key=key)
    if any(isinstance(part, int) for part in done):
        within = [
            f"{key_of(done)}.{member.field.key}"
            for variant in structs_
            for member in members(variant.cls)
        ]
        found = nearest(key, within)
        hint = did_you_mean(found, quoted=False) or f"; there are {', '.join(within)}"
        return PresetError(f"unknown key{hint}", key=key)
    return unknown_key(key, root)


def _letters(key: str) -> str:
    return key.translate(str.maketrans("", "", "._-")).lower()
