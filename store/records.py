"""What the store answers with: rows of its tables as frozen records. Times are ns since 1970."""

from __future__ import annotations

from dataclasses import dataclass

QUEUED = "queued"
RUNNING = "running"
FINAL_STATUSES = ("done", "failed", "cancelled", "interrupted")
STATUSES = (QUEUED, RUNNING, *FINAL_STATUSES)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `spec_json` is the encoded RunSpec, `output` an absolute path."""

    id: str
    status: str
    preset: str
    spec_json: bytes
    output: str
    engine: str
    error: str
    cancel_requested: bool
    created_ns: int
    started_ns: int | None
    ended_ns: int | None

    @property
    def is_finished(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def seconds(self) -> float | None:
        """From lease to end; None while the run is queued, running or was never started."""
        if self.started_ns is None or self.ended_ns is None:
            return None
        return max(0.0, (self.ended_ns - self.started_ns) / 1e9)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A finished stage of a run, in the order in which they ran."""

    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """A live engine process; `run` is the id of the run that it works on, or empty."""

    id: str
    pid: int
    host: str
    started_ns: int
    heartbeat_ns: int
    run: str
