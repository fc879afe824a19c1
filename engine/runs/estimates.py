"""What a run will take, judged by what like runs took on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from engine.tasks.stages import (
    DECODE,
    DENOISE,
    ENCODE,
    EXPAND,
    IMAGE_ENCODE,
    LOAD,
    READ,
    TEXT_ENCODE,
)
from presets.expansion import expands
from presets.settings.by_key import LATER
from presets.tasks import PICTURES
from store.lineage.records import COMPUTED

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store

# The newest runs are looked through for like ones, until each time is known from so many.
_SEARCHED = 500
_ENOUGH = 5


@dataclass(frozen=True, slots=True)
class Experience:
    """None where no like run is on record. seconds: of a stage by its name (`engine.tasks.stages`), loading that of all
    models, denoising that of one step. memory_bytes, device_bytes: the most that one of the runs took."""

    seconds: Mapping[str, float | None]
    video_bytes: float | None
    memory_bytes: int | None = None
    device_bytes: int | None = None


_STAGES = (LOAD.name, TEXT_ENCODE.name, DENOISE.name, DECODE.name)
_VIDEO_BYTES = "video bytes"


def experience_with(store: Store, spec: RunSpec) -> Experience:
    """The medians over runs with the same models, dtypes, devices, size and use of guidance."""
    wanted = likeness(spec)
    stages = _stages(spec)
    spent: dict[str, list[float]] = {name: [] for name in (*stages, _VIDEO_BYTES)}
    peaks: list[tuple[int, int]] = []
    for record in store.runs(limit=_SEARCHED, status="done"):
        if record.origin == "local" and _likeness(json.loads(record.spec_json)) == wanted:
            _add(spent, store, record.id)
            peaks.append(store.peak_memory(record.id))
            if all(len(values) >= _ENOUGH for values in spent.values()):
                break
    medians = {name: median(values) if values else None for name, values in spent.items()}
    return Experience(
        seconds={name: medians[name] for name in stages},
        video_bytes=medians[_VIDEO_BYTES],
        memory_bytes=max((rss for rss, _ in peaks if rss), default=None),
        device_bytes=max((device for _, device in peaks if device), default=None),
    )


def _stages(spec: RunSpec) -> list[str]:
    """The names of those that take time in a run."""
    pictures = [READ.name, IMAGE_ENCODE.name, ENCODE.name] if PICTURES[spec.task] else []
    clip = [ENCODE.name] if spec.video.path else []
    expansion = [EXPAND.name] if expands(spec) else []
    return list(dict.fromkeys([*_STAGES, *pictures, *clip, *expansion]))


def likeness(spec: RunSpec) -> str:
    """The same for runs of which each stage and step takes as long."""
    import msgspec

    return _likeness(json.loads(msgspec.json.encode(spec)))


def _add(spent: dict[str, list[float]], store: Store, run_id: str) -> None:
    """Add what a run knows to what is not known often enough."""
    found: dict[str, list[float]] = {name: [] for name in spent}
    for stage in store.stages(run_id):
        if not stage.cached and stage.name in found:
            found[stage.name].append(stage.seconds)
    links = [link for link in store.links_of(run_id) if link.source == COMPUTED]
    found[DENOISE.name] = [link.seconds for link in links if link.stage == "step"]
    videos = store.find_links([link.key for link in links if link.stage == "video"])
    found[_VIDEO_BYTES] = [video.num_bytes for video in videos.values()]
    for name, values in found.items():
        if len(spent[name]) < _ENOUGH:
            spent[name] += values


def _likeness(spec: Mapping[str, Any]) -> str:
    names = ("width", "height", "frames")
    # one that is off takes no time; a run of before they could be off has none that is
    extensions = [
        {name: value for name, value in each.items() if name != "enabled"}
        for each in spec.get("extensions", ())
        if each.get("enabled", True)
    ]
    # a run of before there were options is like one that has none
    absent = [("options", {}), *LATER.items()]
    used = {
        "prompt_expander": spec.get("expansion", {}).get("enabled", False),
        "image_encoder": spec.get("task", "t2v") != "t2v",
    }
    parts = {
        kind: {name: value for name, value in part.items() if (name, value) not in absent}
        for kind, part in spec.get("components", {}).items()
        if used.get(kind, True)
    }
    return json.dumps(
        [parts, extensions, *(spec.get(name) for name in names), _guided(spec)], sort_keys=True
    )


def _guided(spec: Mapping[str, Any]) -> float:
    """The share of the steps that take two model calls."""
    scale = spec.get("guidance", {}).get("scale")
    if not isinstance(scale, list):
        return float(scale != 1)
    import msgspec

    from presets.guidance import scales
    from presets.spec.sampling import GuidanceSpec

    num_steps = spec["scheduler"]["steps"]
    found = scales(msgspec.convert({"scale": scale}, GuidanceSpec), num_steps)
    return sum(each != 1 for each in found) / num_steps
