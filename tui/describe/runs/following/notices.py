"""How the end of a run is told where nobody may be looking: one line, and what makes a terminal tell it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.describe.prompts.expansion import is_to_review
from tui.text import printable, shorten
from tui.units import clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store.lineage.records import RunRecord

BELL = "\a"
# A terminal keeps its title on a stack, and takes it back from there.
KEEP_TITLE, TAKE_TITLE_BACK = "\x1b[22;2t", "\x1b[23;2t"
# What a desktop shows of a notification.
_MAX_CELLS = 120


def end_line(record: RunRecord) -> str:
    """`run j4u4 is done in 0:03`, `run j4u4 stopped at step 5 as asked in 0:03`, `run j4u4 failed: out of memory ...`.
    Harmless text."""
    run_id = printable(record.id)
    if is_to_review(record):
        return f"run {run_id} waits for your word on its prompt"
    if record.status == "done":
        took = "" if record.seconds is None else f" in {clock(record.seconds)}"
        if record.stop_at is not None:
            return f"run {run_id} stopped at step {record.stop_at} as asked{took}"
        return f"run {run_id} is done{took}"
    reason = f": {printable(record.error)}" if record.error else ""
    word = record.status if record.status == "failed" else f"is {record.status}"
    return f"run {run_id} {word}{reason}"


def desktop_notice(text: str, environ: Mapping[str, str]) -> str:
    """What makes a terminal show a notification of the desktop: OSC 777 for rxvt, foot and those built on VTE, else
    OSC 9, of iTerm2 and most others; one that knows neither ignores it."""
    line = shorten(printable(text), _MAX_CELLS)
    is_777 = "VTE_VERSION" in environ or environ.get("TERM", "").startswith(("rxvt", "foot"))
    # a semicolon parts the fields of both
    told = line.replace(";", ",")
    return f"\x1b]777;notify;modiff;{told}{BELL}" if is_777 else f"\x1b]9;{told}{BELL}"


def terminal_title(text: str) -> str:
    """What gives a terminal its title."""
    return f"\x1b]2;{shorten(printable(text), _MAX_CELLS)}{BELL}"
