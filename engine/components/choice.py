"""A run's choice of components: its files by absolute paths, and whether it can be met. Torch-free."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from engine.checkpoints.known import catalogue
from engine.checkpoints.library import scan_places
from engine.components import registry
from engine.components.descriptions import check_fit
from engine.components.needed import ModelsAbsent
from engine.components.protocols import KINDS, Description
from engine.errors import CheckpointError, ComponentError, together
from engine.extensions.registry import check as check_extensions
from engine.extensions.registry import options_of
from presets.errors import PresetError
from presets.expansion import expands
from presets.expansion import settled as settled_expansion
from presets.spec.run import RunSpec
from presets.tasks import has_pictures

Describe = Callable[[str, Any], Description]

OTHER_WAYS = (
    "`modiff models where NAME` lists other releases that would do; `modiff models add FOLDER` makes known what lies "
    "elsewhere on this machine"
)


def chosen(spec: RunSpec) -> dict[str, Any]:
    """kind -> the spec of its component, for the kinds that a run has."""
    parts = spec.components
    used = {"prompt_expander": expands(spec), "image_encoder": has_pictures(spec)}
    return {kind: getattr(parts, kind) for kind in KINDS if used.get(kind, True)}


def settle(spec: RunSpec, scan: Callable[[], Any] | None = None) -> RunSpec:
    """The same run with the files of its components named by absolute paths: names of models, relative paths and
    folders found. What is built in stays as it is.

    scan: what lies in the library's places, where one look serves several runs. Raises CheckpointError, with a line
    for each file that is not there, and ComponentError.
    """
    scan = functools.cache(scan or scan_places)
    spec = settled_expansion(spec)
    parts = chosen(spec)
    absent: list[CheckpointError] = []
    for kind, part in parts.items():
        try:
            parts[kind] = settled(kind, part, scan)
        except CheckpointError as error:
            absent.append(error)
    if absent:
        names = [part.checkpoint for part in parts.values()]
        is_known = any(catalogue.model(name) is not None for name in names)
        refused = together(absent, OTHER_WAYS if is_known else "")
        from engine.components.needed import needed

        every = needed(spec, scan())
        if any(part.release is not None for part in every):
            raise ModelsAbsent(refused, every)
        raise refused
    components = msgspec.structs.replace(spec.components, **parts)
    return msgspec.structs.replace(spec, components=components)


def settled(kind: str, part: Any, scan: Callable[[], Any]) -> Any:
    """One component's spec with absolute paths. Raises CheckpointError, ComponentError."""
    settle_part = getattr(registry.provider(kind, part.name), "settle", None)
    return part if settle_part is None else settle_part(part, scan)


def check(spec: RunSpec, describe: Describe) -> Mapping[str, Description]:
    """Refuses, before anything is queued or loaded, a run whose components, files, extensions or options do not
    exist or do not fit; returns what its components are.

    Raises ComponentError, CheckpointError or PresetError: one line naming the key.
    """
    for kind, part in chosen(spec).items():
        _check_place(kind, part)
    about = {kind: _described(describe, kind, part) for kind, part in chosen(spec).items()}
    check_fit(about)
    _check_task(spec, about["denoiser"].facts)
    check_extensions(spec.extensions, about["denoiser"].facts)
    return about


def problems(spec: RunSpec) -> list[ComponentError | PresetError]:
    """What is wrong with a run's components and extensions, whatever files there are: names that nobody here knows, and
    options of extensions."""
    found: list[ComponentError | PresetError] = []
    for kind, part in chosen(spec).items():
        try:
            registry.provider(kind, part.name)
        except ComponentError as error:
            found.append(error)
    for index, extension in enumerate(spec.extensions):
        try:
            if extension.enabled:
                options_of(extension, f"extensions[{index}]")
        except (ComponentError, PresetError) as error:
            found.append(error)
    return found


def _check_task(spec: RunSpec, facts: Mapping[str, Any]) -> None:
    """Refuses a denoiser that is not for the task."""
    checkpoint, takes = spec.components.denoiser.checkpoint, {*facts.get("takes", ())} - {"text"}
    if takes and not has_pictures(spec):
        problem = (
            f"{checkpoint} is an image-to-video model (it takes {', '.join(sorted(takes))} too); "
            f"the task {spec.task} needs one of text alone"
        )
    elif not takes and has_pictures(spec):
        problem = (
            f"{checkpoint} takes text alone; the task {spec.task} needs an image-to-video model"
        )
    elif facts.get("model_type", spec.task) != spec.task:
        problem = f"{checkpoint} is a model of the task {facts['model_type']}, not of {spec.task}"
    else:
        return
    raise ComponentError(problem, key="components.denoiser.checkpoint")


def check_can_ask(parts: Iterable[tuple[str, Any]]) -> None:
    """Refuses components, by kind and spec, that ask somebody who is not there. Raises ComponentError."""
    for kind, part in parts:
        check = getattr(registry.provider(kind, part.name), "check_can_ask", None)
        if check is not None:
            check(part)


def check_here(parts: Iterable[tuple[str, Any]]) -> None:
    """Refuses components of ours, by kind and spec, that cannot run where they are to: on devices that this machine
    has not, or as their provider finds. Raises ComponentError."""
    from engine.dtypes import torch_device

    for kind, part in parts:
        if not registry.reads_weights(kind, part.name):
            continue
        for key in ("device", "guidance_device"):
            name = getattr(part, key, "")
            try:
                torch_device(name or "cpu")
            except ComponentError as error:
                raise ComponentError(str(error), key=f"components.{kind}.{key}") from None
        check = getattr(registry.provider(kind, part.name), "check_here", None)
        if check is not None:
            check(part)


def absences(parts: Iterable[tuple[str, Any]]) -> list[str]:
    """A line for each of these components whose server could not be asked when it was described."""
    found = []
    for kind, part in parts:
        away = getattr(registry.provider(kind, part.name), "away", None)
        if away is not None and (line := away(part)):
            found.append(f"components.{kind}: {line}")
    return found


def _check_place(kind: str, part: Any) -> None:
    if part.url and registry.reads_weights(kind, part.name):
        raise ComponentError(
            f"got {part.url}, but {part.name} runs in this process; set components.{kind}.name to remote, or url to ''",
            key=f"components.{kind}.url",
        )
    beside = getattr(part, "guidance_device", "")
    if beside and not registry.reads_weights(kind, part.name):
        raise ComponentError(
            f"got {beside}, but where both halves of {part.name} run is its own affair; leave it empty",
            key=f"components.{kind}.guidance_device",
        )


def _described(describe: Describe, kind: str, part: Any) -> Description:
    try:
        return describe(kind, part)
    except CheckpointError as error:
        # what reads a file does not know which setting named it
        error.key = error.key or f"components.{kind}.checkpoint"
        raise
