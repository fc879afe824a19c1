"""What components did at other hosts, in words. Pure, torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from store.lineage.events import CallAnswered
from tui.text import counted, printable
from tui.units import size


@dataclass(slots=True)
class Elsewhere:
    """What a component did at another host. sent_bytes, received_bytes: as seen from here; seconds: that its answers
    were waited for."""

    host: str = ""
    calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0

    def add(self, call: CallAnswered) -> None:
        """Another answer; of several hosts the last one is named."""
        self.host = call.host
        self.calls += bool(call.sent_bytes)
        self.sent_bytes += call.sent_bytes
        self.received_bytes += call.received_bytes
        self.seconds += call.seconds

    @property
    def words(self) -> str:
        """`at http://mac:8765: 4 calls, 21 kB up, 40 kB down`."""
        sent, received = size(self.sent_bytes), size(self.received_bytes)
        calls = counted(self.calls, "call")
        return f"at {printable(self.host)}: {calls}, {sent} up, {received} down"


def elsewhere_of(calls: Iterable[CallAnswered]) -> dict[str, Elsewhere]:
    """By kind of component, in the order of the first calls."""
    found: dict[str, Elsewhere] = {}
    for call in calls:
        found.setdefault(call.component, Elsewhere()).add(call)
    return found
