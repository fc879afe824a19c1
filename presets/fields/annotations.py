"""What an annotation takes: its type, and what its Meta adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from msgspec import inspect


def unwrap(annotation: object) -> tuple[inspect.Type, str, Mapping[str, Any]]:
    """What an annotation takes, its description, and the `extra` of its Meta."""
    node = inspect.type_info(annotation)
    description, extra = "", {}
    if isinstance(node, inspect.Metadata):
        description = (node.extra_json_schema or {}).get("description", "")
        extra = node.extra or {}
        node = node.type
    return node, description, extra


def node_of(annotation: object) -> inspect.Type:
    """What an annotation takes, without what else it says."""
    return unwrap(annotation)[0]


def arguments(annotation: object) -> tuple[object, ...]:
    """The annotations of what is inside: of items, of names and values, of the options of a union."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation)


def variants(node: inspect.Type) -> tuple[inspect.StructType, ...]:
    """The structs that a field is one of; none where it may be something else too."""
    options = node.types if isinstance(node, inspect.UnionType) else (node,)
    found = tuple(each for each in options if isinstance(each, inspect.StructType))
    return found if len(found) == len(options) else ()


def item_structs(node: inspect.Type) -> tuple[inspect.StructType, ...]:
    """The structs that items of a list may be, also where it is a list among other things."""
    match node:
        case inspect.Metadata():
            return item_structs(node.type)
        case inspect.UnionType():
            return tuple(found for option in node.types for found in item_structs(option))
        case inspect.VarTupleType(item):
            item = item.type if isinstance(item, inspect.Metadata) else item
            options = item.types if isinstance(item, inspect.UnionType) else (item,)
            plain = (each.type if isinstance(each, inspect.Metadata) else each for each in options)
            return tuple(each for each in plain if isinstance(each, inspect.StructType))
    return ()
