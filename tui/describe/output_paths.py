"""Where a run will write, and the refusal to write over what is there."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.outputs import output_paths
from presets.errors import PresetError

if TYPE_CHECKING:
    from presets.spec import RunSpec
    from store.store import Store


def check_outputs(store: Store, specs: Sequence[RunSpec]) -> None:
    """Raise PresetError for an ending that does not fit, and for an output that exists or soon will.

    Whether the folder is there and can be written is for `engine.client.submit` to say. An empty
    path is fine: it becomes a name of the run's own.
    """
    wanted = [each for spec in specs if (each := _checked_path(spec)) and not spec.output.overwrite]
    for path, kinds in wanted:
        for target in output_paths(path, kinds).values():
            if os.path.exists(target):
                raise PresetError(
                    f"{target} is already there; choose another name or add --overwrite",
                    key="output.path",
                )
    # one question for all runs of a sweep
    for taken, (run_id, status) in store.writing_to([str(path) for path, _ in wanted]).items():
        raise PresetError(
            f"run {run_id} ({status}) will write {taken}; choose another name or add --overwrite",
            key="output.path",
        )


def check_output(store: Store, spec: RunSpec) -> None:
    """As `check_outputs`, for one run."""
    check_outputs(store, [spec])


def _checked_path(spec: RunSpec) -> tuple[Path, Collection[str]] | None:
    """Where a run will write, and what; None where that is for `submit` to refuse or to name."""
    if not spec.output.path:
        return None
    try:
        path = Path(spec.output.path).expanduser().absolute()
    except RuntimeError:
        return None
    if os.path.isdir(path) and "video" in spec.output.kinds:
        return None
    suffix = {"video": ".mp4", "latents": ".safetensors"}.get(
        next((kind for kind in ("video", "latents") if kind in spec.output.kinds), ""), ""
    )
    if not suffix and path.suffix:
        raise PresetError(
            f"expected the name of a folder for the frames, got {path.name}", key="output.path"
        )
    if suffix and path.suffix.lower() != suffix:
        raise PresetError(
            f"expected a name that ends in {suffix}, got {path.name}", key="output.path"
        )
    return path, spec.output.kinds
