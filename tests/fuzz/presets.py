"""Preset files, overrides and run specifications, read as the command line and the engine do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.library.listing import list_presets
from presets.library.loading import load_preset, override
from presets.library.saving import dump_preset
from presets.settings.overrides import toml_value
from presets.spec.run import RunSpec
from tests.fuzz import mutating
from tests.fuzz.running import Fault

_SHIPPED = Path(__file__).parents[2] / "presets" / "shipped"
_OWN = b"""format = 1
extends = "base"
description = "mine"
prompt = \"\"\"
a red circle\"\"\"

[scheduler]
name = "flow-unipc"
steps = 12
shift = 3.0

[[extensions]]
name = "teacache"
options = { threshold = 0.1 }
"""
_KEYS = [field.key for field in fields(RunSpec)]


def make(folder: Path) -> Callable[[Random, Path], str]:
    texts = [path.read_bytes() for path in sorted(_SHIPPED.glob("*.toml"))]
    texts += [
        dump_preset(load_preset(path.stem)).encode() for path in sorted(_SHIPPED.glob("*.toml"))
    ]
    texts += [_OWN]
    specs = [encode_spec(load_preset(path.stem)) for path in sorted(_SHIPPED.glob("*.toml"))]

    def attempt(random: Random, place: Path) -> str:
        try:
            if random.random() < 0.3:
                _check(decode_spec(mutating.of_json(random, random.choice(specs))))
            else:
                _check(_read(random, random.choice(texts), place))
        except PresetError as error:
            return str(error)
        return ""

    return attempt


def _read(random: Random, text: bytes, place: Path) -> RunSpec:
    """A preset of a file, by its path or by its name among the user's, with overrides."""
    if random.random() < 0.8:
        text = mutating.of_text(random, text)
    if random.random() < 0.3:
        text = mutating.of_bytes(random, text)
    overrides = [_override(random) for _ in range(random.choice((0, 0, 1, 3)))]
    os.environ["MODIFF_CONFIG_DIR"] = str(place)
    try:
        (place / "presets").mkdir()
        path = place / "presets" / "mine.toml"
        path.write_bytes(text)
        if random.random() < 0.2:
            (place / "presets" / "other.toml").write_bytes(b'extends = "mine"\n')
        # which reads the shipped ones too, and so takes longest
        for each in list_presets() if random.random() < 0.2 else ():
            if not each.error.isprintable():
                raise Fault(f"a list with an error that is not one line: {each.error!r:.200}")
        spec = load_preset("mine" if random.random() < 0.5 else path, overrides)
        return override(spec, [_override(random)]) if random.random() < 0.2 else spec
    finally:
        del os.environ["MODIFF_CONFIG_DIR"]


def _override(random: Random) -> str:
    key = random.choice(_KEYS)
    value = random.choice(mutating.VALUES)
    match random.randrange(6):
        case 0:
            return mutating.of_text(random, f"{key}=12".encode()).decode(errors="replace")
        case 1:
            return f"{key}={json.dumps(value)}"
        case 2:
            return f"{key}.x={value}"
    try:
        return f"{key}={toml_value(value)}"
    except (TypeError, ValueError, RecursionError):
        return f"{key}={value!r}"


def _check(spec: RunSpec) -> None:
    """What is taken is the same after each way through which it is kept."""
    encoded = encode_spec(spec)
    if decode_spec(encoded) != spec:
        raise Fault("another spec after its bytes")
    if encode_spec(decode_spec(encoded)) != encoded:
        raise Fault("other bytes after a spec")
    text = dump_preset(spec)
    path = Path(os.environ["HOME"]) / "never-there.toml"
    if load_preset(path, text=text) != spec:
        raise Fault("another spec after its TOML")
