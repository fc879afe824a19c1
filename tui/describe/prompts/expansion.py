"""An expanded prompt in words: who writes it, what is sent where, and what came of it. Pure, torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from presets.expansion import expands
from tui.text import printable

if TYPE_CHECKING:
    from engine.runs.expanded import Expanded
    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store


@dataclass(frozen=True, slots=True)
class Waiting:
    """The prompt of a run that waits to be told to go on. by: who wrote it; text: as approved it is used; typed: what
    it was made from; warnings: what is said of it."""

    by: str
    text: str
    typed: str
    warnings: tuple[str, ...]


def is_to_review(record: RunRecord) -> bool:
    """Whether a run waits for somebody to read its expanded prompt."""
    return record.status == "done" and record.stop_at == 0


def waiting_prompt(store: Store, run_id: str) -> Waiting | None:
    """None for a run that does not wait for it. Raises UnknownRun, PresetError."""
    from engine.runs.expanded import expanded_prompt
    from presets.encoding import decode_spec
    from tui.describe.prompts.warnings import prompt_warnings

    record = store.run(run_id)
    if not is_to_review(record):
        return None
    spec = decode_spec(record.spec_json)
    expanded = expanded_prompt(store, record, store.links_of(run_id))
    by, text = "not expanded; approved, it is used as typed", spec.prompt
    if expanded is not None:
        by, text = f"expanded by {written_by(expanded) or 'an earlier run'}", expanded.text
    wanted = msgspec.structs.replace(spec.expansion, enabled=True, text=text)
    warnings = prompt_warnings(msgspec.structs.replace(spec, expansion=wanted))
    return Waiting(by, text, spec.prompt, tuple(warnings))


def expansion_notes(spec: RunSpec) -> list[str]:
    """What a run that has its prompt expanded sends, and where to."""
    expander = spec.components.prompt_expander
    if not expands(spec) or not expander.url:
        return []
    key = f", with the key in ${expander.api_key_env}" if expander.api_key_env else ""
    return [printable(f"the prompt is sent to {expander.url}{key}")]


def written_by(expanded: Expanded) -> str:
    """`tiny-llm, template t2v-en, seed 0`; "" where nobody knows."""
    answer = expanded.answer
    if answer is None:
        return "given with the settings" if expanded.is_edited else ""
    told = f"{answer.model}, template {answer.template}, seed {answer.seed}"
    return printable(f"{told}; edited by hand" if expanded.is_edited else told)


def as_json(expanded: Expanded | None) -> dict[str, Any] | None:
    """The text with the model's answer, as it is stored."""
    if expanded is None:
        return None
    answer = expanded.answer
    told: dict[str, Any] = {"text": expanded.text, "edited": expanded.is_edited}
    if answer is not None:
        told |= {
            "model": answer.model,
            "provider": answer.provider,
            "template": answer.template,
            "seed": answer.seed,
            "temperature": answer.temperature,
            "top_p": answer.top_p,
            "raw": answer.raw,
            "cut": answer.is_cut,
        }
    return told
