"""Which components exist, by kind and name, and whether a run's choice of them can be met.

Built-in ones are rows of a table; a third-party package adds one through the entry-point group
`modiff.components`, with the entry named `kind.name`. Finding and checking import no component: torch-free.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import msgspec

from engine.checkpoints.header import TensorInfo, read_header
from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.component import KINDS
from engine.errors import CheckpointError, ComponentError
from presets.spec import RunSpec

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


def load(kind: str, spec: Any) -> Any:
    """The component that a spec of that kind names, built. Raises ComponentError or CheckpointError."""
    path = _import_path(kind, spec.name)
    module, _, attribute = path.partition(":")
    try:
        build: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ComponentError(f"the {kind} {spec.name!r} cannot be imported: {error}") from error
    return build(spec)


def check(spec: RunSpec) -> None:
    """Refuses, before anything is queued or loaded, a run whose components, files or options do not exist.

    Raises ComponentError or CheckpointError: one line naming the key.
    """
    headers = {}
    for kind in KINDS:
        part = getattr(spec.components, kind)
        path = _import_path(kind, part.name)
        if path != _BUILTIN.get((kind, part.name)):
            continue  # a third-party component checks its own options when it is built
        headers[kind] = read_header(locate(kind, part.checkpoint))
    _check_fit(headers)
    encoder = spec.components.text_encoder
    if encoder.name == "umt5":
        locate("tokenizer", tokenizer_of(encoder.checkpoint, encoder.tokenizer))
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


def with_absolute_paths(spec: RunSpec) -> RunSpec:
    """The same run with the files of its built-in components named by absolute paths.

    What is empty or built in stays as it is. Raises CheckpointError where a file is absent.
    """
    parts = {}
    for kind in KINDS:
        part = getattr(spec.components, kind)
        if (kind, part.name) not in _BUILTIN:
            continue
        files_of = {"checkpoint": kind}
        if kind == "text_encoder":
            files_of["tokenizer"] = "tokenizer"
        found = {
            field: str(locate(file, value).absolute())
            for field, file in files_of.items()
            if (value := getattr(part, field)) not in ("", BUILTIN_MICRO)
        }
        parts[kind] = msgspec.structs.replace(part, **found)
    components = msgspec.structs.replace(spec.components, **parts)
    return msgspec.structs.replace(spec, components=components)


# kind -> what it says about a width, as (width, the tensors that have it, the axis); the first one present counts
_WIDTHS = {
    "text_encoder": (("text", ("token_embedding.weight", "shared.weight"), 1),),
    "denoiser": (
        ("text", ("text_embedding.0.weight",), 1),
        ("latent", ("patch_embedding.weight",), 1),
    ),
    "vae": (("latent", ("conv2.weight",), 0),),
}


def _check_fit(headers: Mapping[str, Mapping[str, TensorInfo]]) -> None:
    """Refuses components whose files cannot work together, however well each of them loads."""
    seen: dict[str, tuple[str, int]] = {}
    for kind, header in headers.items():
        for width, names, axis in _WIDTHS[kind]:
            tensor = next((header[name] for name in names if name in header), None)
            if tensor is None or len(tensor.shape) <= axis:
                continue  # loading will name what is wrong with the file itself
            other, size = seen.setdefault(width, (kind, tensor.shape[axis]))
            if tensor.shape[axis] != size:
                raise ComponentError(
                    f"components.{kind}.checkpoint: its {width} width is {tensor.shape[axis]}, but that of "
                    f"components.{other}.checkpoint is {size}; choose files of one model for text to video"
                )


def files(kind: str, spec: Any) -> tuple[Path, ...]:
    """The files that a built-in component of that kind is made of, none for a third-party one.

    Raises CheckpointError where one is absent.
    """
    if (kind, spec.name) not in _BUILTIN:
        return ()
    path = locate(kind, spec.checkpoint)
    if kind == "denoiser":
        config = path.with_name("config.json")
        return (path, config) if config.is_file() else (path,)
    if kind == "text_encoder":
        return (path, locate("tokenizer", tokenizer_of(spec.checkpoint, spec.tokenizer)))
    return (path,)


def tokenizer_of(checkpoint: str, tokenizer: str) -> str:
    """The tokenizer to use: the given one, or the micro model's own."""
    if not tokenizer and checkpoint == BUILTIN_MICRO:
        return BUILTIN_MICRO
    if not tokenizer:
        raise CheckpointError(
            "components.text_encoder.tokenizer is empty; set it to the tokenizer.json of google/umt5-xxl"
        )
    return tokenizer


def _import_path(kind: str, name: str) -> str:
    table = components()
    if (kind, name) not in table:
        known = ", ".join(sorted(n for k, n in table if k == kind))
        raise ComponentError(f"components.{kind}.name: unknown {name!r}; known: {known}")
    return table[kind, name]
