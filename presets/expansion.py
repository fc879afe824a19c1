"""Whether a prompt is expanded, and by which instructions: templates are TOML files, ours and the user's."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from presets.errors import PresetError
from presets.fields import build
from presets.paths import user_preset_dir
from presets.spec import FORMAT, MAX_PROMPT_BYTES, ExpansionSpec, RunSpec
from presets.wording import did_you_mean, nearest

MAX_FILE_BYTES = 64 * 1024

_SHIPPED = Path(__file__).parent / "templates"


class TemplateFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a template's TOML holds. task, language: what it is for and what it makes the model write in.
    instructions: the system message; the user's message is the prompt alone."""

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)] = FORMAT
    description: Annotated[str, Meta(max_length=1000)] = ""
    task: Literal["t2v", "i2v"] = "t2v"
    language: Literal["en", "zh"] = "en"
    instructions: Annotated[
        str,
        Meta(min_length=1, max_length=MAX_PROMPT_BYTES, extra={"max_bytes": MAX_PROMPT_BYTES}),
    ]


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """One template in a list."""

    name: str
    path: Path
    shipped: bool


def expands(spec: RunSpec) -> bool:
    """Whether a run asks somebody for a longer prompt."""
    return spec.expansion.enabled and not spec.expansion.text


def known_prompt(spec: RunSpec) -> str:
    """The prompt that a run reads, as far as it is known before the run."""
    expansion = spec.expansion
    return expansion.text if expansion.enabled and expansion.text else spec.prompt


def instructions_of(expansion: ExpansionSpec) -> str:
    """What the model is told to do. Raises PresetError where its template is not there or not one."""
    return expansion.instructions or load_template(expansion.template).instructions


def settled(spec: RunSpec) -> RunSpec:
    """The same run with the text of its template, so that no later change of that file changes it. Raises
    PresetError."""
    if not expands(spec):
        return spec
    instructions = instructions_of(spec.expansion)
    return msgspec.structs.replace(
        spec, expansion=msgspec.structs.replace(spec.expansion, instructions=instructions)
    )


def settle_instructions(values: dict[str, Any]) -> dict[str, Any]:
    """`values`, one layer of settings; where it names a template and no instructions, those of others do not hold."""
    expansion = values.get("expansion")
    if not isinstance(expansion, dict) or "template" not in expansion:
        return values
    return {**values, "expansion": {"instructions": "", **expansion}}


def templates_dir() -> Path:
    """The folder of the user's own templates; it need not exist yet."""
    return user_preset_dir().parent / "templates"


def list_templates() -> list[TemplateInfo]:
    """All templates, the shipped ones first, each group by name; a name of ours is ours."""
    return list(_listed())


def load_template(name: str) -> TemplateFile:
    """Raises PresetError, one line that names the file, where there is none or it cannot be used."""
    infos = {info.name: info for info in _listed()}
    if name not in infos:
        near = did_you_mean(nearest(name, list(infos))) or f"; there are {', '.join(infos)}"
        raise PresetError(f'no template is named "{name}"{near}', key="expansion.template")
    return read_template(infos[name].path)


def read_template(path: Path) -> TemplateFile:
    """Raises PresetError."""
    try:
        if not os.path.isfile(path):
            raise PresetError(f"cannot read {path}: it is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PresetError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise PresetError(f"{path}: a template has at most {MAX_FILE_BYTES} bytes")
    try:
        values = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PresetError(f"{path}: not valid TOML: {error}") from None
    try:
        return build(values, TemplateFile)
    except PresetError as error:
        raise PresetError(error.problem, key=error.key, source=str(path)) from None


def _listed() -> Iterator[TemplateInfo]:
    seen = set()
    for folder, shipped in ((_SHIPPED, True), (templates_dir(), False)):
        try:
            paths = sorted(folder.glob("*.toml"))
        except OSError as error:
            raise PresetError(
                f"cannot read the folder {folder}: {error.strerror or error}"
            ) from None
        for path in paths:
            if path.stem not in seen and not path.name.startswith("."):
                seen.add(path.stem)
                yield TemplateInfo(path.stem, path, shipped)
