"""A run while it is composed: a preset, what was typed over it, and what that comes to. No Textual, no input or output.

Whatever is typed passes the rules of the command line, so that the words of a refusal are the same. Text is taken as
it is; other values are TOML, as in `--set KEY=VALUE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from presets.errors import PresetError
from presets.fields import Field, fields
from presets.library import override
from presets.overrides import nest, parse_overrides, toml_value
from presets.spec import RunSpec
from presets.validation import to_plain
from tui.text import columns

if TYPE_CHECKING:
    from engine.components.needed import Needed

FIELDS: Mapping[str, Field] = MappingProxyType({field.key: field for field in fields(RunSpec)})
_NO_EDITS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Draft:
    """preset: as the command line takes it, empty for settings that came without. base: what it describes. edits:
    by dotted key the text that was typed, where it is not the base's."""

    preset: str
    base: RunSpec
    edits: Mapping[str, str] = field(default_factory=lambda: _NO_EDITS)

    def typed(self, key: str, text: str) -> Draft:
        """With this text in a field; typing what the preset says is no edit."""
        if text == value_text(self.base, key):
            return self.without(key)
        return replace(self, edits={**self.edits, key: text})

    def without(self, *keys: str) -> Draft:
        """With these fields as the preset has them."""
        return replace(
            self, edits={key: text for key, text in self.edits.items() if key not in keys}
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What a draft comes to. spec: None where something is wrong. shown: with the edits that are right, for the
    values of fields that nobody typed. errors: whole lines by key, in the order of the fields; `""` holds what is
    wrong with no field of its own. changed: keys that differ from the preset, or would."""

    spec: RunSpec | None
    shown: RunSpec
    errors: Mapping[str, str]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs from the preset, with both values as text."""

    key: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Problem:
    """key: the field to go to, empty for none. text: whole line. is_error: the run cannot start; else a warning.
    mark: before the line, where it is neither."""

    key: str
    text: str
    is_error: bool
    mark: str = ""


def draft_of(spec: RunSpec, preset: str, base: RunSpec | None) -> Draft:
    """The settings of a run as edits of the preset that they came from; base: None where that is gone."""
    if base is None:
        return Draft("", spec)
    differing = _differing(base, spec)
    return Draft(preset, base, {key: value_text(spec, key) for key in differing})


def check(draft: Draft) -> Checked:
    """Every edit on its own, then all that are right together, for the rules between keys: each time without the
    one that was to blame, until the rest fits."""
    errors: dict[str, str] = {}
    for key, text in draft.edits.items():
        try:
            _parsed({key: text})
        except PresetError as error:
            errors[key] = str(error)
    right = {key: text for key, text in draft.edits.items() if key not in errors}
    shown = draft.base
    while right:
        overrides, values = _parts(right)
        try:
            shown = override(draft.base, overrides, values=values)
            break
        except PresetError as error:
            blamed = field_key(error.key)
            errors.setdefault(blamed, str(error))
            if blamed not in right:
                break
            del right[blamed]
    unused = [key for key in draft.edits if key not in right or shown is draft.base]
    changed = {*_differing(draft.base, shown), *unused}
    return Checked(
        spec=None if errors else shown,
        shown=shown,
        errors={key: errors[key] for key in (*FIELDS, "") if key in errors},
        changed=tuple(key for key in FIELDS if key in changed),
    )


def changes(draft: Draft, checked: Checked) -> tuple[Change, ...]:
    """What differs from the preset."""
    return tuple(
        Change(key, value_text(draft.base, key), text_of(draft, checked, key))
        for key in checked.changed
    )


def problems(
    checked: Checked,
    refusal: str,
    refused_key: str,
    warning: str,
    missing: Sequence[Needed] = (),
    preset: str = "",
) -> tuple[Problem, ...]:
    """All that is to be said: wrong fields, then why the run would be refused (a line each, told only where no
    field is wrong), then a warning about the prompt. missing: every model of a run of which some are not here."""
    found = [Problem(key, line, True) for key, line in checked.errors.items()]
    if not found:
        for number, line in enumerate(refusal.splitlines()):
            # the lines after the first that name no field say what to do
            key = field_in(line)
            found.append(Problem(key or refused_key, line, bool(key) or not number))
        found += model_problems(missing, preset)
    if warning:
        found.append(Problem("prompt", warning, False))
    return tuple(found)


def model_problems(parts: Sequence[Needed], preset: str) -> list[Problem]:
    """A line for each model of a run, here or not, the total, and the command that gets those that are not."""
    if not parts:
        return []
    from tui.describe.missing import absent, brief_rows, missing_size

    lines = columns(brief_rows(parts))
    found = [
        Problem(f"components.{part.key}", line, not part.found, "✓" if part.found else "")
        for part, line in zip(parts, lines, strict=True)
    ]
    names = dict.fromkeys(part.name for part in absent(parts) if part.release is not None)
    notes = [
        Problem(f"components.{part.key}", note, False)
        for part in absent(parts)
        for note in (part.notes if part.release is not None else (part.absence,))
    ]
    return [
        *found,
        *notes,
        Problem("", f"{missing_size(parts)} to get; y copies commands", False, " "),
        Problem("", f"modiff models get {preset or ' '.join(names)}", False, " "),
    ]


def text_of(draft: Draft, checked: Checked, key: str) -> str:
    """What a field shows: what was typed, or what the other fields make of it."""
    return draft.edits.get(key, value_text(checked.shown, key))


def value_text(spec: RunSpec, key: str) -> str:
    """A value as it is typed: text as it is, all else as TOML on one line."""
    value = attrgetter(key)(spec)
    return value if isinstance(value, str) else toml_value(to_plain(value))


def field_key(key: str) -> str:
    """The field that an error's key is about: `extensions` of `extensions[0].name`; empty for none."""
    return next(
        (known for known in FIELDS if key == known or key.startswith((f"{known}.", f"{known}["))),
        "",
    )


def field_in(line: str) -> str:
    """The field that a line of an error names, empty for none."""
    return next((key for key in sorted(FIELDS, key=len, reverse=True) if key in line), "")


def line_of(text: str, key: str) -> int:
    """The line of a preset's TOML, from 0, that sets a dotted key; 0 where none does."""
    table = ""
    wanted = re.sub(r"\[\d+\]", "", key)
    for number, line in enumerate(text.splitlines()):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped.strip("[]").split("]")[0].strip() + "."
        name, equals, _ = stripped.partition("=")
        if equals and key and f"{table}{name.strip()}" in (wanted, key.partition("[")[0]):
            return number
    return 0


def _parsed(edits: Mapping[str, str]) -> None:
    overrides, values = _parts(edits)
    parse_overrides(overrides)
    nest(values)


def _parts(edits: Mapping[str, str]) -> tuple[list[str], dict[str, object]]:
    """Edits as the two arguments of `presets.library.override`."""
    literal: dict[str, object] = {key: text for key, text in edits.items() if takes_text(key)}
    return [f"{key}={text}" for key, text in edits.items() if key not in literal], literal


def takes_text(key: str) -> bool:
    """Whether a field takes what is typed as it is."""
    node = FIELDS[key].type
    return isinstance(node, inspect.StrType) or (
        isinstance(node, inspect.LiteralType) and all(isinstance(v, str) for v in node.values)
    )


def _differing(base: RunSpec, spec: RunSpec) -> Iterable[str]:
    # as bytes, because to Python true equals 1 and 1 equals 1.0
    return [
        key for key in FIELDS if _written(attrgetter(key)(base)) != _written(attrgetter(key)(spec))
    ]


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
