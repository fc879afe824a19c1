"""Where a run will write, and the refusal to write over what is there."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from engine.output.paths import LATENTS_ENDING, output_paths
from presets.errors import PresetError
from presets.formats import AUTO, choice_of_endings, named_by

if TYPE_CHECKING:
    from presets.spec import RunSpec
    from store.store import Store


def check_output(store: Store, spec: RunSpec) -> None:
    """Raise PresetError for an ending that does not fit, and for an output that exists or soon will.

    Whether the folder is there and can be written is for `engine.client.submit` to say. An empty
    path is fine: it becomes a name of the run's own.
    """
    if not spec.output.path:
        return
    try:
        path = Path(spec.output.path).expanduser().absolute()
    except RuntimeError:
        return  # submit refuses it
    if os.path.isdir(path) and "video" in spec.output.kinds:
        return  # submit refuses it
    if problem := _ending_problem(path, spec):
        raise PresetError(f"{problem}, got {path.name}", key="output.path")
    if not spec.output.overwrite:
        _refuse_taken(store, path, spec.output.kinds)


def _ending_problem(path: Path, spec: RunSpec) -> str:
    """What was expected where the ending of a path does not fit what is written; "" where it does."""
    kinds = spec.output.kinds
    if "video" in kinds:
        # a format that is named is held to its own ending (presets.validation)
        fits = spec.output.format != AUTO or bool(named_by(path.name))
        return "" if fits else f"expected a name that ends in {choice_of_endings()}"
    if "latents" in kinds:
        fits = path.suffix.lower() == LATENTS_ENDING
        return "" if fits else f"expected a name that ends in {LATENTS_ENDING}"
    return "expected the name of a folder for the frames" if path.suffix else ""


def _refuse_taken(store: Store, path: Path, kinds: Collection[str]) -> None:
    for target in output_paths(path, kinds).values():
        if os.path.exists(target):
            raise PresetError(
                f"{target} is already there; choose another name or add --overwrite",
                key="output.path",
            )
    for status in ("queued", "running"):
        for other in store.runs(limit=1000, status=status):
            if other.output == str(path):
                raise PresetError(
                    f"run {other.id} ({status}) will write {path}; choose another name or add "
                    "--overwrite",
                    key="output.path",
                )
