"""The contract as an OpenAPI document, made from the very table that the routes are made from."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from engine.remote.contract import (
    CONTRACT,
    JSON,
    MAX_HEADER_BYTES,
    OPERATIONS,
    TENSORS,
    Operation,
    Refusal,
)


@cache
def openapi() -> dict[str, Any]:
    """OpenAPI 3.1."""
    structs = [
        struct
        for each in OPERATIONS
        for struct in (each.takes, each.metadata, each.gives)
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct)
    ]
    schemas, components = msgspec.json.schema_components(
        [*structs, Refusal], ref_template="#/components/schemas/{name}"
    )
    named = dict(zip([*structs, Refusal], schemas, strict=True))
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, named)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Components of Modular Diffusion",
            "version": str(CONTRACT),
            "description": "Tensors travel as one safetensors body with a header of at most "
            f"{MAX_HEADER_BYTES} bytes; see docs/remote.md.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(operation: Operation, named: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {
            "204" if operation.gives is None else "200": _response(operation.gives, named),
            "default": {
                "description": "Refused",
                "content": {JSON: {"schema": named[Refusal]}},
            },
        },
    }
    if "{digest}" in operation.path:
        schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
        found["parameters"] = [{"name": "digest", "in": "path", "required": True, "schema": schema}]
    if operation.takes is not None:
        body = _content(operation.takes, named)
        found["requestBody"] = {"required": True, "content": body}
    if operation.metadata is not None:
        found["requestBody"]["description"] = "`modiff` in the metadata of the body is JSON"
        found["x-metadata"] = named[operation.metadata]
    return found


def _response(gives: Any, named: dict[Any, Any]) -> dict[str, Any]:
    if gives is None:
        return {"description": "Taken"}
    told = "Bodies one after another" if gives == "stream" else "Answered"
    return {"description": told, "content": _content(gives, named)}


def _content(what: Any, named: dict[Any, Any]) -> dict[str, Any]:
    if what in ("tensors", "stream"):
        return {TENSORS: {"schema": {"type": "string", "format": "binary"}}}
    if what == "text":
        return {"text/plain": {"schema": {"type": "string"}}}
    if what is dict:
        return {JSON: {"schema": {"type": "object"}}}
    return {JSON: {"schema": named[what]}}
