"""What a run made, and its files. Torch-free to import."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.output import media
from engine.output.marking import marked
from engine.output.paths import output_paths
from presets.spec.run import RunSpec
from store.blobs import blobs


@dataclass(frozen=True)
class RunOutputs:
    """What a run made. video: bytes of a video file; latents: bytes of a safetensors file; frames: uint8 [T,H,W,3].
    mark: for the frames; that of the others is in their bytes."""

    video: bytes | bytearray | None = None
    latents: bytes | bytearray | None = None
    frames: Any = None
    mark: str = ""

    def marked(self, mark: str, warn: Callable[[str], None]) -> RunOutputs:
        """The same, with what is to be said of the run in each file."""
        parts = {"video": self.video, "latents": self.latents}
        found = {kind: data for kind, data in parts.items() if data is not None}
        return RunOutputs(**marked(found, mark, warn), frames=self.frames, mark=mark)

    def is_at(self, kind: str, path: Path) -> bool:
        """Whether the file is there already, as this run leaves it that is ended after it was written."""
        data = {"video": self.video, "latents": self.latents}.get(kind)
        return data is not None and path.is_file() and path.read_bytes() == data

    def write(self, path: Path, spec: RunSpec, replaced: Collection[Path]) -> str:
        """Writes the files of the run and returns the path of the main one. replaced: those that may be there
        already; raises FileExistsError where another one is."""
        targets = output_paths(path, spec.output.kinds)
        may = {kind: target in replaced for kind, target in targets.items()}
        if "video" in targets and self.video is not None:
            media.write_bytes(targets["video"], self.video, replaces=may["video"])
        if "frames" in targets and self.frames is not None:
            media.write_frames(
                targets["frames"],
                self.frames,
                replaces=may["frames"],
                scale=(spec.output.scale, spec.output.resample),
                comment=self.mark,
            )
        if "latents" in targets and self.latents is not None:
            media.write_bytes(targets["latents"], self.latents, replaces=may["latents"])
        return str(next(iter(targets.values())))


def written(
    path: Path,
    spec: RunSpec,
    run_id: str,
    made: RunOutputs,
    earlier: Collection[str],
    warn: Callable[[str], None],
) -> str:
    """Writes the outputs, beside those of somebody else that took the name in the meantime; returns the main path.

    earlier: digests of what the run wrote there before, when it was to stop early.
    """
    targets = output_paths(path, spec.output.kinds)
    present = [target for target in targets.values() if target.exists()]
    taken = (
        []
        if spec.output.overwrite
        else [
            target
            for kind, target in targets.items()
            if target in present
            and not made.is_at(kind, target)
            and not _is_one_of(target, earlier)
        ]
    )
    if not taken:
        try:
            # What nobody had when we looked, somebody may have by now.
            return made.write(path, spec, targets.values() if spec.output.overwrite else present)
        except FileExistsError as error:
            taken = [Path(error.filename2 or error.filename)]
    free = path.with_stem(f"{path.stem}-{run_id}")
    warn(f"{taken[0]} appeared during the run; writing {free}")
    return made.write(free, spec, output_paths(free, spec.output.kinds).values())


def _is_one_of(path: Path, digests: Collection[str]) -> bool:
    return bool(digests) and path.is_file() and blobs.digest_of(path.read_bytes()) in digests
