"""The output of a run, when its path or its format changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from presets.output.formats import AUTO, DEFAULT, misfit, named_by

if TYPE_CHECKING:
    from presets.spec.output import OutputSpec
    from presets.spec.run import RunSpec


def format_of(output: OutputSpec) -> str:
    """The name of the format of an output's video."""
    return (named_by(output.path) or DEFAULT) if output.format == AUTO else output.format


def moved(output: OutputSpec, path: str) -> OutputSpec:
    """An output at another path, "" for one that is named later; it keeps its format unless that path names another."""
    name = format_of(output)
    if path:
        name = AUTO if output.format == AUTO or misfit(name, path) else name
    return structs.replace(output, path=path, format=AUTO if name == DEFAULT else name)


def without_place(spec: RunSpec) -> RunSpec:
    """The settings of a run that has its output already, for another one, which writes elsewhere in the same format."""
    return structs.replace(spec, output=structs.replace(moved(spec.output, ""), overwrite=False))


def of_branch(before: OutputSpec, after: OutputSpec, path: str = "") -> OutputSpec:
    """The output of a branch. before: its parent's; after: what its settings make of that; path: one that was given.
    It never takes its parent's path, and has its parent's format where nothing names another."""
    if not path and after.path != before.path:
        return after
    if after.format != before.format:
        return structs.replace(after, path=path)
    return moved(after, path)
