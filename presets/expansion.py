"""Whether a prompt is expanded, and by which instructions."""

from __future__ import annotations

import msgspec

from presets.library.templates import load_template
from presets.spec.expansion import ExpansionSpec
from presets.spec.run import RunSpec


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
