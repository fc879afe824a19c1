"""Where a run will write, and the refusal to write over what is there."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.output.paths import LATENTS_ENDING, default_output, output_paths, output_problem
from presets.errors import PresetError
from presets.output.formats import AUTO, choice_of_endings, named_by

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.store import Store


def check_output(store: Store, spec: RunSpec) -> None:
    """Raise PresetError for an output that a run cannot write, whose ending does not fit, that exists or soon will.

    An empty path is fine where the current folder is: it becomes a name of the run's own.
    """
    check_outputs(store, [spec])


def check_outputs(store: Store, specs: Sequence[RunSpec]) -> None:
    """As `check_output`, for all runs of a sweep, with one question to the store."""
    wanted = [(_checked_path(spec), spec.output) for spec in specs]
    new = [(path, output.kinds) for path, output in wanted if path and not output.overwrite]
    for path, kinds in new:
        for target in output_paths(path, kinds).values():
            if os.path.exists(target):
                raise PresetError(
                    f"{target} is already there; choose another name or add --overwrite",
                    key="output.path",
                )
    for taken, (run_id, status) in store.writing_to([str(path) for path, _ in new]).items():
        raise PresetError(
            f"run {run_id} ({status}) will write {taken}; choose another name or add --overwrite",
            key="output.path",
        )


def _checked_path(spec: RunSpec) -> Path | None:
    """Where a run will write, None where its path is yet to be named."""
    path = output_path(spec.output.path or default_output(spec.output), spec.output.kinds)
    if not spec.output.path:
        return None
    if problem := _ending_problem(path, spec):
        raise PresetError(f"{problem}, got {path.name}", key="output.path")
    return path


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
