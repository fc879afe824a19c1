"""The engine as a real process: what it makes of the queue."""

from __future__ import annotations

import pytest

from engine.process.launch import stop_engine
from engine.process.logs import log_path, redact
from engine.runs.following import follow
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.lineage.events import (
    RunFinished,
    RunQueued,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from tests.integration.worker_runs import ending, enqueue, log_of, start


def test_runs_are_executed_in_order_by_one_engine_that_stays(store):
    first, second = enqueue(store, "steps 3"), enqueue(store, "steps 1")
    engine = start(store)
    events = list(follow(store, first, poll_seconds=0.01))
    assert events == [
        RunQueued(),
        RunStarted(engine.id, engine.pid),
        StageStarted("denoise"),
        *(StepFinished(step, 3, 1.0, 1000.0, 0.0, 0.0, 1.0) for step in (1, 2, 3)),
        StageFinished("denoise", 0.0, False),
        RunFinished("done"),
    ]
    assert ending(store, second) == RunFinished("done")
    run = store.run(second)
    assert (run.status, run.engine, run.output) == ("done", engine.id, f"/videos/{second}.mp4")
    assert run.started_ns >= store.run(first).ended_ns
    assert [stage.name for stage in store.stages(first)] == ["denoise"]
    third = enqueue(store, "steps 1")
    ending(store, third)
    assert store.run(third).engine == engine.id


def test_a_finished_run_is_followed_from_its_log(store):
    run_id = enqueue(store, "steps 2")
    start(store)
    live = list(follow(store, run_id, poll_seconds=0.01))
    stop_engine(store)
    assert list(follow(store, run_id)) == live


FAILURES = {
    "RunFailed": "latents are not finite at step 3",
    "StoreFull": "no space left for the blob",
    "OSError": "/videos/v.mp4: Permission denied",
    "MemoryError": "out of memory; try a smaller size, fewer frames or a smaller dtype",
    "ZeroDivisionError": "ZeroDivisionError: first line second line (traceback in {log})",
    "SystemExit": "SystemExit: 3 (traceback in {log})",
}


def test_a_failing_run_is_one_line_and_the_engine_goes_on(store):
    queued = {name: enqueue(store, f"raise {name}") for name in FAILURES}
    engine = start(store)
    log = log_path(store.root, engine.pid)
    for name, message in FAILURES.items():
        assert ending(store, queued[name]) == RunFinished("failed", message.format(log=log))
        assert store.run(queued[name]).error == message.format(log=log)
    assert "Traceback" in log.read_text()
    after = enqueue(store, "steps 1")
    assert ending(store, after) == RunFinished("done")
    assert store.run(after).engine == engine.id


def test_a_specification_that_cannot_be_read_fails_its_run(store):
    run_id = store.enqueue(b'{"format": 99}', preset="p", output="o")
    start(store)
    last = ending(store, run_id)
    assert last.status == "failed"
    assert "format" in last.error
    assert "\n" not in last.error


def test_secrets_are_neither_logged_nor_stored(store, monkeypatch):
    monkeypatch.setenv("SOME_API_TOKEN", "CANARY-token-3")
    run_id = enqueue(store, "raise secret")
    engine = start(store)
    last = ending(store, run_id)
    assert "401" in last.error
    stop_engine(store)
    kept = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert b"401 for https://" in kept
    assert b"CANARY" not in kept.replace(encode_spec(load_preset("micro")), b"")
    assert "CANARY" not in log_of(store, engine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        ("https://user:word@host/x", "https://***@host/x"),
        ("GET /x?token=abc&y=1", "GET /x?***&y=1"),
        ("hf_abcdefghijklmnopqrstuv", "***"),
        ("a prompt of 512 tokens: fine", "a prompt of 512 tokens: fine"),
        ("tokenizer: /models/umt5", "tokenizer: /models/umt5"),
    ],
)
def test_what_is_redacted(text, expected):
    assert redact(text) == expected
