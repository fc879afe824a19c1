"""That a run makes no progress is told when a step takes far longer than those before it."""

from __future__ import annotations

import pytest

from tui.describe.runs.following.stalling import stalled


@pytest.mark.parametrize(
    ("seconds", "usual", "is_told"),
    [
        (59.0, 0.1, False),
        (60.0, 0.1, True),
        (299.0, 30.0, False),
        (300.0, 30.0, True),
        (599.0, 0.0, False),
        (600.0, 0.0, True),
    ],
)
def test_how_long_is_long_depends_on_the_steps_before(seconds, usual, is_told):
    told = stalled("denoise", "3 of 8 done", since_ns=0, seconds=seconds, usual_seconds=usual)
    assert bool(told) == is_told
    if told:
        assert "(denoise 3 of 8 done" in told
        assert ("usually take" in told) == bool(usual)
        assert "`modiff engine stop --force` ends its engine" in told
