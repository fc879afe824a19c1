"""Everything that two runs are compared by, put together. Torch is imported where tensors must be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engine.compare.chains import Chain, Timings, chain, timings
from engine.compare.settings import Difference, environment_differences, spec_differences
from engine.errors import EngineError
from store.blobs import blobs
from store.errors import BlobCorrupt, BlobMissing
from store.lineage.records import RunLink, RunRecord
from store.store import Store

if TYPE_CHECKING:
    from engine.compare.latents import Distance, Steps
    from engine.compare.similarity import Similarity

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What compares two runs. A part that is None could not be compared, and `reasons` says why by its name.

    steps: of the latents after each step, or the velocities. latents: of the final ones.
    """

    a: RunRecord
    b: RunRecord
    settings: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    timings: tuple[Timings, Timings]
    chain: Chain
    steps: Steps | None
    latents: Distance | None
    frames: Similarity | None
    reasons: dict[str, str]


def compare(store: Store, a: str, b: str) -> Comparison:
    """Compare two runs, given by their full ids. Raises the store's errors."""
    one, other = store.run(a), store.run(b)
    links = [store.links_of(a), store.links_of(b)]
    steps = [[link for link in of_run if link.stage == "step"] for of_run in links]
    reasons: dict[str, str] = {}

    def tried(name: str, part: Callable[[], Told]) -> Told | None:
        try:
            return part()
        except EngineError as error:
            reasons[name] = str(error)
            return None

    return Comparison(
        a=one,
        b=other,
        settings=tuple(spec_differences(one, other)),
        environment=tuple(environment_differences(one, other)),
        timings=(
            timings(one, store.stages(a), steps[0]),
            timings(other, store.stages(b), steps[1]),
        ),
        chain=chain(*steps),
        steps=tried("steps", lambda: _steps(store, one, other, *steps)),
        latents=tried("latents", lambda: _latents(store.root, one, other)),
        frames=tried("frames", lambda: _frames(video_of(store, a), video_of(store, b))),
        reasons=reasons,
    )


def video_of(store: Store, run_id: str) -> Path:
    """Where the run's stored video is, every byte of it verified.

    Raises EngineError for a run that has none, or whose video is gone.
    """
    digest = next(
        (link.digest for link in store.links_of(run_id) if link.stage == "video" and link.digest),
        "",
    )
    if not digest:
        raise EngineError(f"run {run_id} ({store.run(run_id).status}) has no video in the store")
    try:
        blobs.get(store.root, digest)
    except BlobMissing:
        raise EngineError(f"the video of run {run_id} is no longer in the store") from None
    except BlobCorrupt as error:
        raise EngineError(f"the video of run {run_id} is lost: {error}") from None
    return blobs.blob_path(store.root, digest)


def _steps(
    store: Store, a: RunRecord, b: RunRecord, steps_a: list[RunLink], steps_b: list[RunLink]
) -> Steps:
    for run, steps in ((a, steps_a), (b, steps_b)):
        if not steps:
            raise EngineError(f"run {run.id} ({run.status}) has no steps on record")
    from engine.compare.latents import compare_steps

    return compare_steps(store, a, b, steps_a, steps_b)


def _latents(root: Path, a: RunRecord, b: RunRecord) -> Distance:
    for run in (a, b):
        if not run.latents:
            raise EngineError(f"run {run.id} ({run.status}) has no final latents")
    from engine.compare.latents import SAME, distance, stored

    if a.latents == b.latents:
        return SAME
    old, new = (stored(root, run.latents, "latents") for run in (a, b))
    if old is None or new is None:
        gone = (a if old is None else b).id
        raise EngineError(f"the final latents of run {gone} are no longer in the store")
    return distance(old, new)


def _frames(a: Path, b: Path) -> Similarity:
    from engine.compare.frames import read_frames
    from engine.compare.similarity import similarity

    return similarity(read_frames(a), read_frames(b))
