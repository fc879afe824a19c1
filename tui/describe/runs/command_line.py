"""A run as the command line that makes it again: `modiff run PRESET --set ...`, quoted for a shell."""

from __future__ import annotations

import shlex
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.library.loading import load_preset
from presets.library.templates import load_template
from presets.output.rules import without_place
from presets.settings.overrides import parse_overrides, text_override, toml_value
from presets.spec.run import RunSpec
from presets.validation import to_plain
from store.errors import UnknownRun
from tui.describe.runs.run import num_steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store.store import Store

# What has an option of its own, beside --set.
OPTIONS = {
    "prompt": "--prompt",
    "negative_prompt": "--negative-prompt",
    "seed": "--seed",
    "output.path": "--output",
    "image.path": "--image",
    "last_image.path": "--last-image",
    "video.path": "--video",
    "video.strength": "--strength",
    "video.sigma": "--sigma",
    "width": "--width",
    "height": "--height",
}
# For settings of which no preset is known.
_FALLBACK = "micro"


def run_command(spec: RunSpec, preset: str, base: RunSpec, stop_at: int | None = None) -> str:
    """The command that makes this run from a preset, of which `base` is what it describes. stop_at: the step that it
    is to stop at."""
    stop = [] if stop_at is None else ["--stop-at", str(stop_at)]
    if stop_at == 0:  # before the first one, to have the expanded prompt read
        stop = ["--review"]
    return shlex.join(["modiff", "run", preset, *_changes(base, spec), *stop])


def branch_command(spec: RunSpec, parent: str, at: int | str, base: RunSpec) -> str:
    """The command that branches so from a run with the settings `base`."""
    return shlex.join(["modiff", "branch", parent, "--at", str(at), *_changes(base, spec)])


def command_of(store: Store, run_id: str) -> str:
    """The command that makes a run again, elsewhere: from its preset as that is now, or where it is a branch from its
    parent. Raises UnknownRun, and PresetError for settings that this version cannot read."""
    record = store.run(run_id)
    spec = without_place(decode_spec(record.spec_json))
    if record.parent:
        try:
            parent = store.run(record.parent)
        except UnknownRun:
            return command_from_preset(spec, record.preset, record.stop_at)
        base = without_place(decode_spec(parent.spec_json))
        step = record.parent_step or 0
        is_whole = step >= (parent.stop_at or num_steps(parent))
        return branch_command(spec, parent.id, "decode" if is_whole else step, base)
    return command_from_preset(spec, record.preset, record.stop_at)


def command_from_preset(spec: RunSpec, preset: str, stop_at: int | None = None) -> str:
    """The command that makes this run from a preset as it is now, from another one where that is gone."""
    if preset:
        try:
            return run_command(spec, preset, load_preset(preset), stop_at)
        except PresetError:
            pass
    return run_command(spec, _FALLBACK, load_preset(_FALLBACK), stop_at)


def _changes(base: RunSpec, spec: RunSpec) -> Iterator[str]:
    for field in fields(RunSpec):
        value = attrgetter(field.key)(spec)
        if _written(value) == _written(attrgetter(field.key)(base)):
            continue
        if field.key == "expansion.instructions" and value == _template_text(spec):
            continue
        option = OPTIONS.get(field.key)
        if field.key.startswith("video.") and not _goes_by(field.key, spec):
            option = None
        # an empty --output means the default
        if option and value != "":
            text = str(value)
            is_file = option.endswith("prompt") and text.startswith("@")
            yield from (option, f"@{text}" if is_file else text)
        else:
            yield from ("--set", _setting(field.key, value))


def _goes_by(key: str, spec: RunSpec) -> bool:
    """Whether a clip's strength or its sigma is the one that counts; both cannot be options."""
    if key == "video.strength":
        return bool(spec.video.path) and not spec.video.sigma
    return key != "video.sigma" or (bool(spec.video.path) and bool(spec.video.sigma))


def _template_text(spec: RunSpec) -> str:
    """What its template says now; "" where there is none (any more)."""
    try:
        return load_template(spec.expansion.template).instructions
    except PresetError:
        return ""


def _setting(key: str, value: object) -> str:
    """`KEY=VALUE`, bare where that means the same."""
    if not isinstance(value, str):
        return f"{key}={toml_value(to_plain(value))}"
    quoted = text_override(key, value)
    bare = f"{key}={value}"
    try:
        is_same = parse_overrides([bare]) == parse_overrides([quoted])
    except PresetError:
        is_same = False
    return bare if is_same and value.isprintable() else quoted


def _written(value: object) -> bytes:
    # as bytes, because to Python true equals 1 and 1 equals 1.0
    return msgspec.json.encode(value, order="sorted")
