"""Where a run will write, and the refusal to write over what is there."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from engine.output.paths import LATENTS_ENDING, default_output, output_paths, output_problem
from presets.errors import PresetError
from presets.formats import AUTO, choice_of_endings, named_by

if TYPE_CHECKING:
    from presets.spec import RunSpec
    from store.store import Store


def check_output(store: Store, spec: RunSpec) -> None:
    """Raise PresetError for an output that a run cannot write, whose ending does not fit, that exists or soon will.

    An empty path is fine where the current folder is: it becomes a name of the run's own.
    """
    path = output_path(spec.output.path or default_output(spec.output), spec.output.kinds)
    if not spec.output.path:
        return
    if problem := _ending_problem(path, spec):
        raise PresetError(f"{problem}, got {path.name}", key="output.path")
    if not spec.output.overwrite:
        _refuse_taken(store, path, spec.output.kinds)


def output_path(output: str, kinds: Collection[str]) -> Path:
    """The absolute path of an output, in a folder that can take it. Raises PresetError."""
    try:
        path = Path(output).expanduser().absolute()
    except RuntimeError as error:  # a home directory that cannot be told, such as ~nobody-here
        raise PresetError(f"{output}: {error}", key="output.path") from None
    if problem := output_problem(path, kinds):
        raise PresetError(problem, key="output.path")
    return path


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
