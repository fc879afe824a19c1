"""What the form's sections hold: their fields as rows, and each section in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from msgspec import inspect

from presets.validation import to_plain
from tui.app.compose.draft import FIELDS, text_of, value_text
from tui.app.compose.sections import SECTIONS
from tui.describe.guidance import scale_told
from tui.text import printable

if TYPE_CHECKING:
    from presets.fields import Field
    from presets.library import PresetInfo
    from presets.spec import RunSpec
    from tui.app.compose.draft import Checked, Draft
    from tui.app.compose.sections import Section

Kind = Literal["text", "choice", "switch", "number", "list", "path"]

# What a device field is most often set to; others are typed.
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")
_FILE_BYTES_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class FormRow:
    """A field as it is shown. choices: what it can be, where that is known to the end; of a list, its items.
    suggestions: some of what it can be. error: whole line, or nothing."""

    key: str
    label: str
    kind: Kind
    choices: tuple[str, ...]
    suggestions: tuple[str, ...]
    text: str
    base_text: str
    expected: str
    description: str
    is_changed: bool
    error: str


def keys_of(section: Section) -> tuple[str, ...]:
    """All fields of a section."""
    return tuple(
        key
        for group in section.keys
        for key in FIELDS
        if key == group or key.startswith(f"{group}.")
    )


def section_of(key: str) -> Section:
    """The section that a field is in; the first for no field."""
    return next((section for section in SECTIONS if key in keys_of(section)), SECTIONS[0])


def rows(
    section: Section, draft: Draft, checked: Checked, known: Mapping[str, Sequence[str]]
) -> tuple[FormRow, ...]:
    """The rows of a section. known: by key, names that exist on this machine."""
    return tuple(_row(key, draft, checked, tuple(known.get(key, ()))) for key in keys_of(section))


def summary(section: Section, draft: Draft, spec: RunSpec) -> str:
    """What is chosen in a section, in a few words."""
    parts = spec.components
    match section.name:
        case "preset":
            return printable(draft.preset) or "none: settings of a run"
        case "prompt":
            return printable(spec.prompt) or "(empty)"
        case "encoder":
            return _part(parts.text_encoder.name, parts.text_encoder)
        case "denoiser":
            return _part(parts.denoiser.name, parts.denoiser)
        case "decode":
            return _part(parts.vae.name, parts.vae)
        case "scheduler":
            return f"{spec.scheduler.name}, {spec.scheduler.steps} steps"
        case "guidance":
            added = f", {len(spec.extensions)} extensions" if spec.extensions else ""
            return f"scale {scale_told(to_plain(spec.guidance.scale))}{added}"
        case "size":
            return f"{spec.width}x{spec.height}x{spec.frames}, seed {spec.seed}"
        case "keep":
            return _kept(spec)
        case _:
            path = f" to {spec.output.path}" if spec.output.path else ""
            return printable(f"{', '.join(spec.output.kinds)}{path}")


def about_preset(name: str, info: PresetInfo | None, error: str) -> str:
    """A preset in a few lines, and what can be done from here. info: None where it is in no list of presets. error:
    what is wrong with it, or nothing."""
    lines = [name or "the settings of a run whose preset is gone"]
    if info is not None:
        lines += [info.description] if info.description else []
        lines += ["shipped with modiff" if info.shipped else f"yours: {info.path}"]
        lines += [f"extends {info.extends}"] if info.extends else []
    if error:
        lines += ["", f"✖ {error}", "", "e edits the file here, f4 in your editor"]
    else:
        lines += ["", "ctrl+r makes this video", "enter picks another preset"]
        lines += ["↓ goes on to the prompt and the other stages"]
    return "\n".join(printable(line) for line in lines)


def stepped(key: str, text: str, up: int) -> str:
    """The number in a field, so many steps of its grid higher or lower, within its limits; unchanged where the
    text is no number."""
    node, extra = FIELDS[key].type, FIELDS[key].extra
    if isinstance(node, inspect.UnionType):
        node = _number_of(node) or node
    try:
        value = float(text) if isinstance(node, inspect.FloatType) else int(text)
    except ValueError:
        return text
    if isinstance(node, inspect.FloatType) and math.isfinite(value):
        moved = round(value + 0.5 * up, 6)
        low, high = node.ge, node.le
        return repr(float(min(max(moved, low or 0.0), math.inf if high is None else high)))
    if not isinstance(node, inspect.IntType):
        return text
    step = int(extra.get("step") or node.multiple_of or 1)
    low, high = node.ge or 0, int(extra.get("max", 2**63 - 1)) if node.le is None else node.le
    # from a number off the grid to the next one on it
    origin = low if "step" in extra else 0
    passed = int(value) - origin
    place = (passed // step if up > 0 else -(-passed // step)) + up
    return str(min(max(origin + place * step, low), high))


def takes_number(key: str) -> bool:
    """Whether a field takes a number, alone or beside other things."""
    node = FIELDS[key].type
    if isinstance(node, inspect.UnionType):
        return _number_of(node) is not None
    return isinstance(node, inspect.IntType | inspect.FloatType)


def _row(key: str, draft: Draft, checked: Checked, known: tuple[str, ...]) -> FormRow:
    field = FIELDS[key]
    text = text_of(draft, checked, key)
    kind, choices = _kind(field, known, text)
    if kind == "choice" and text not in choices:
        choices = (text, *choices)
    return FormRow(
        key=key,
        label=key.rpartition(".")[2].replace("_", " "),
        kind=kind,
        choices=choices,
        suggestions=_DEVICES if key.endswith(".device") else () if choices else known,
        text=text,
        base_text=value_text(draft.base, key),
        expected=field.expected,
        description=field.description,
        is_changed=key in checked.changed,
        error=checked.errors.get(key, ""),
    )


def _kind(field: Field, known: tuple[str, ...], text: str) -> tuple[Kind, tuple[str, ...]]:
    match field.type:
        case inspect.BoolType():
            return "switch", ("false", "true")
        case inspect.LiteralType(values):
            return "choice", tuple(map(str, values))
        case inspect.IntType() | inspect.FloatType():
            return "number", ()
        case inspect.UnionType() if _number_of(field.type) and not text.lstrip().startswith("["):
            return "number", ()
        case inspect.VarTupleType(inspect.LiteralType(values)):
            return "list", tuple(map(str, values))
        case inspect.VarTupleType():
            return "list", ()
        case inspect.StrType(max_length=limit) if limit == _FILE_BYTES_LIMIT:
            return "path", ()
    names_component = field.key.endswith((".name", ".attention"))
    return ("choice", known) if names_component and known else ("text", ())


def _number_of(union: inspect.UnionType) -> inspect.Type | None:
    """The number that a field takes beside lists, None where it takes none."""
    options = [each.type if isinstance(each, inspect.Metadata) else each for each in union.types]
    return next((each for each in options if isinstance(each, inspect.FloatType)), None)


def _part(name: str, part: object) -> str:
    checkpoint = getattr(part, "checkpoint", "")
    files = PurePath(checkpoint).name if "/" in checkpoint else checkpoint
    told = f"{files or name} {getattr(part, 'device', '')} {getattr(part, 'dtype', '')}"
    return printable(told)


def _kept(spec: RunSpec) -> str:
    keep = spec.keep
    if keep.every == 1:
        return "every step"
    told = [
        f"every {keep.every}" if keep.every else "",
        f"first {keep.first}" if keep.first else "",
        f"last {keep.last}" if keep.last else "",
        f"{len(keep.steps)} steps" if keep.steps else "",
    ]
    return ", ".join(filter(None, told)) or "no step"
