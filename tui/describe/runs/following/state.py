"""What the log of a run says about it so far: one plain state for live panels and for those of past runs.

`RunState` takes in log entries one by one and is drawn from at a fixed pace; it never grows beyond the steps of a
run and fixed numbers of samples and log lines. Torch-free, and knows nothing of the screen.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TYPE_CHECKING, Literal

from engine.tasks.stages import DECODE, DENOISE, ENCODE, EXPAND, IMAGE_ENCODE, READ, TOLD, told
from store.lineage.events import (
    CallAnswered,
    ChunkDecoded,
    LatentsStored,
    LinkStored,
    MemoryPlanned,
    MemorySampled,
    Message,
    PlanMade,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
)
from store.lineage.records import COMPUTED, REUSED
from tui.describe.memory import Planned, planned_peak
from tui.describe.runs.elsewhere import Elsewhere
from tui.text import printable
from tui.units import clock, duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from store.lineage.events import Event
    from store.lineage.records import LogEntry

StepStatus = Literal["todo", "running", "computed", "reused"]
# What runs have that expand a prompt, or begin from a picture or a clip.
_SOMETIMES = (EXPAND, READ, IMAGE_ENCODE, ENCODE)

StageStatus = Literal["todo", "running", "done", "cached", "skipped", "failed"]

MAX_LINES = 2000
MAX_SAMPLES = 512
# The rate is the median over so many last computed steps or chunks: a first one that compiles, or one in which the
# machine was busy, should not bend the estimate.
RATE_WINDOW = 9


EXPANDED = "expanded"
"""The stage whose result is an expanded prompt."""


@dataclass(slots=True)
class Step:
    """One denoising step. status: reused counts as done. seconds: 0 unless computed. mean, std: of the latents
    after it; change: relative L2 change of the latents in it; NaN where nobody knows, of a step that an earlier attempt
    of the run made as that measured them. key: of its link."""

    status: StepStatus = "todo"
    sigma: float = math.nan
    timestep: float = math.nan
    seconds: float = 0.0
    mean: float = math.nan
    std: float = math.nan
    change: float = math.nan
    key: str = ""
    is_stored: bool = False


@dataclass(slots=True)
class Stage:
    """One stage. planned: what the plan says of it (stored, compute, skip), "" before there is one."""

    name: str
    status: StageStatus = "todo"
    seconds: float | None = None
    started_ns: int = 0
    planned: str = ""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Bytes of the engine process and of its device, `seconds` after the attempt began."""

    seconds: float
    rss_bytes: int
    device_bytes: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log for people. level: info, warning or error."""

    ns: int
    level: str
    text: str


@dataclass(slots=True)
class RunState:
    """Everything that is shown of one run. stage: the one that began last. video: the key of the run's video, once that
    is made. expanded: the digest of its expanded prompt, where it has one. planned: the most memory that its plan
    told of, where it did. peak_rss_bytes, peak_device_bytes: over all attempts. changes: goes up with every event, so
    that who draws knows whether anything is new."""

    run_id: str
    status: str = "queued"
    error: str = ""
    engine_pid: int = 0
    stages: dict[str, Stage] = field(default_factory=lambda: _usual_stages())
    stage: str = ""
    steps: list[Step] = field(default_factory=list)
    reused_steps: int = 0
    chunk: int = 0
    num_chunks: int = 0
    elsewhere: dict[str, Elsewhere] = field(default_factory=dict)  # by kind of component
    latents: str = ""
    video: str = ""
    expanded: str = ""
    memory: list[MemorySample] = field(default_factory=list)
    planned: Planned | None = None
    rss_bytes: int = 0
    device_bytes: int = 0
    peak_rss_bytes: int = 0
    peak_device_bytes: int = 0
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    num_lines: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    last_id: int = 0
    last_ns: int = 0
    changes: int = 0
    _measured: dict[int, Step] = field(default_factory=dict)  # the last computed, by number
    _memory_stride: int = 1
    _memory_seen: int = 0
    _num_done: int = 0  # of the steps before the first one that is not
    _step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    _chunk_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))
    _counts: tuple[int, Counter[StepStatus]] = field(
        default=(-1, Counter()), compare=False, repr=False
    )

    def take(self, entries: Iterable[LogEntry]) -> None:
        """Take in log entries, in their order; those that were seen are passed over."""
        for entry in entries:
            if entry.id <= self.last_id:
                continue
            self.last_id = entry.id
            self.apply(entry.event, entry.ns)

    def apply(self, event: Event, ns: int) -> None:
        """Take in the next event, which was logged at `ns`."""
        self.last_ns = ns
        self.changes += 1
        match event:
            case RunQueued():
                self.status = "queued"
                self._say(ns, "queued")
            case RunResumed(status):
                self._begin_anew()
                self._say(ns, f"resumed; it was {status}")
            case RunStarted(engine, pid):
                self.status, self.engine_pid, self.started_ns = "running", pid, ns
                self._say(ns, f"engine {engine} (process {pid}) took the run")
            case RunPaused():
                pass  # RunFinished("paused") follows
            case PlanMade():
                self._plan(event, ns)
            case StageStarted(name):
                self._start_stage(name, ns)
            case StageFinished():
                self._finish_stage(event, ns)
            case StepFinished():
                self._finish_step(event, ns)
            case LinkStored():
                self._store(event)
            case ChunkDecoded(chunk, total, seconds):
                self.chunk, self.num_chunks = chunk, total
                self._chunk_seconds.append(seconds)
            case CallAnswered(component):
                self.elsewhere.setdefault(component, Elsewhere()).add(event)
            case MemorySampled(rss_bytes, device_bytes):
                self._sample(ns, rss_bytes, device_bytes)
            case MemoryPlanned(peak_bytes):
                self.planned = planned_peak(peak_bytes)
            case LatentsStored(digest):
                self.latents = digest
                self._say(ns, f"latents stored as {digest.rpartition(':')[2][:12]}")
            case RunFinished():
                self._end(event, ns)
            case Message(level, text):
                self._say(ns, text, level)

    def _begin_anew(self) -> None:
        """A resumed run has a new attempt; what the earlier one stored shows as reused steps of this one."""
        self.stages = _usual_stages()
        self.steps = []
        self.reused_steps = self.chunk = self.num_chunks = 0
        self.elsewhere = {}
        self.memory = []
        self.planned = None
        self._step_seconds.clear()
        self._chunk_seconds.clear()
        self.stage = self.error = self.video = ""
        self.started_ns = self.ended_ns = 0
        self._memory_stride, self._memory_seen = 1, 0
        self._num_done = 0

    def _plan(self, plan: PlanMade, ns: int) -> None:
        self.reused_steps = plan.reused_steps
        self._grow(plan.total_steps)
        if any(stage.name in plan.stages for stage in _SOMETIMES):
            self.stages = {
                name: self.stages.get(name) or Stage(stage.label)
                for name, stage in TOLD.items()
                if name in self.stages or name in plan.stages
            }
        for name, what in plan.stages.items():
            if name in self.stages:
                self.stages[name].planned = what
        self._say(ns, _told(plan))

    def _start_stage(self, name: str, ns: int) -> None:
        stage = self.stages.setdefault(name, Stage(told(name).label))
        stage.status, stage.started_ns = "running", ns
        self.stage = name
        self._mark_running()

    def _finish_stage(self, event: StageFinished, ns: int) -> None:
        stage = self.stages.setdefault(event.stage, Stage(event.stage))
        stage.seconds = event.seconds
        stage.status = "done"
        if event.cached:
            stage.status = "skipped" if stage.planned == "skip" else "cached"
        words = {"cached": "cached", "skipped": "not needed"}.get(stage.status)
        away = self.elsewhere.get(told(event.stage).component)
        where = f" {away.words}" if away is not None and stage.status == "done" else ""
        self._say(ns, f"{stage.name} {words or duration(event.seconds)}{where}")

    def _finish_step(self, event: StepFinished, ns: int) -> None:
        self._grow(event.total)
        if not 1 <= event.step <= len(self.steps):
            return
        step = self.steps[event.step - 1]
        step.status = "reused" if event.source == REUSED else "computed"
        step.sigma, step.timestep, step.seconds = event.sigma, event.timestep, event.seconds
        step.mean, step.std = event.mean, event.std
        step.change = event.change
        if event.source == COMPUTED:
            self._measured[event.step] = step
            self._step_seconds.append(event.seconds)
        elif known := self._measured.get(event.step):
            step.mean, step.std, step.change = known.mean, known.std, known.change
        self._mark_running()
        if event.source == COMPUTED:
            change = "" if math.isnan(event.change) else f"  change {event.change:.3f}"
            self._say(
                ns,
                f"step {event.step}/{event.total}  from σ {event.sigma:.3f}  {duration(event.seconds)}{change}",
            )

    def _mark_running(self) -> None:
        """The first step that is not done is the one at work, while the denoising is."""
        is_denoising = self.stages[DENOISE.name].status == "running"
        open_states = ("todo", "running")
        while self._num_done < len(self.steps) and (
            self.steps[self._num_done].status not in open_states
        ):
            self._num_done += 1
        if self._num_done < len(self.steps):
            self.steps[self._num_done].status = "running" if is_denoising else "todo"

    def _store(self, event: LinkStored) -> None:
        if event.stage == "video":
            self.video = event.key
        if event.stage == EXPANDED:
            self.expanded = event.digest
        if event.stage != "step":
            return
        self._grow(event.index + 1)
        step = self.steps[event.index]
        step.key = event.key
        step.is_stored = bool(event.digest)

    def _sample(self, ns: int, rss_bytes: int, device_bytes: int) -> None:
        """Every sample at first; every second one of all once there are too many, and so on."""
        self.rss_bytes, self.device_bytes = rss_bytes, device_bytes
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes)
        self.peak_device_bytes = max(self.peak_device_bytes, device_bytes)
        self._memory_seen += 1
        if self._memory_seen % self._memory_stride:
            return
        seconds = max(0.0, (ns - self.started_ns) / 1e9) if self.started_ns else 0.0
        self.memory.append(MemorySample(seconds, rss_bytes, device_bytes))
        if len(self.memory) >= MAX_SAMPLES:
            self.memory = self.memory[1::2]
            self._memory_stride *= 2

    def _end(self, event: RunFinished, ns: int) -> None:
        self.status, self.error, self.ended_ns = event.status, event.error, ns
        is_bad = event.status in ("failed", "interrupted")
        for stage in self.stages.values():
            if stage.status == "running":
                stage.status = "failed" if is_bad else "todo"
        for step in self.steps:
            if step.status == "running":
                step.status = "todo"
        reason = f": {event.error}" if event.error else ""
        self._say(ns, f"{event.status}{reason}", "error" if is_bad else "info")

    def _grow(self, total: int) -> None:
        while len(self.steps) < total:
            self.steps.append(Step())

    def _say(self, ns: int, text: str, level: str = "info") -> None:
        self.lines.append(Line(ns, level, printable(text)))
        self.num_lines += 1

    # What is derived

    @property
    def is_over(self) -> bool:
        """Whether this attempt has ended."""
        return self.status not in ("queued", "running")

    @property
    def num_steps(self) -> Counter[StepStatus]:
        """How many steps are how far; counted once after a change, because there are up to a thousand."""
        if self._counts[0] != self.changes:
            self._counts = self.changes, Counter(step.status for step in self.steps)
        return self._counts[1]

    @property
    def steps_done(self) -> int:
        return self.num_steps["computed"] + self.num_steps["reused"]

    @property
    def step_seconds(self) -> float | None:
        """Median over the last computed steps; None before the first."""
        return median(self._step_seconds) if self._step_seconds else None

    @property
    def rate(self) -> str:
        """Of the denoising, as of `rate_of`: of its last steps while it goes on, then of all that it computed."""
        if not self.is_over:
            return rate_of(self.step_seconds)
        computed = [step.seconds for step in self.steps if step.status == "computed"]
        return rate_of(mean(computed)) if computed else ""

    @property
    def counted(self) -> tuple[int, int]:
        """How many of the steps or chunks that the present stage counts are done, and of how many; (0, 0): of none."""
        match told(self.stage).unit:
            case "step":
                return self.steps_done, len(self.steps)
            case "chunk":
                return self.chunk, self.num_chunks
            case _:
                return 0, 0

    @property
    def unit_seconds(self) -> float | None:
        """Median over the last steps or chunks of the present stage; None before the first."""
        match told(self.stage).unit:
            case "step":
                return self.step_seconds
            case "chunk" if self._chunk_seconds:
                return median(self._chunk_seconds)
            case _:
                return None

    @property
    def saved_seconds(self) -> float | None:
        """What the reused steps would have cost at the present rate; None where no step was computed."""
        seconds = self.step_seconds
        return None if seconds is None else self.num_steps["reused"] * seconds

    def elapsed_seconds(self, now_ns: int) -> float:
        """Of this attempt, from the lease on."""
        if not self.started_ns:
            return 0.0
        return max(0.0, ((self.ended_ns or now_ns) - self.started_ns) / 1e9)

    def eta_seconds(self, decode_seconds: float | None) -> float | None:
        """Until the end of the run; None where that cannot be told. Steps that are stored take no time.

        decode_seconds: what decoding took in like runs, None where that is not known.
        """
        if self.is_over or not self.steps:
            return None
        left_over = self.steps[self.reused_steps :]
        open_steps = sum(step.status in ("todo", "running") for step in left_over)
        seconds = self.step_seconds
        if open_steps and seconds is None:
            return None
        left = open_steps * (seconds or 0.0)
        decode = self.stages[DECODE.name]
        if decode.status == "running" and self.num_chunks:
            spent = (self.last_ns - decode.started_ns) / 1e9
            return spent / max(1, self.chunk) * (self.num_chunks - self.chunk)
        if decode.status in ("todo", "running") and decode.planned == "compute":
            return (
                None
                if decode_seconds is None and not open_steps
                else left + (decode_seconds or 0.0)
            )
        return left

    def eta(self, decode_seconds: float | None) -> str:
        """`~0:15 left`, or nothing."""
        left = self.eta_seconds(decode_seconds)
        return "" if left is None else f"~{clock(left)} left"


def rate_of(seconds: float | None) -> str:
    """`3.4 it/s`, or `2.1 s/it` for what takes longer than a second; empty where nothing was computed yet."""
    if not seconds:
        return ""
    return f"{1 / seconds:.2f} it/s" if seconds < 1 else f"{seconds:.2f} s/it"


def state_of(run_id: str, events: Iterable[Event]) -> RunState:
    """What all events of a run say, when each of them came aside."""
    state = RunState(run_id)
    for event in events:
        state.apply(event, 0)
    return state


def _usual_stages() -> dict[str, Stage]:
    """Those of every run, before there is a plan."""
    return {name: Stage(stage.label) for name, stage in TOLD.items() if stage not in _SOMETIMES}


def _told(plan: PlanMade) -> str:
    """`plan: 3/30 steps, text stored; to do: denoise, decode; not needed: mux`"""
    named: dict[str, list[str]] = {}
    for name, what in plan.stages.items():
        named.setdefault(what, []).append(told(name).label)
    steps = f"{plan.reused_steps}/{plan.total_steps} steps"
    parts = [f"{', '.join([steps, *named.pop('stored', [])])} stored"]
    words = {"compute": "to do", "skip": "not needed"}
    parts += [f"{words.get(what, what)}: {', '.join(names)}" for what, names in named.items()]
    return f"plan: {'; '.join(parts)}"
