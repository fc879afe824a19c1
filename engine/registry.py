"""Which components exist, by kind and name, and whether a run's choice of them can be met.

Built-in ones are rows of a table; a third-party package adds one through the entry-point group
`modiff.components`, with the entry named `kind.name`. Finding and checking import no component: torch-free.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from engine.checkpoints.known import catalogue
from engine.checkpoints.known.recognise import describe, recognise
from engine.checkpoints.layout import Entry, Layout, lay_out
from engine.checkpoints.library import Found, scan_places
from engine.checkpoints.locate import BUILTIN_MICRO, locate, tokenizer_beside
from engine.checkpoints.source import open_source
from engine.component import KINDS
from engine.errors import CheckpointError, ComponentError
from presets.spec import RunSpec, TextEncoderSpec

ENTRY_POINT_GROUP = "modiff.components"

# (kind, name) -> "module:function" where function(spec of that kind) gives the component
_BUILTIN = {
    ("text_encoder", "umt5"): "engine.local:load_text_encoder",
    ("denoiser", "wan-dit"): "engine.local:load_denoiser",
    ("vae", "wan-vae"): "engine.local:load_vae",
}

# the names of engine.models.attention.BACKENDS, repeated here because that module imports torch
ATTENTION_BACKENDS = ("plain", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sage")


def components() -> dict[tuple[str, str], str]:
    """(kind, name) -> import path of every known component; imports none of them.

    Raises ComponentError where two packages claim one name, or an entry's name is malformed.
    """
    table = dict(_BUILTIN)
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        kind, _, name = entry.name.partition(".")
        owner = entry.dist.name if entry.dist else entry.value
        if kind not in KINDS or not name:
            raise ComponentError(
                f"{owner}: entry point {entry.name!r} should be named kind.name, with a kind of "
                f"{', '.join(KINDS)}"
            )
        if (kind, name) in table:
            raise ComponentError(
                f"{owner} adds the {kind} {name!r}, which {table[kind, name]} provides already; "
                "remove one of the two packages"
            )
        table[kind, name] = entry.value
    return table


def is_builtin(kind: str, name: str) -> bool:
    """Whether a component is one of ours, which are described by their files."""
    return (kind, name) in _BUILTIN


def load(kind: str, spec: Any) -> Any:
    """The component that a spec of that kind names, built. Raises ComponentError or CheckpointError."""
    path = _import_path(components(), kind, spec.name)
    module, _, attribute = path.partition(":")
    try:
        build: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ComponentError(f"the {kind} {spec.name!r} cannot be imported: {error}") from error
    return build(spec)


def settle(spec: RunSpec) -> RunSpec:
    """The same run with the files of its built-in components named by absolute paths: names of models, relative
    paths and folders found, and a text encoder's tokenizer with it. What is built in stays as it is.

    Raises CheckpointError, with a line for each file that is not there.
    """
    parts = {}
    absent: list[str] = []
    scan = functools.cache(scan_places)
    for kind in KINDS:
        part = getattr(spec.components, kind)
        if (kind, part.name) not in _BUILTIN:
            continue
        try:
            found = locate(kind, part.checkpoint, scan)
        except CheckpointError as error:
            absent.append(str(error))
        else:
            part = msgspec.structs.replace(part, checkpoint=_absolute(part.checkpoint, found))
        if kind == "text_encoder" and BUILTIN_MICRO not in (
            part.tokenizer,
            part.tokenizer or part.checkpoint,
        ):
            try:
                file = tokenizer_file(part, scan)
            except CheckpointError as error:
                absent.append(str(error))
            else:
                part = msgspec.structs.replace(part, tokenizer=str(file.absolute()))
        parts[kind] = part
    if absent:
        if any(catalogue.model(name) is not None for name in _names(spec)):
            absent.append(
                "`modiff models where NAME` lists other releases that would do; `modiff models add FOLDER` makes "
                "known what lies elsewhere on this machine"
            )
        raise CheckpointError("\n".join(absent))
    components = msgspec.structs.replace(spec.components, **parts)
    return msgspec.structs.replace(spec, components=components)


def check(spec: RunSpec) -> None:
    """Refuses, before anything is queued or loaded, a run whose components, files or options do not exist.

    Raises ComponentError or CheckpointError: one line naming the key.
    """
    layouts = {}
    table = components()  # it reads what every installed package says of itself
    for kind in KINDS:
        part = getattr(spec.components, kind)
        path = _import_path(table, kind, part.name)
        if path != _BUILTIN.get((kind, part.name)):
            continue  # a third-party component checks its own options when it is built
        layouts[kind] = _checked_layout(kind, locate(kind, part.checkpoint))
    _check_fit({kind: layout.entries for kind, layout in layouts.items()})
    encoder = spec.components.text_encoder
    if encoder.name == "umt5":
        tokenizer_file(encoder)
    attention = spec.components.denoiser.attention
    if attention not in ATTENTION_BACKENDS:
        raise ComponentError(
            f"components.denoiser.attention: unknown backend {attention!r}; known: "
            f"{', '.join(ATTENTION_BACKENDS)}"
        )
    if attention == "sage" and importlib.util.find_spec("sageattention") is None:
        raise ComponentError(
            "components.denoiser.attention: 'sage' needs the package sageattention; "
            "pip install 'modiff[sage]' on a CUDA machine, or choose sdpa"
        )
    if spec.extensions:
        raise ComponentError(
            f"extensions: unknown extension {spec.extensions[0].name!r}; none is installed"
        )


def _checked_layout(kind: str, path: Path) -> Layout:
    """The layout of a component's weights; refuses what is not this component, or not whole, from the headers."""
    source = open_source(path)
    layout = lay_out(source)
    found = recognise(source, layout)
    wanted = kind.replace("_", " ")
    if found.component != kind:
        what = found.component.replace("_", " ")
        told = (
            f"not a {wanted} ({found.note})"
            if what == "unknown"
            else f"a {what} ({found.variant or found.note})"
        )
        raise CheckpointError(
            f"components.{kind}.checkpoint: {path} is {told}; choose the file of a {wanted}"
        )
    if not found.supported:
        faults = describe(found.missing, found.unexpected, found.misshapen) or found.note
        raise CheckpointError(
            f"components.{kind}.checkpoint: {path} cannot be used as {found.variant or kind}: {faults}"
        )
    return layout


# kind -> what it says about a width, as (width, the tensor that has it, the axis)
_WIDTHS = {
    "text_encoder": (("text", "token_embedding.weight", 1),),
    "denoiser": (("text", "text_embedding.0.weight", 1), ("latent", "patch_embedding.weight", 1)),
    "vae": (("latent", "conv2.weight", 0),),
}


def _check_fit(entries: Mapping[str, Mapping[str, Entry]]) -> None:
    """Refuses components whose files cannot work together, however well each of them loads."""
    seen: dict[str, tuple[str, int]] = {}
    for kind, held in entries.items():
        for width, name, axis in _WIDTHS[kind]:
            size = held[name].shape[axis]
            other, expected = seen.setdefault(width, (kind, size))
            if size != expected:
                raise ComponentError(
                    f"components.{kind}.checkpoint: its {width} width is {size}, but that of "
                    f"components.{other}.checkpoint is {expected}; choose files of one model for text to video"
                )


def files(kind: str, spec: Any) -> tuple[Path, ...]:
    """The files that a built-in component of that kind is made of, none for a third-party one.

    Raises CheckpointError where one is absent.
    """
    if (kind, spec.name) not in _BUILTIN:
        return ()
    source = open_source(locate(kind, spec.checkpoint))
    if kind == "denoiser" and source.config_file is not None:
        return (*source.files, source.config_file)
    if kind == "text_encoder":
        return (*source.files, tokenizer_file(spec))
    return source.files


def tokenizer_file(
    spec: TextEncoderSpec, scan: Callable[[], Sequence[Found]] | None = None
) -> Path:
    """The tokenizer.json of a text encoder: the given one, the one that lies with its weights, or the library's.

    scan: as for `locate`. Raises CheckpointError where there is none.
    """
    if spec.tokenizer:
        return locate("tokenizer", spec.tokenizer, scan)
    if spec.checkpoint == BUILTIN_MICRO:
        return locate("tokenizer", BUILTIN_MICRO)
    is_path = catalogue.model(spec.checkpoint, "text_encoder") is None
    beside = tokenizer_beside(locate("text_encoder", spec.checkpoint)) if is_path else None
    return beside or locate("tokenizer", "umt5-xxl", scan)


def _names(spec: RunSpec) -> list[str]:
    """What a run calls its weights."""
    return [getattr(spec.components, kind).checkpoint for kind in KINDS]


def _absolute(given: str, found: Path) -> str:
    return given if given == BUILTIN_MICRO else str(found.absolute())


def _import_path(table: Mapping[tuple[str, str], str], kind: str, name: str) -> str:
    if (kind, name) not in table:
        known = ", ".join(sorted(n for k, n in table if k == kind))
        raise ComponentError(f"components.{kind}.name: unknown {name!r}; known: {known}")
    return table[kind, name]
