"""What the form's sections hold: their fields as rows, and each section in a few words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from msgspec import inspect

from presets.fields.keys import parse_key, value_at
from presets.spec.sections import SECTIONS
from presets.tasks import has_pictures
from presets.validation import to_plain
from tui.app.compose.draft import FIELDS, text_of
from tui.app.form_words import form_words
from tui.describe.given import about_given, given_told, is_shown
from tui.describe.guidance import scale_told
from tui.describe.inputs import GIVEN
from tui.text import printable

if TYPE_CHECKING:
    from presets.fields.listing import Field
    from presets.library.listing import PresetInfo
    from presets.spec.run import RunSpec
    from presets.spec.sections import Section
    from tui.app.compose.draft import Checked, Draft

Kind = Literal["text", "choice", "switch", "number", "list", "path"]

# What a device field is most often set to; others are typed.
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "mps")
_IMAGE_ENCODER = "components.image_encoder."
_EXPANSION = ("expansion.", "components.prompt_expander.")
# The roles of what lies in a file.
_FILES = ("model", "file", "folder", "picture", "clip", "lora")


@dataclass(frozen=True, slots=True)
class FormRow:
    """A field as it is shown. choices: what it can be, where that is known to the end; of a list, its items.
    suggestions: some of what it can be. error: whole line, or nothing. is_shown: whether it matters to the run as it
    is."""

    field: Field
    label: str
    kind: Kind
    choices: tuple[str, ...]
    suggestions: tuple[str, ...]
    text: str
    base_text: str
    is_changed: bool
    error: str
    is_shown: bool = True

    @property
    def key(self) -> str:
        return self.field.key


def keys_of(section: Section, known: Mapping[str, Field] = FIELDS) -> tuple[str, ...]:
    """All fields of a section."""
    return tuple(key for key, field in known.items() if field.section == section.name)


def section_of(key: str) -> Section:
    """The section that a field is in, or what holds it; the first for no field."""
    # what holds it: a list of things, or a table of options
    holders = (key, key.partition("[")[0], key.rpartition(".")[0])
    field = next((FIELDS[each] for each in holders if each in FIELDS), None)
    name = field.section if field is not None else ""
    return next((section for section in SECTIONS if section.name == name), SECTIONS[0])


def list_of(section: Section) -> str:
    """The key of the list of things with settings of their own that a section is; empty for other sections."""
    (key, *others) = keys_of(section) or ("",)
    field = FIELDS.get(key)
    is_list = not others and field is not None and isinstance(field.type, inspect.VarTupleType)
    return key if is_list else ""


def rows(
    section: Section, draft: Draft, checked: Checked, known: Mapping[str, Sequence[str]]
) -> tuple[FormRow, ...]:
    """The rows of a section, what switches it on first. known: by role, names that exist on this machine."""
    is_list = bool(list_of(section))
    found = [
        _row(field, draft, checked, tuple(known.get(field.role, ())))
        for key, field in checked.fields.items()
        if field.section == section.name and ("[" in key) == is_list and _has_row(field)
    ]
    return tuple(sorted(found, key=lambda row: row.key != "expansion.enabled"))


def _has_row(field: Field) -> bool:
    """Not what has one value, what names an item of a list, nor prompts, which have an editor of their own."""
    if field.role == "prompt" or ("[" in field.key and field.role.startswith("component:")):
        return False
    return not isinstance(field.type, inspect.LiteralType) or len(field.type.values) > 1


def summary(section: Section, draft: Draft, spec: RunSpec) -> str:
    """What is chosen in a section, in a few words."""
    parts = spec.components
    match section.name:
        case "preset":
            return printable(draft.preset) or "none: settings of a run"
        case "prompt":
            return printable(spec.prompt) or "(empty)"
        case "media":
            return printable(given_told(spec))
        case "expansion":
            return _expansion(spec)
        case "encoder":
            return _part(parts.text_encoder.name, parts.text_encoder)
        case "denoiser":
            return _part(parts.denoiser.name, parts.denoiser)
        case "decode":
            return _part(parts.vae.name, parts.vae)
        case "scheduler":
            return f"{spec.scheduler.name}, {spec.scheduler.steps} steps"
        case "guidance":
            return f"scale {scale_told(to_plain(spec.guidance.scale))}"
        case "extensions":
            names = (each.name if each.enabled else f"({each.name})" for each in spec.extensions)
            return printable(", ".join(names)) or "none"
        case "size":
            is_sized = bool(spec.width and spec.height)
            size = f"{spec.width}x{spec.height}x" if is_sized else "as given, x"
            return f"{size}{spec.frames}, seed {spec.seed}"
        case "keep":
            return _kept(spec)
        case _:
            path = f" to {spec.output.path}" if spec.output.path else ""
            return printable(f"{', '.join(spec.output.kinds)}{path}")


def about_section(section: Section, checked: Checked | None) -> str:
    """What a section does, in a line."""
    is_given = section.name == "media" and checked is not None
    return about_given(checked.shown) if is_given and checked else section.about


def about_preset(
    name: str, info: PresetInfo | None, error: str, lack: str = "", *, is_ready: bool = True
) -> str:
    """A preset in a few lines, and what can be done from here. info: None where it is in no list of presets. error:
    what is wrong with it, or nothing. lack: what of its models is not here, or nothing. is_ready: whether the form as
    it is makes a run."""
    lines = [name or "the settings of a run whose preset is gone"]
    if info is not None:
        lines += [form_words(info.description)] if info.description else []
        lines += ["shipped with modiff" if info.shipped else f"yours: {_at_home(info.path)}"]
        lines += [f"extends {info.extends}"] if info.extends else []
    if error:
        lines += ["", f"✖ {error}", "", "e edits the file here, f4 in your editor"]
    else:
        run = "makes this video" if is_ready else "goes to what is missing or wrong"
        lines += ["", *([f"✖ {lack}: p tells what, and how"] if lack else [])]
        lines += [f"ctrl+r {run}", "enter picks another preset"]
        lines += ["tab goes to the prompt, ↓ to the other stages"]
    return "\n".join(printable(line) for line in lines)


def _at_home(path: PurePath) -> str:
    """A path with ~ for the user's folder: a long one is broken in the middle of a name."""
    home = os.path.expanduser("~")
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def stepped(field: Field, text: str, up: int) -> str:
    """The integer in a field, so many steps of its grid higher or lower, within its limits; unchanged where the
    text is none."""
    node, extra = field.type, field.extra
    if not isinstance(node, inspect.IntType):
        return text
    try:
        value = int(text)
    except ValueError:
        return text
    step = int(extra.get("step") or node.multiple_of or 1)
    low, high = node.ge or 0, int(extra.get("max", 2**63 - 1)) if node.le is None else node.le
    return str(min(max(value + up * step, low), high))


def takes_number(field: Field) -> bool:
    """Whether a field takes a number, alone or beside other things."""
    node = field.type
    if isinstance(node, inspect.UnionType):
        return _number_of(node) is not None
    return isinstance(node, inspect.IntType | inspect.FloatType)


def _row(field: Field, draft: Draft, checked: Checked, known: tuple[str, ...]) -> FormRow:
    key = field.key
    text = text_of(draft, checked, key)
    kind, choices = _kind(field, known, text)
    if kind == "choice" and text not in choices:
        choices = (text, *choices)
    error = _error(field, checked)
    return FormRow(
        field=field,
        label=_label(field, checked.shown),
        kind=kind,
        choices=choices,
        suggestions=_DEVICES if field.role == "device" else () if choices else known,
        text=text,
        base_text=draft.before(key),
        is_changed=key in checked.changed,
        error=error,
        is_shown=bool(error) or key in checked.changed or _matters(key, checked.shown),
    )


def _matters(key: str, spec: RunSpec) -> bool:
    """Whether the run as it is has a use for a field, of those that not every run has, and it is a choice: a task is
    what the preset's models were made for."""
    if key == "task":
        return False
    if key.startswith(_EXPANSION):
        return spec.expansion.enabled or key == "expansion.enabled"
    if key.startswith(_IMAGE_ENCODER):
        return has_pictures(spec)
    return key.partition(".")[0] not in GIVEN or is_shown(spec, key)


def _error(field: Field, checked: Checked) -> str:
    """What is wrong with a field; with the switch of an item also what is wrong with its name."""
    keys = [field.key]
    if field.role == "switch":
        keys.append(f"{field.key.rpartition('.')[0]}.name")
    return next((checked.errors[key] for key in keys if key in checked.errors), "")


def _label(field: Field, spec: RunSpec) -> str:
    """The name of a field; of the switch of an item in a list the item's."""
    name, _, part = field.key.partition(".")
    if name in GIVEN:
        return GIVEN[name] if part == "path" else f" {field.title}"
    if field.key.startswith(_IMAGE_ENCODER):
        is_name = field.key == f"{_IMAGE_ENCODER}name"
        return "image encoder" if is_name else f" {field.title}"
    if "[" not in field.key:
        return field.title
    path = parse_key(field.key) or ()
    if field.role != "switch":
        return f" {field.title}"
    item = value_at(spec, path[:-1])
    return f"{int(path[-2]) + 1} {printable(getattr(item, 'name', ''))}"


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
    if field.role.partition(":")[0] in _FILES:
        return "path", ()
    return ("choice", known) if field.role.startswith("component:") and known else ("text", ())


def _number_of(union: inspect.UnionType) -> inspect.Type | None:
    """The number that a field takes beside lists, None where it takes none."""
    options = [each.type if isinstance(each, inspect.Metadata) else each for each in union.types]
    if any(isinstance(each, inspect.StrType | inspect.BoolType) for each in options):
        return None
    return next((each for each in options if isinstance(each, inspect.FloatType)), None)


def _expansion(spec: RunSpec) -> str:
    if not spec.expansion.enabled:
        return "off"
    if spec.expansion.text:
        return "edited by hand"
    expander = spec.components.prompt_expander
    return printable(
        f"{expander.checkpoint or expander.url or expander.name}, {spec.expansion.template}"
    )


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
