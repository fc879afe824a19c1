"""A run while it is composed: a preset, what was typed over it, and what that comes to. No Textual, no input or output.

Whatever is typed passes the rules of the command line, so that the words of a refusal are the same. Text is taken as
it is; other values are TOML, as in `--set KEY=VALUE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from msgspec import inspect

from presets.errors import PresetError
from presets.fields.checks import check_value
from presets.fields.keys import parse_key, value_at
from presets.fields.listing import Field, fields, fields_of, value_of
from presets.library.loading import override
from presets.settings.overrides import changes_of, parse_changes, toml_value
from presets.spec.run import RunSpec
from presets.validation import to_plain
from tui.app.form_words import form_words
from tui.text import columns

if TYPE_CHECKING:
    from engine.components.needed import Needed

# what every run has; `Checked.fields` has those inside its lists too
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
        if text == self.before(key):
            return replace(self, edits={k: t for k, t in self.edits.items() if k != key})
        return replace(self, edits={**self.edits, key: text})

    def without(self, *keys: str) -> Draft:
        """With these fields as the preset has them, and all that is in them."""
        inside = tuple(f"{key}[" for key in keys)
        return replace(
            self,
            edits={
                key: text
                for key, text in self.edits.items()
                if key not in keys and not key.startswith(inside)
            },
        )

    def before(self, key: str) -> str:
        """What a field has where nobody typed in it: of the preset, or of the list that was put together since."""
        within = key.partition("[")[0]
        base = self.base
        if within != key and within in self.edits:
            try:
                base = override(base, [f"{within}={self.edits[within]}"])
            except PresetError:
                return ""
        return value_text(base, key)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a draft comes to. spec: None where something is wrong. shown: with the edits that are right, for the
    values of fields that nobody typed. fields: all that it has, by key, with those inside lists. errors: whole lines
    by key, in the order of the fields; `""` holds what is wrong with no field of its own. changed: keys that differ
    from the preset, or would."""

    spec: RunSpec | None
    shown: RunSpec
    fields: Mapping[str, Field]
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


def edited(draft: Draft, edits: Mapping[str, str]) -> Draft:
    """With these edits too; a field that there is no more is left out. What is within one, an item of a list or an
    option, comes after it, and is told where it is gone."""
    for key in sorted(edits, key=len):
        if field_key(key):
            draft = draft.typed(key, edits[key])
    return draft


def draft_of(spec: RunSpec, preset: str, base: RunSpec | None) -> Draft:
    """The settings of a run as edits of the preset that they came from; base: None where that is gone."""
    if base is None:
        return Draft("", spec)
    differing = _differing(base, spec)
    return Draft(preset, base, {key: value_text(spec, key) for key in differing})


def check(draft: Draft) -> Checked:
    """Every edit on its own, then all that are right together, for the rules between keys: each time without the
    one that was to blame, until the rest fits."""
    # a list that was put together first, then what was typed in its items
    edits = {key: draft.edits[key] for key in sorted(draft.edits, key=lambda key: "[" in key)}
    whole = {key: text for key, text in edits.items() if "[" not in key}
    errors: dict[str, str] = {}
    shown = _applied(draft.base, whole, FIELDS, errors)
    known = fields_in(shown)
    if len(whole) < len(edits):
        shown = _applied(draft.base, edits, known, errors)
        known = fields_in(shown)
    unused = [key for key in edits if key in errors or shown is draft.base]
    changed = {*_differing(draft.base, shown), *unused}
    if len(whole) < len(edits):
        items = set(edits) - set(whole)
        changed -= {key.partition("[")[0] for key in items} - set(whole)
        changed |= items
    order = (*known, *(key for key in edits if key not in known))
    return Checked(
        spec=None if errors else shown,
        shown=shown,
        fields=known,
        errors={key: form_words(errors[key]) for key in (*order, "") if key in errors},
        changed=tuple(key for key in order if key in changed),
    )


def fields_in(spec: RunSpec) -> Mapping[str, Field]:
    """All fields of a run, with those inside its lists and the options of its extensions."""
    return {field.key: field for field in fields_of(spec, _schemas)}


def _schemas(kind: str, name: str) -> type[msgspec.Struct] | None:
    from engine.components.options import schemas  # only where a run has some

    return schemas(kind, name)


def _applied(
    base: RunSpec, edits: Mapping[str, str], known: Mapping[str, Field], errors: dict[str, str]
) -> RunSpec:
    """The run with the edits that are right; the others are told in `errors`."""
    for key, text in edits.items():
        try:
            _check_alone(key, text, known.get(key))
        except PresetError as error:
            errors[key] = str(error)
    right = {key: text for key, text in edits.items() if key not in errors}
    while right:
        overrides, values = _parts(right, known)
        try:
            return override(base, overrides, values=values)
        except PresetError as error:
            blamed = _blamed(error.key, right) or field_key(error.key, known)
            errors.setdefault(blamed, str(error))
            if blamed not in right:
                break
            del right[blamed]
    return base


def _blamed(key: str, edits: Mapping[str, str]) -> str:
    """The edit that an error's key is in; empty for none."""
    within = [each for each in edits if key == each or key.startswith((f"{each}.", f"{each}["))]
    return max(within, key=len, default="")


def changes(draft: Draft, checked: Checked) -> tuple[Change, ...]:
    """What differs from the preset."""
    return tuple(
        Change(key, draft.before(key), text_of(draft, checked, key)) for key in checked.changed
    )


def refusals(error: Exception, line: str) -> tuple[tuple[str, str], ...]:
    """Why a run would be refused, as (key, line): `line` is the error in words, its lines are those of its parts and
    then what to do."""
    parts = getattr(error, "parts", ()) or (error,)
    keys = [str(getattr(part, "key", "")) for part in parts]
    lines = list(map(form_words, line.splitlines()))
    return tuple(zip_longest(keys[: len(lines)], lines, fillvalue=""))


def problems(
    checked: Checked,
    refused: Iterable[tuple[str, str]],
    warning: str,
    missing: Sequence[Needed] = (),
    preset: str = "",
) -> tuple[Problem, ...]:
    """All that is to be said: wrong fields, then why the run would be refused (told only where no field is wrong),
    then a warning about the prompt. missing: every model of a run of which some are not here."""
    found = [Problem(key, line, True) for key, line in checked.errors.items()]
    if not found:
        for number, (key, line) in enumerate(refused):
            # the lines after the first that are about no field say what to do
            known = field_key(key, checked.fields)
            found.append(Problem(known, line, bool(known) or not number))
        found += model_problems(missing, preset)
    if warning:
        found.append(Problem("prompt", warning, False))
    return tuple(found)


def model_problems(parts: Sequence[Needed], preset: str) -> list[Problem]:
    """A line for each model of a run, here or not, the total, and the command that gets those that are not."""
    if not parts:
        return []
    from tui.describe.models.missing import absent, brief_rows, missing_size

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
    if key in draft.edits:
        return draft.edits[key]
    return value_text(checked.shown, key, checked.fields)


def value_text(spec: RunSpec, key: str, known: Mapping[str, Field] | None = None) -> str:
    """A value as it is typed: text as it is, all else as TOML on one line; nothing where the run has no such item.

    known: the fields of the run, where they are at hand.
    """
    try:
        value = value_at(spec, parse_key(key) or ())
    except LookupError:
        field = (fields_in(spec) if known is None else known).get(key)
        if field is None:
            return ""
        value = value_of(spec, field)
    return value if isinstance(value, str) else toml_value(to_plain(value))


def field_key(key: str, known: Mapping[str, Field] = FIELDS) -> str:
    """The field that an error's key is about: `extensions` of `extensions[0].name` where the items are not known, the
    first of a group for `components.vae`; empty for none."""
    within = [each for each in known if key == each or key.startswith((f"{each}.", f"{each}["))]
    if within:
        return max(within, key=len)
    return next((each for each in known if key and each.startswith(f"{key}.")), "")


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


def _check_alone(key: str, text: str, field: Field | None) -> None:
    """Raises PresetError where an edit is wrong whatever the others are; an option also by its own limits."""
    if field is not None and takes_text(field):
        (change,) = changes_of({key: text})
    else:
        (change,) = parse_changes([f"{key}={text}"])
    if field is not None and field.annotation is not None:
        check_value(change.value, field.annotation, key, RunSpec)


def _parts(
    edits: Mapping[str, str], known: Mapping[str, Field]
) -> tuple[list[str], dict[str, object]]:
    """Edits as the two arguments of `presets.library.loading.override`."""
    literal: dict[str, object] = {
        key: text for key, text in edits.items() if key in known and takes_text(known[key])
    }
    return [f"{key}={text}" for key, text in edits.items() if key not in literal], literal


def takes_text(field: Field) -> bool:
    """Whether a field takes what is typed as it is."""
    node = field.type
    return isinstance(node, inspect.StrType) or (
        isinstance(node, inspect.LiteralType) and all(isinstance(v, str) for v in node.values)
    )


def _differing(base: RunSpec, spec: RunSpec) -> Iterable[str]:
    # as bytes, because to Python true equals 1 and 1 equals 1.0
    return [
        key
        for key, field in FIELDS.items()
        if _written(value_of(base, field)) != _written(value_of(spec, field))
    ]


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
