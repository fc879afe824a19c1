"""The run specification: defaults, canonical bytes, schema, and what a spec built in Python may
hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

import presets
from presets.encoding import decode_spec, encode_spec, json_schema, preset_schema
from presets.errors import PresetError
from presets.fields.listing import fields, groups
from presets.library.loading import load_preset
from presets.spec.run import FORMAT, RunSpec
from presets.spec.sampling import ExtensionSpec, GuidanceSpec, SchedulerSpec
from presets.validation import validate

ROOT = Path(presets.__file__).parent.parent


def test_the_defaults_are_valid() -> None:
    assert validate(RunSpec()) == RunSpec()


def test_encoded_bytes_write_out_every_default() -> None:
    encoded = json.loads(encode_spec(RunSpec()))
    for field in fields(RunSpec):
        value = encoded
        for name in field.key.split("."):
            value = value[name]
        assert value == json.loads(json.dumps(msgspec.to_builtins(field.default))), field.key


def test_an_integer_where_a_number_is_wanted_encodes_like_the_float() -> None:
    whole = replace(RunSpec(), guidance=GuidanceSpec(scale=6))
    assert encode_spec(whole) == encode_spec(replace(RunSpec(), guidance=GuidanceSpec(scale=6.0)))
    assert b'"scale":6.0' in encode_spec(whole)


def test_options_keep_the_type_of_their_values() -> None:
    encodings = {
        encode_spec(RunSpec(extensions=(ExtensionSpec(name="x", options={"a": value}),)))
        for value in (1, 1.0, True, "1")
    }
    assert len(encodings) == 4


def test_keys_that_are_left_out_of_json_take_their_defaults() -> None:
    assert decode_spec(b'{"seed": 7}') == RunSpec(seed=7)


def test_sigmas_in_json_decide_the_steps() -> None:
    assert decode_spec(b'{"scheduler": {"sigmas": [1, 0.5, 0.25]}}').scheduler.steps == 3


@pytest.mark.parametrize(
    ("encoded", "line"),
    [
        (b"", "a run specification must be JSON: "),
        (b"\xff", "a run specification must be JSON: "),
        (b"[" * 100_000, "a run specification must be JSON: "),
        (b"[]", "expected a table, got an array of 0"),
        (b'{"seed": 1e999}', "a run specification must be JSON: "),
        (
            b'{"format": 2, "new": 1}',
            "format: 2 is newer than 1, the newest that this modiff reads",
        ),
        (b'{"format": true}', "format: expected 1, got true"),
        (b'{"format": 0}', "format: expected 1, got 0"),
        (b'{"sed": 1}', "sed: unknown key, did you mean seed?"),
        (b'{"prompt": "a\\u0000b"}', "prompt: expected text without NUL characters"),
        (b'{"prompt": "\xe6"}', "a run specification must be JSON: "),
    ],
)
def test_bad_json_is_one_line(encoded: bytes, line: str) -> None:
    with pytest.raises(PresetError) as caught:
        decode_spec(encoded)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"prompt": b"red"},
            "prompt: expected text of at most 16384 bytes, got a value of type bytes",
        ),
        ({"scheduler": 5}, "scheduler: expected a table, got 5"),
        ({"seed": True}, "seed: expected an integer >= 0"),
        (
            {"guidance": GuidanceSpec(scale=float("nan"))},
            "guidance.scale: expected a finite number",
        ),
        (
            {"scheduler": SchedulerSpec(sigmas=(1.0, 0.5))},
            "scheduler.steps: expected 2, the number",
        ),
        (
            {"extensions": (ExtensionSpec(name="x", options={"a": None}),)},  # type: ignore[dict-item]
            "extensions[0].options.a: expected true, false, a number or text",
        ),
        (
            {"extensions": (ExtensionSpec(name="x", options={"a": float("inf")}),)},
            "extensions[0].options.a: expected a finite number, got inf",
        ),
        ({"prompt": "\ud800"}, "prompt: expected text that is valid Unicode"),
    ],
)
def test_specs_built_in_python_are_checked_before_they_are_encoded(
    changes: dict[str, object], line: str
) -> None:
    with pytest.raises(PresetError) as caught:
        encode_spec(replace(RunSpec(), **changes))
    assert str(caught.value).startswith(line)


def test_specs_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        RunSpec().seed = 1  # type: ignore[misc]


def test_every_key_says_what_it_is_and_what_it_takes() -> None:
    for field in fields(RunSpec):
        assert field.description, field.key
        assert field.expected, field.key
    assert groups(RunSpec)[0] == "components"


def test_the_schema_carries_the_limits_and_the_help() -> None:
    schema = json_schema()
    run = schema["$defs"]["RunSpec"]
    assert run["properties"]["width"]["multipleOf"] == 16
    assert run["properties"]["seed"]["maximum"] == 2**64 - 1
    assert run["properties"]["frames"]["description"] == "4n+1 frames; 1 makes a still image"
    assert run["additionalProperties"] is False
    steps = schema["$defs"]["SchedulerSpec"]["properties"]["steps"]
    assert (steps["minimum"], steps["default"]) == (1, 50)
    assert json.loads(json.dumps(schema)) is not None


def test_the_schema_of_preset_files_knows_the_keys_about_the_preset() -> None:
    properties = preset_schema()["$defs"]["PresetFile"]["properties"]
    assert set(properties) == {*RunSpec.__struct_fields__, "extends", "description"}
    assert properties["format"]["default"] == FORMAT


def test_importing_the_library_imports_no_heavy_package() -> None:
    code = (
        "import sys, presets.library.loading; "
        "print([m for m in ('torch', 'numpy', 'transformers', 'textual', 'click') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"


def test_block_swap_as_an_extension_becomes_the_setting():
    cache = {"name": "teacache", "enabled": True, "options": {}}

    def decoded(*extensions: object, **denoiser: str) -> RunSpec:
        data = {"extensions": [*extensions], "components": {"denoiser": denoiser}}
        return decode_spec(json.dumps(data).encode())

    def swap(**fields: object) -> dict[str, object]:
        return {"name": "block-swap", **fields}

    found = decoded(swap(options={"resident_blocks": 3}), cache, device="cpu")
    assert found.components.denoiser.resident_blocks == "3"
    assert found.components.denoiser.device == "cpu"
    assert [each.name for each in found.extensions] == ["teacache"]
    assert decode_spec(encode_spec(found)) == found
    assert decoded(swap()).components.denoiser.resident_blocks == "0"
    assert decoded(swap(), resident_blocks="all").components.denoiser.resident_blocks == "0"
    assert decoded(swap(), resident_blocks="6GB").components.denoiser.resident_blocks == "6GB"
    off = decoded(swap(enabled=False, options={"resident_blocks": 3}))
    assert (off.extensions, off.components.denoiser.resident_blocks) == ((), "all")
    # what it could never have been is refused by the name that it has
    for odd in (swap(options={"resident": 3}), swap(options={"resident_blocks": -1})):
        assert [each.name for each in decoded(odd).extensions] == ["block-swap"]


def test_block_swap_as_an_extension_of_a_preset_becomes_the_setting(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(
        'extends = "micro"\n[[extensions]]\nname = "block-swap"\n[extensions.options]\nresident_blocks = 2\n'
    )
    found = load_preset(path)
    assert (found.extensions, found.components.denoiser.resident_blocks) == ((), "2")
