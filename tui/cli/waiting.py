"""What to say about runs that wait while no engine is there to execute them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.store import Store


def waiting_line(store: Store) -> str:
    """The line that names the way on, or "" when nothing waits or an engine lives."""
    count = len(store.runs(limit=1_000_000, status="queued"))
    if not count or store.engines():
        return ""
    if count == 1:
        return "1 run waits and no engine runs; modiff engine start goes on with it"
    return f"{count} runs wait and no engine runs; modiff engine start goes on with them"
