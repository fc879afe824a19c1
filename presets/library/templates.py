"""Templates: TOML files, ours and the user's, that tell a language model how to expand a prompt."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from presets.errors import PresetError
from presets.fields.checks import build
from presets.fields.wording import did_you_mean, nearest
from presets.library.paths import user_preset_dir
from presets.spec.run import FORMAT
from presets.spec.values import MAX_PROMPT_BYTES

MAX_FILE_BYTES = 64 * 1024
_SHIPPED = Path(__file__).parents[1] / "templates"


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
