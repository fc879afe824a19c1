"""The steps of a run at rest as cells of a timeline, from its links: what its log says matters no more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.runs.branch_points import num_steps
from tui.app.run_view.timeline import StepCell

if TYPE_CHECKING:
    from tui.describe.runs.detail import Detail


def cells_of(detail: Detail) -> list[StepCell]:
    """A cell for each step to the run's end; those that were not done come after those that were."""
    total = num_steps(detail.record)
    if math.isinf(total):
        total = len(detail.steps)
    done = [
        StepCell(
            "reused" if link.source == "reused" else "computed",
            link.seconds,
            number in detail.points or (number == total and detail.has_latents),
        )
        for number, link in enumerate(detail.steps, start=1)
    ]
    return [*done, *[StepCell("todo", 0.0, False)] * (int(total) - len(done))]
