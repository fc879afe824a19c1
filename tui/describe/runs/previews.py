"""What the pictures of a run show, in words, and how fast they play. Pure, torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store.index.previews import Preview
    from tui.describe.runs.detail import Detail

VIDEO = "the video"
# Nobody sees more of them in a terminal.
MAX_FPS = 12.0


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a run, None where there is none. told: what it shows, or why there is none. fps: None where nobody
    knows the time of its frames."""

    preview: Preview | None
    told: str
    fps: float | None = None


def step_told(step: int) -> str:
    """What the picture of a step shows."""
    return f"step {step} · latents, projected"


def playing_rate(spec_json: bytes, num_frames: int) -> float | None:
    """Frames a second at which so many, spread over a run's video, last as long as it does, at most MAX_FPS; None where
    its spec, which may be of another version, does not say."""
    spec = json.loads(spec_json)
    frames, fps = spec.get("frames"), spec.get("fps")
    if not (isinstance(frames, int) and isinstance(fps, int) and frames > 0 and fps > 0):
        return None
    return min(MAX_FPS, num_frames * fps / frames)


def video_fps(spec_json: bytes) -> float:
    """Frames a second of a run's video; Wan's usual 16 where its spec, which may be newer, says nothing."""
    fps = json.loads(spec_json).get("fps")
    return float(fps) if isinstance(fps, int) and fps > 0 else 16.0


def keys_of(detail: Detail, step: int | None) -> list[str]:
    """Under which keys there may be what `shown` shows, the best first."""
    steps = detail.steps
    if step is None:
        video = [detail.video.key] if detail.video else []
        return [*video, *[link.key for link in steps[-1:]]]
    return [steps[step - 1].key] if 1 <= step <= len(steps) else []


def shown(detail: Detail, step: int | None, found: Mapping[str, Preview]) -> Shown:
    """The picture after so many steps of a run at rest. None: of its video, or of its last step where it has none.
    found: the previews of `keys_of`, of those that there are."""
    if step is None:
        video = found.get(detail.video.key) if detail.video else None
        if video is not None:
            return Shown(video, VIDEO, playing_rate(detail.record.spec_json, video.num_frames))
        step = len(detail.steps)
    if not step:
        return Shown(None, "the noise")
    if step > len(detail.steps):
        return Shown(None, "not computed")
    preview = found.get(detail.steps[step - 1].key)
    return Shown(preview, step_told(step) if preview else f"step {step}: no preview")
