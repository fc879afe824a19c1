"""An expanded prompt is approved, edited, rolled again, or left; and a run that waits for that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from store.blobs import blobs
from store.lineage.records import COMPUTED, LinkRecord
from store.store import Store, open_store
from tests.unit.tui.app.dialogs.test_ask import answer
from tests.unit.tui.opened_app import play, until
from tui.app.app import ModiffApp
from tui.app.dialogs.review import Reviewed, ReviewPrompt
from tui.app.messages import WatchRun
from tui.app.run_view.head import RunHead

TEXT = "a small yellow star moves up"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["ctrl+r"], Reviewed("approve")),
        (["!", "ctrl+r"], Reviewed("approve", f"{TEXT}!")),
        (["tab", "tab", "enter"], Reviewed("again")),
        (["tab", "tab", "tab", "enter"], Reviewed("mine")),
        (["escape"], None),
    ],
)
def test_the_answers(keys: list[str], expected: Reviewed | None) -> None:
    assert answer(ReviewPrompt("expanded by tiny-llm", TEXT, "a star"), *keys) == [expected]


def test_an_empty_prompt_is_no_answer() -> None:
    assert answer(ReviewPrompt("by", "x", "a star"), "backspace", "ctrl+r") == []


def waiting_run(store: Store) -> str:
    """A run whose prompt was expanded, and which waits to be told to go on."""
    spec = load_preset(
        "micro", ["prompt=a star", "expansion.enabled=true", "expansion.instructions=x"]
    )
    run_id = store.enqueue(encode_spec(spec), preset="micro", output="/v/out.mp4", stop_at=0)
    engine = f"engine{run_id}"
    with store.register_engine(engine, pid=1, version=""):
        store.lease(engine)
        link = LinkRecord("k1:" + "a" * 64, "expanded", blobs.put(store.root, TEXT.encode()))
        store.record_link(run_id, link, stage="expanded", index=1, source=COMPUTED, seconds=0.1)
        store.finish(run_id, "done")
    return run_id


def head_of(app: ModiffApp) -> str:
    heads = app.screen.query(RunHead)
    return "\n".join(head.render_line(y).text for head in heads for y in range(4))


def test_a_run_that_waits_is_asked_for_where_it_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.process.launch.ensure_engine", lambda store: None)
    with open_store(tmp_path) as store:
        before = waiting_run(store)
        run_ids = [before]

        async def script(pilot: Pilot[int]) -> None:
            app = pilot.app
            assert isinstance(app, ModiffApp)
            # what waited before is not asked for by itself
            await until(pilot, lambda: "r asks for it" in head_of(app))
            assert not isinstance(app.screen, ReviewPrompt)
            run_ids.append(waiting_run(store))
            app.post_message(WatchRun(run_ids[1]))
            await until(pilot, lambda: isinstance(app.screen, ReviewPrompt))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, ReviewPrompt))
            # left, it is not asked for again by itself
            await pilot.press("r")
            await until(pilot, lambda: isinstance(app.screen, ReviewPrompt))
            await pilot.press("!", "ctrl+r")
            await until(pilot, lambda: store.run(run_ids[1]).status == "queued")

        play("live", script, root=tmp_path)
        assert store.run(before).stop_at == 0
        run = store.run(run_ids[1])
        assert run.stop_at is None
        assert decode_spec(run.spec_json).expansion.text == f"{TEXT}!"
