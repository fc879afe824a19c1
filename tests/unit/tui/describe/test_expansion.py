"""An expanded prompt in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from engine.expansion.answer import Record
from engine.runs.expanded import Expanded
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.prompts.expansion import expansion_notes, is_to_review, written_by
from tui.describe.runs.changes import settings_in
from tui.describe.runs.following.notices import end_line
from tui.describe.runs.run import status_word, status_words

RECORD = Record(
    raw="a", model="tiny", provider="openai", asked_model="", template="t2v-en", seed=3,
    temperature=0.7, top_p=0.9,
)  # fmt: skip


def test_what_is_sent_and_where() -> None:
    on = ["expansion.enabled=true", "components.prompt_expander.url=http://h:1/v1"]
    key = "components.prompt_expander.api_key_env=LLM_KEY"
    assert expansion_notes(load_preset("micro", on[1:])) == []
    assert expansion_notes(load_preset("micro", on)) == ["the prompt is sent to http://h:1/v1"]
    [line] = expansion_notes(load_preset("micro", [*on, key]))
    assert line == "the prompt is sent to http://h:1/v1, with the key in $LLM_KEY"


def test_who_wrote_it() -> None:
    assert written_by(Expanded("a", False, RECORD)) == "tiny, template t2v-en, seed 3"
    assert written_by(Expanded("a", True, RECORD)).endswith("; edited by hand")
    assert written_by(Expanded("a", True, None)) == "given with the settings"
    assert written_by(Expanded("a", False, None)) == ""


def test_a_run_that_waits_is_to_review(tmp_path: Path) -> None:
    spec = load_preset("micro", ["expansion.enabled=true"])
    with open_store(tmp_path) as store:
        run_id = store.enqueue(encode_spec(spec), preset="micro", output="", stop_at=0)
        queued = store.run(run_id)
    assert not is_to_review(queued)
    record = dataclasses.replace(queued, status="done")
    assert is_to_review(record)
    assert (status_words(record), status_word(record)) == ("to review", "◐ to review")
    assert end_line(record) == f"run {run_id} waits for your word on its prompt"


def test_a_run_of_before_there_was_expansion_has_it_off() -> None:
    spec = json.loads(encode_spec(load_preset("micro")))
    before = json.loads(json.dumps(spec))
    del before["expansion"], before["components"]["prompt_expander"]
    del before["components"]["image_encoder"]
    for part in before["components"].values():
        del part["url"]
    old, new = (settings_in(json.dumps(each).encode()) for each in (before, spec))
    assert old == new
