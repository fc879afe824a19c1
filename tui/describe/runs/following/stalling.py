"""Whether a run at work still gets on. A library that hangs in a call of its own lets the engine go on beating: that is
told by how long nothing came. It may also only be slow, so nobody ends anything because of it."""

from __future__ import annotations

import time

from tui.text import printable
from tui.units import duration

# How long nothing may come before it is told, at least and in times of what a step of the stage usually takes.
LEAST_SECONDS = 60.0
TIMES_USUAL = 10.0
# The same where no such step has ended yet: it may have gigabytes to read, or to compile itself.
FIRST_SECONDS = 600.0


def stalled(stage: str, step: str, *, since_ns: int, seconds: float, usual_seconds: float) -> str:
    """That nothing came for unusually long, and what can be done; "" where that is not so.

    step: what it is at, or "". since_ns, seconds: when and how long ago something came last. usual_seconds: what a step
    of this stage usually takes, 0 where none has ended.
    """
    limit = max(LEAST_SECONDS, TIMES_USUAL * usual_seconds) if usual_seconds else FIRST_SECONDS
    if seconds < limit:
        return ""
    at = time.strftime("%H:%M:%S", time.localtime(since_ns / 1e9))
    where = " ".join(filter(None, [printable(stage), step]))
    usually = f", which usually take {duration(usual_seconds)} each" if usual_seconds else ""
    return (
        f"no progress since {at} ({where}{usually}); if it hangs, `modiff engine stop --force` ends its engine, "
        "and the run can be resumed"
    )
