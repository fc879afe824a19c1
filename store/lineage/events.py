"""What happens to a run, as typed records: the one log that live and past views both read.

Each is a JSON object with its kind in "kind". Kinds and fields are only ever added, fields with
defaults, so that an older reader still understands the log: it passes over kinds it does not know.
"""

from __future__ import annotations

import math
from typing import get_args

import msgspec

from store.errors import StoreDamaged


class _Base(msgspec.Struct, frozen=True, kw_only=False, tag_field="kind"):
    pass


class RunQueued(_Base, frozen=True, tag="run_queued"):
    """The run waits for an engine."""


class RunStarted(_Base, frozen=True, tag="run_started"):
    """An engine leased the run."""

    engine: str
    pid: int


class RunPaused(_Base, frozen=True, tag="run_paused"):
    """The run stopped where it was because it was asked to; RunFinished("paused") follows."""


class RunResumed(_Base, frozen=True, tag="run_resumed"):
    """The run, at rest with this status, was asked to go on; RunQueued follows.

    What the log says after it is of another attempt, which ends with a RunFinished of its own.
    """

    status: str


class PlanMade(_Base, frozen=True, tag="plan_made"):
    """What the run will do: of its total_steps, reused_steps are stored.

    stages maps a stage to "stored", "compute", or "skip" where nothing needs it.
    """

    reused_steps: int
    total_steps: int
    stages: dict[str, str]


class StageStarted(_Base, frozen=True, tag="stage_started"):
    """A stage (load, text_encode, denoise, decode, mux) began."""

    stage: str


class StageFinished(_Base, frozen=True, tag="stage_finished"):
    """A stage ended after `seconds`; cached: its result was in the store or still in memory."""

    stage: str
    seconds: float
    cached: bool


class StepFinished(_Base, frozen=True, tag="step_finished"):
    """One denoising step; step counts from 1 to total; mean and std are of the latents after it.

    mean and std are NaN where the latents were not finite. source is "computed" or "reused". change is how far the
    step moved the latents, ||after - before|| / ||before||; NaN where it was not computed.
    """

    step: int
    total: int
    sigma: float
    timestep: float
    seconds: float
    mean: float = math.nan
    std: float = math.nan
    source: str = "computed"
    change: float = math.nan


class LinkStored(_Base, frozen=True, tag="link_stored"):
    """A link of the run is on record; index counts from 0, source is "computed" or "reused".

    digest and latents are of what this run saw; empty where nothing is stored or known.
    """

    stage: str
    index: int
    key: str
    digest: str
    latents: str
    source: str


class ChunkDecoded(_Base, frozen=True, tag="chunk_decoded"):
    """One chunk of the video (of one tile) was decoded; chunk counts from 1 to total."""

    chunk: int
    total: int
    seconds: float


class CallAnswered(_Base, frozen=True, tag="call_answered"):
    """A component that runs elsewhere answered a call. host: its address; bytes: of the bodies."""

    component: str
    host: str
    sent_bytes: int
    received_bytes: int
    seconds: float


class MemorySampled(_Base, frozen=True, tag="memory_sampled"):
    """Memory of the engine process and, where there is one, allocated on its device, in bytes."""

    rss_bytes: int
    device_bytes: int


class MemoryPlanned(_Base, frozen=True, tag="memory_planned"):
    """What the run is expected to take at most, as its plan told before, with what its process has beside that: stage
    -> device -> bytes."""

    peak_bytes: dict[str, dict[str, int]]


class LatentsStored(_Base, frozen=True, tag="latents_stored"):
    """The final latents are in the store as the blob `digest`."""

    digest: str


class Verified(_Base, frozen=True, tag="verified"):
    """What a run that computes another again found, over `checked` results.

    first: for people, the first result that differs; "" where all are identical. relative_l2: how
    far it is off, ||here - recorded|| / ||recorded||; None where it cannot be told or is not finite.
    environment: what differs between the two, each as [recorded, here], None where it is not known.
    """

    identical: bool
    first: str = ""
    relative_l2: float | None = None
    environment: dict[str, list[str | None]] = {}
    checked: int = 0


class RunFinished(_Base, frozen=True, tag="run_finished"):
    """The last event of a run, or of an attempt that was resumed later.

    status is done, failed, cancelled, interrupted or paused; error the one-line reason.
    """

    status: str
    error: str = ""


class Message(_Base, frozen=True, tag="message"):
    """A line for people; level is info, warning or error."""

    level: str
    text: str


Event = (
    RunQueued
    | RunStarted
    | RunPaused
    | RunResumed
    | PlanMade
    | StageStarted
    | StageFinished
    | StepFinished
    | LinkStored
    | ChunkDecoded
    | CallAnswered
    | MemorySampled
    | MemoryPlanned
    | LatentsStored
    | Verified
    | RunFinished
    | Message
)

_DECODER = msgspec.json.Decoder(Event)
# Fields that may be NaN or infinite where something went wrong, and have a default to be read as.
_MEASURES = {"mean", "std", "change", "relative_l2", "seconds"}
_KINDS = {str(kind.__struct_config__.tag) for kind in get_args(Event)}


class _Kind(msgspec.Struct, frozen=True):
    """What every event has, whichever version wrote it."""

    kind: str


def encode_event(event: Event) -> str:
    """One event as JSON text; JSON has no NaN, so a measure that is not finite is left out."""
    fields = msgspec.to_builtins(event)
    for name in _MEASURES & fields.keys():
        if fields[name] is not None and not math.isfinite(fields[name]):
            del fields[name]
    return msgspec.json.encode(fields).decode()


def decode_event(text: str) -> Event | None:
    """The event of a JSON text written by `encode_event`; None for a kind of a newer version.

    Raises StoreDamaged for anything else that cannot be read.
    """
    try:
        event: Event = _DECODER.decode(text)
    except msgspec.MsgspecError as error:
        if _is_of_newer_kind(text):
            return None
        raise StoreDamaged(f"the event log holds an unreadable event ({error})") from error
    return event


def _is_of_newer_kind(text: str) -> bool:
    try:
        return msgspec.json.decode(text, type=_Kind).kind not in _KINDS
    except msgspec.MsgspecError:
        return False
