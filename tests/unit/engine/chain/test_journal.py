"""What the journal keeps of steps that the store does not take, within its bound."""

from __future__ import annotations

import pytest

from engine.chain.journal import Held, thin
from store.lineage.records import LinkRecord

STEP_BYTES = 10


def held(kinds: str) -> list[Held]:
    """v: a velocity, k: a keyframe, -: a step of which nothing is kept."""
    return [
        Held(
            LinkRecord(f"key-{index}", "denoise"),
            index,
            None,
            None,
            () if kind == "-" else (memoryview(bytes(STEP_BYTES)),),
            kind == "k",
            False,
        )
        for index, kind in enumerate(kinds)
    ]


def kinds(steps: list[Held]) -> str:
    return "".join(("k" if each.is_keyframe else "v") if each.parts else "-" for each in steps)


@pytest.mark.parametrize(
    ("before", "room", "after"),
    [
        ("", 0, ""),
        ("vvv", 3, "vvv"),
        ("vvv", 2, "---"),
        ("-vv", 2, "-vv"),
        ("kvvkvv", 5, "---kvv"),
        ("kvvkvv", 3, "---kvv"),
        ("kvvkvv", 2, "------"),
        ("kkkk", 2, "--kk"),
        ("--k-k", 1, "----k"),
        ("vvvk", 1, "---k"),
    ],
)
def test_what_goes_is_of_no_use_without_what_went(before, room, after):
    steps = held(before)
    gone = thin(steps, room * STEP_BYTES)
    assert kinds(steps) == after
    assert gone == sum(old != new for old, new in zip(before, after, strict=True))
    assert [each.index for each in steps] == list(range(len(before)))
