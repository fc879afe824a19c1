"""What the store answers with: rows of its tables as frozen records. Times are ns since 1970."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.lineage.events import Event

QUEUED = "queued"
RUNNING = "running"
PAUSED = "paused"
# A run of one of these is at rest; all but a done one can be resumed.
FINAL_STATUSES = ("done", "failed", "cancelled", "interrupted", PAUSED)
STATUSES = (QUEUED, RUNNING, *FINAL_STATUSES)

MAX_RATING = 5

COMPARISONS = ("=", "<", "<=", ">", ">=")

COMPUTED = "computed"
REUSED = "reused"
SOURCES = (COMPUTED, REUSED)


@dataclass(frozen=True, slots=True)
class Segment:
    """An earlier part of a branched run: its steps before `stop` follow this encoded RunSpec."""

    stop: int
    spec_json: bytes


@dataclass(frozen=True, slots=True)
class Compared:
    """A condition on a setting of a run's spec, or on its rating.

    key: dotted, with the place in a list (`extensions[0].name`) or N for any; "rating" for the rating. comparison: one
    of COMPARISONS. value: a number or a truth value; a text fits with "=" only, in capitals or not, and `*` in it
    stands for anything. A setting that is a list fits where one of its items does. fits_absent: whether a spec fits
    that does not have the key, as from before there was such a setting. is_file: it is a path, which the name of the
    file fits too.
    """

    key: str
    comparison: str
    value: bool | int | float | str
    fits_absent: bool = False
    is_file: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `spec_json` is the encoded RunSpec, `output` an absolute path.

    parent, parent_step: the run that it was branched from and how many steps it shares with it.
    segments: the specs of those steps, in order, so that no ancestor is needed to continue; the
    run's own spec holds from the last segment's `stop` on.
    stop_at: end after so many steps; None: after the last.
    latents: digest of the final latents. environment: canonical JSON of what it ran on.
    origin: "local", or "import" for a run that came in a bundle.
    verifies: the run that this one computes again to compare; it is then no run of the user's, and
    lists, counts and bundles leave it out.
    rating: how well its people like it, 1 to 5 stars; 0 where nobody has said. It keeps nothing
    from a clean-up, which is for `pinned`.
    """

    id: str
    status: str
    preset: str
    spec_json: bytes
    output: str
    engine: str
    error: str
    cancel_requested: bool
    pause_requested: bool
    created_ns: int
    started_ns: int | None
    ended_ns: int | None
    parent: str
    parent_step: int | None
    segments: tuple[Segment, ...]
    stop_at: int | None
    note: str
    pinned: bool
    latents: str
    environment: str
    origin: str
    verifies: str = ""
    rating: int = 0

    @property
    def is_finished(self) -> bool:
        """Whether it is at rest: nothing happens to it unless someone asks."""
        return self.status in FINAL_STATUSES

    @property
    def is_paused(self) -> bool:
        return self.status == PAUSED

    @property
    def seconds(self) -> float | None:
        """From lease to end; None while the run is queued, running or was never started."""
        if self.started_ns is None or self.ended_ns is None:
            return None
        return max(0.0, (self.ended_ns - self.started_ns) / 1e9)


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What was made for a key, by whichever run came first (but see store.lineage.links.record).

    digest: the stored result ("" when it was thinned or lost). latents: digest of the latents
    after a step, to check a replay against; they need not be stored. state: a stored keyframe of
    the solver, or "". num_bytes: what `digest` and `state` take. seconds: what computing it took.
    environment: canonical JSON of what it was computed on. facts: JSON of what the key was
    derived from. The times are set when it is recorded.
    resume_at: how many steps done an extension's rest of state must be computed again from; None
    where there is none. keep: what a clean-up makes of it (store.upkeep.needs); "": as `kind` says.
    """

    key: str
    kind: str
    digest: str = ""
    latents: str = ""
    state: str = ""
    num_bytes: int = 0
    seconds: float = 0.0
    environment: str = ""
    facts: str = "{}"
    created_ns: int = 0
    used_ns: int = 0
    resume_at: int | None = None
    keep: str = ""


@dataclass(frozen=True, slots=True)
class RunLink:
    """A link of one run: what that run saw, whatever the link's own record says by now.

    index counts from 0; sigma and timestep are of a denoising step, None elsewhere. seconds is
    what this run spent on it.
    """

    run: str
    stage: str
    index: int
    key: str
    digest: str
    latents: str
    sigma: float | None
    timestep: float | None
    source: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A finished stage of a run, in the order in which they ran."""

    name: str
    seconds: float
    cached: bool


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event of a run's log, and when it was written."""

    id: int
    ns: int
    event: Event


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A model in the memory of an engine: kind and name of its component, where it is, and what its weights take."""

    kind: str
    name: str
    device: str
    num_bytes: int


# Heartbeats come once a second; this late, an engine is stuck, suspended or starved.
LATE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """A live engine process; `run` is the id of the run that it works on, or empty.

    version: of the code that it runs; "" where that was before engines said so. is_retiring: it
    leases no more runs and leaves once its present one has ended. held: names of the models that it
    has in memory, as of its last run or release; models: the same for people. is_to_release: somebody
    has asked for those that are idle to go; released: those that went when that was last done.
    """

    id: str
    pid: int
    host: str
    started_ns: int
    heartbeat_ns: int
    run: str
    version: str = ""
    is_retiring: bool = False
    held: tuple[str, ...] = ()
    models: tuple[HeldModel, ...] = ()
    is_to_release: bool = False
    released: tuple[HeldModel, ...] = ()
