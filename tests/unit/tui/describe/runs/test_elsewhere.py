"""What components did at other hosts, as live and past runs tell it."""

from __future__ import annotations

from store.lineage.events import CallAnswered, RunStarted, StageFinished, StageStarted
from store.lineage.records import LogEntry
from store.store import Store
from tui.describe.runs.elsewhere import elsewhere_of
from tui.describe.runs.following.state import RunState

MAC = "http://mac:8765"
CALLS = [
    CallAnswered("denoiser", MAC, 8_400_000, 16_800_000, 1.5),
    CallAnswered("denoiser", MAC, 8_400_000, 16_800_000, 1.25),
    CallAnswered("vae", "http://box:1", 3_000, 3_000, 0.5),
    # another part of the same answer
    CallAnswered("vae", "http://box:1", 0, 3_000, 0.5),
]


def test_calls_are_summed_by_component() -> None:
    found = elsewhere_of(CALLS)
    assert [(kind, each.words) for kind, each in found.items()] == [
        ("denoiser", f"at {MAC}: 2 calls, 16 MiB up, 32 MiB down"),
        ("vae", "at http://box:1: 1 call, 3 KiB up, 6 KiB down"),
    ]
    assert found["denoiser"].seconds == 2.75


def test_a_stage_says_where_it_ran() -> None:
    state = RunState("run")
    events = [
        RunStarted("e", 1),
        StageStarted("denoise"),
        *CALLS[:2],
        StageFinished("denoise", 3.0, False),
    ]
    state.take([LogEntry(number + 1, number, event) for number, event in enumerate(events)])
    assert state.lines[-1].text == f"denoise 3.00 s at {MAC}: 2 calls, 16 MiB up, 32 MiB down"


def test_of_a_run_in_the_store_only_its_calls_are_read(store: Store) -> None:
    run_id = store.enqueue(b"{}", preset="", output="x.mp4")
    store.append(run_id, [*CALLS, StageStarted("decode")])
    assert store.calls(run_id) == CALLS
