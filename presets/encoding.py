"""Specs as bytes and as JSON Schema.

Encoded bytes are canonical, with all defaults written out, so that a run keeps its meaning when a default changes
later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from presets.errors import PresetError
from presets.fields.checks import build
from presets.settings.settling import settle_names, settle_steps
from presets.spec.run import FORMAT, PresetFile, RunSpec
from presets.validation import validate


def encode_spec(spec: RunSpec) -> bytes:
    """Canonical JSON: sorted keys, every default written out; `PresetError` if not valid."""
    return msgspec.json.encode(validate(spec), order="sorted")


def decode_spec(encoded: bytes) -> RunSpec:
    """The spec of `encode_spec`'s bytes or of any JSON object of its keys; raises `PresetError`."""
    try:
        data = msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PresetError(f"a run specification must be JSON: {error}") from None
    check_format(data)
    settled = settle_names(settle_steps(data)) if isinstance(data, dict) else data
    return validate(build(settled, RunSpec))


def check_format(data: object, *, source: str = "") -> None:
    """Refuse data of a newer format; done before other checks, since its keys may be new too."""
    version = data.get("format", FORMAT) if isinstance(data, dict) else FORMAT
    if type(version) is int and version > FORMAT:
        raise PresetError(
            f"{version} is newer than {FORMAT}, the newest that this modiff reads; update modiff",
            key="format",
            source=source,
        )


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `RunSpec`; 4n+1 frames and finite numbers are beyond its words."""
    return msgspec.json.schema(RunSpec)


def preset_schema(extensions: Mapping[str, type[msgspec.Struct]] | None = None) -> dict[str, Any]:
    """JSON Schema of a preset file: `RunSpec` and the keys about the preset, for editors that
    know TOML.

    extensions: by name their options, which the schema then knows too.
    """
    schema = msgspec.json.schema(PresetFile)
    if extensions:
        schema["$defs"]["ExtensionSpec"]["allOf"] = [
            {
                "if": {"properties": {"name": {"const": name}}},
                "then": {"properties": {"options": _options_schema(options)}},
            }
            for name, options in extensions.items()
        ]
    return schema


def _options_schema(options: type[msgspec.Struct]) -> dict[str, Any]:
    _, named = msgspec.json.schema_components([options])
    return named[options.__name__]
