"""The end of a run in one line, and what makes a terminal tell it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from tui.describe.runs.following.notices import desktop_notice, end_line, terminal_title


@pytest.fixture
def record(store):
    run_id = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v/{run}.mp4")
    return replace(store.run(run_id), id="j4u4", started_ns=10**9, ended_ns=4 * 10**9)


def test_the_end_in_a_line(record):
    assert end_line(replace(record, status="done")) == "run j4u4 is done in 0:03"
    early = replace(record, status="done", stop_at=5)
    assert end_line(early) == "run j4u4 stopped at step 5 as asked in 0:03"
    failed = replace(record, status="failed", error="out of\x1b]0;x\x07 memory")
    assert end_line(failed) == "run j4u4 failed: out of\\x1b]0;x\\x07 memory"
    assert end_line(replace(record, status="interrupted")) == "run j4u4 is interrupted"


@pytest.mark.parametrize(
    "environ", [{"TERM": "xterm-256color"}, {"TERM": "foot"}, {"VTE_VERSION": "7"}]
)
def test_what_a_run_says_acts_on_no_terminal(environ):
    sequence = desktop_notice("run x failed: \x1b[2J;\x07" + "long " * 99, environ)
    kind = "9;" if environ.get("TERM") == "xterm-256color" else "777;notify;modiff;"
    assert sequence.startswith(f"\x1b]{kind}run x failed")
    assert sequence.endswith("\a")
    body = sequence.removeprefix(f"\x1b]{kind}").removesuffix("\a")
    assert body.isprintable()
    assert ";" not in body
    assert len(body) < 130


def test_a_title():
    assert terminal_title("modiff ▶ 62 %\x07") == "\x1b]2;modiff ▶ 62 %\\x07\a"
