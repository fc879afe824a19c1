"""What is tried when memory ends in a run, each lighter on memory than the one before. Pure and torch-free.

First nothing of the run changes: models that are idle go. Then its settings do, and what is made is made with those:
smaller pieces for the VAE, fewer blocks of the denoiser on its device, the CPU for what can wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from engine.tasks.stages import DECODE, LOAD
from presets.spec.run import RunSpec
from presets.spec.values import FRAME_STEP

TILES = (512, 256, 128)
CHUNKS = (2, 1)
APPROXIMATE = "(approximate)"
WITHOUT_IDLE = "without the models that are idle"

_COMPONENTS = {
    "text_encoder": "text encoder",
    "image_encoder": "image encoder",
    "vae": "VAE",
    "prompt_expander": "prompt expander",
}


@dataclass(frozen=True)
class Ended:
    """Where memory ended. stage: as events call it. kind: of the component at work, "" for none. is_own: whether
    that is the one of the run's own settings, in this process, and not of steps that it shares with another run.
    on_cpu: whether it runs there. other_device: where memory did not end, of a denoiser with a copy on two.
    num_blocks: of a denoiser. is_fixed: whether steps that are stored hang on the VAE's tiles and chunks.
    hanging_steps: how many steps are done that do and keep these, while what follows gets others."""

    stage: str
    kind: str = ""
    is_own: bool = True
    on_cpu: bool = False
    other_device: str = ""
    num_blocks: int = 0
    is_fixed: bool = False
    hanging_steps: int = 0

    @property
    def told(self) -> str:
        return f"out of memory in {stage_told(self.stage, self.kind)}"


@dataclass(frozen=True)
class Lighter:
    """name: of the step. told: how the run goes on, `with tiles of 512 pixels (approximate)`."""

    name: str
    spec: RunSpec
    told: str

    def is_other_vae(self, before: RunSpec) -> bool:
        """Whether the VAE makes other numbers than with the settings before."""
        ours, others = (replace(each.components.vae, device="") for each in (self.spec, before))
        return ours != others


def lighter(spec: RunSpec, ended: Ended, tried: Collection[str]) -> Lighter | None:
    """The next thing to try for a run of these settings. tried: the names of what was tried since it began, at this
    stage or another; None where nothing is left."""
    return next((each for each in _steps(spec, ended) if each.name not in tried), None)


class Lightening:
    """The settings of one run, as memory ends in it here and there."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._tried: set[str] = set()
        self._begun: dict[tuple[str, str], RunSpec] = {}
        self._words: dict[tuple[str, str], list[str]] = {}

    def next(
        self,
        ended: Ended,
        *,
        has_room: bool,
        is_possible: Callable[[RunSpec], bool] = lambda spec: True,
    ) -> Lighter | None:
        """The step that is to be tried now, whose settings are `spec` from here on. has_room: whether idle models have
        gone. is_possible: whether a run can have these settings. None where nothing is left; `spec` is then what it was
        when memory first ended there."""
        place = (ended.stage, ended.kind)
        self._begun.setdefault(place, self.spec)
        if not has_room:
            self._tried.add(_idle(ended))
        while (step := lighter(self.spec, ended, self._tried)) is not None:
            self._tried.add(step.name)
            if step.spec == self.spec or is_possible(step.spec):
                self._words.setdefault(place, []).append(step.told)
                self.spec = step.spec
                return step
        self.spec = self._begun[place]
        return None

    def tried(self, ended: Ended) -> Sequence[str]:
        """What was tried in vain at a stage, in words."""
        return self._words.get((ended.stage, ended.kind), ())


def stage_told(stage: str, kind: str = "") -> str:
    """What a stage is called in a sentence: `decode`, `load of the VAE`."""
    if stage == LOAD.name and kind:
        return f"{stage} of the {_COMPONENTS.get(kind, kind)}"
    return stage


def given_up(ended: Ended, tried: Collection[str], run_id: str) -> str:
    """What a run fails with where nothing is left to try. tried: what was, in words."""
    also = f", also {', '.join(tried)}" if tried else ""
    advice = "try fewer frames or a smaller size"
    if ended.stage == DECODE.name:
        advice = f"the latents are kept: close what else takes memory, and `modiff resume {run_id}`"
    elif ended.stage == LOAD.name:
        advice = "close what else takes memory, or take smaller weights"
    return f"{ended.told}{also}; {advice}"


def _steps(spec: RunSpec, ended: Ended) -> Iterator[Lighter]:
    yield Lighter(_idle(ended), spec, WITHOUT_IDLE)
    part: Any = getattr(spec.components, ended.kind, None)
    if part is None or not ended.is_own:
        return
    if ended.kind == "denoiser":
        on_one = list(_on_one_device(spec, ended.other_device))
        # nothing is loaded for it, but all steps on the CPU take longer than blocks that come
        is_dear = ended.other_device == "cpu"
        fewer = list(_with_fewer_blocks(spec, ended.num_blocks))
        yield from [*fewer, *on_one] if is_dear else [*on_one, *fewer]
        return
    if ended.kind == "vae" and ended.stage != LOAD.name and not ended.is_fixed:
        yield from _in_smaller_pieces(spec)
    if ended.kind in ("text_encoder", "image_encoder", "vae") and not ended.on_cpu:
        told = f"with the {_COMPONENTS[ended.kind]} on the CPU"
        yield Lighter(f"{ended.kind} cpu", _with(spec, ended.kind, device="cpu"), told)


def _idle(ended: Ended) -> str:
    return f"idle {ended.stage} {ended.kind}"


def _in_smaller_pieces(spec: RunSpec) -> Iterator[Lighter]:
    vae = spec.components.vae
    side = vae.tile_size or max(spec.width, spec.height)
    for tile in TILES:
        if tile < side and vae.name == "wan-vae":  # others know no tiles
            # at most half a tile
            overlap = min(vae.tile_overlap, tile // 2)
            lighter = _with(spec, "vae", tile_size=tile, tile_overlap=overlap)
            yield Lighter(f"tile {tile}", lighter, f"with tiles of {tile} pixels {APPROXIMATE}")
    frames = 1 + (spec.frames - 1) // FRAME_STEP
    for chunk in CHUNKS:
        if chunk < min(vae.chunk_frames or frames, frames):
            told = f"with {chunk} latent {'frame' if chunk == 1 else 'frames'} at a time"
            yield Lighter(f"chunk {chunk}", _with(spec, "vae", chunk_frames=chunk), told)


def _on_one_device(spec: RunSpec, device: str) -> Iterator[Lighter]:
    part = spec.components.denoiser
    # noise that is drawn where the denoiser runs would be another
    draws_elsewhere = (
        spec.noise == "wan" and device.partition(":")[0] != part.device.partition(":")[0]
    )
    if device and not draws_elsewhere:
        lighter = _with(spec, "denoiser", device=device, guidance_device="")
        yield Lighter("one device", lighter, f"with both halves of the guidance on {device}")


def _with_fewer_blocks(spec: RunSpec, num_blocks: int) -> Iterator[Lighter]:
    wanted = spec.components.denoiser.resident_blocks
    if num_blocks == 0 or wanted == "0":
        return
    half = _half(wanted, num_blocks)
    if half != "0":
        words = f"with {_blocks_told(half)} on the device at a time"
        yield Lighter("half of the blocks", _with(spec, "denoiser", resident_blocks=half), words)
    words = "with no block kept on the device"
    yield Lighter("no blocks", _with(spec, "denoiser", resident_blocks="0"), words)


def _half(wanted: str, num_blocks: int) -> str:
    if wanted.endswith("GB"):
        half = int(float(wanted.removesuffix("GB")) * 500) / 1000
        return f"{half:g}GB" if half else "0"
    stay = num_blocks if wanted in ("all", "auto") else min(int(wanted), num_blocks)
    return str(stay // 2)


def _blocks_told(wanted: str) -> str:
    if wanted.endswith("GB"):
        return f"{wanted.removesuffix('GB')} GB of its blocks"
    return "1 block" if wanted == "1" else f"{wanted} blocks"


def _with(spec: RunSpec, kind: str, **changes: Any) -> RunSpec:
    part = replace(getattr(spec.components, kind), **changes)
    return replace(spec, components=replace(spec.components, **{kind: part}))
