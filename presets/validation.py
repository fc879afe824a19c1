"""The rules between keys: what no single annotation of `presets.spec` can say."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import msgspec

from presets.errors import PresetError
from presets.fields.checks import build
from presets.guidance import scales
from presets.output.formats import AUTO, FORMATS, MAX_SIDE, misfit
from presets.output.rules import format_of
from presets.spec.run import RunSpec
from presets.spec.sampling import GuidancePiece
from presets.spec.values import SIZE_STEP
from presets.tasks import PICTURES

# Smaller tiles are mostly overlap, and the VAE's middle attention no longer sees a picture in them.
MIN_TILE = 64


_TAKEN = {"t2v": "no picture", "i2v": "a first picture alone"}
_OTHER = {
    "image": "take a preset of image to video, such as micro-i2v or wan2.1-i2v-14b-480p, or --video for a clip to "
    "begin from",
    "last_image": "take a preset of first and last frame to video, such as micro-flf2v or wan2.1-flf2v-14b",
}


def validate(spec: RunSpec) -> RunSpec:
    """`spec` with its values checked and normalised (an integer guidance scale becomes a float).

    Raises `PresetError` naming the key. Needed for specs built in Python, where nothing is
    checked on the way.
    """
    spec = build(to_plain(spec), type(spec))
    _check_task(spec)
    _check_sigmas(spec)
    _check_grid(spec)
    _check_guidance(spec)
    _check_tiles(spec)
    _check_kinds(spec)
    _check_scale(spec)
    _check_format(spec)
    return spec


def to_plain(value: object) -> Any:
    """Structs as dicts and tuples as lists, everything else as it is.

    `msgspec.to_builtins` would turn bytes and dates into text, and so make a wrong type look right.
    """
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        plain = {encoded: to_plain(getattr(value, name)) for name, encoded in names}
        config = value.__struct_config__
        return plain if config.tag_field is None else {config.tag_field: config.tag, **plain}
    if isinstance(value, dict):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value


def _check_task(spec: RunSpec) -> None:
    """What is given must be what the task takes. That nothing is given is no fault of a preset: a run refuses it."""
    given = {"image": spec.image.path, "last_image": spec.last_image.path}
    for name, path in given.items():
        if path and name not in PICTURES[spec.task]:
            raise PresetError(
                f"the task {spec.task} takes {_TAKEN[spec.task]}, got {path}; {_OTHER[name]}",
                key=f"{name}.path",
            )
    for name, size in (("width", spec.width), ("height", spec.height)):
        if not size and not PICTURES[spec.task] and not spec.video.path:
            raise PresetError(
                f"expected at least {SIZE_STEP} pixels, got 0, which leaves the size to a picture or clip",
                key=name,
            )


def _check_sigmas(spec: RunSpec) -> None:
    sigmas = spec.scheduler.sigmas
    for i, (before, after) in enumerate(pairwise(sigmas)):
        # the solvers hold sigmas in float32, where close neighbours become equal
        if _float32(after) >= _float32(before):
            raise PresetError(
                f"expected descending values, got {after} at position {i + 2} after {before}",
                key="scheduler.sigmas",
            )
    if sigmas and spec.scheduler.steps != len(sigmas):
        raise PresetError(
            f"expected {len(sigmas)}, the number of scheduler.sigmas, got {spec.scheduler.steps}; "
            "set scheduler.sigmas to [] to choose the steps freely",
            key="scheduler.steps",
        )


def _float32(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _check_grid(spec: RunSpec) -> None:
    scheduler = spec.scheduler
    if scheduler.name == "euler" and scheduler.grid == "diffusers" and not scheduler.sigmas:
        raise PresetError(
            'expected "wan" with euler, got "diffusers", which has no Euler grid of its own; '
            "choose another solver or give scheduler.sigmas",
            key="scheduler.grid",
        )


def _check_guidance(spec: RunSpec) -> None:
    scales(spec.guidance, spec.scheduler.steps)
    listed = spec.guidance.scale if isinstance(spec.guidance.scale, tuple) else ()
    pieces = [(i, piece) for i, piece in enumerate(listed) if isinstance(piece, GuidancePiece)]
    for i, piece in pieces:
        if piece.start >= piece.stop:
            raise PresetError(
                f"expected more than {piece.start}, where the piece begins, got {piece.stop}",
                key=f"guidance.scale[{i}].to",
            )
    pieces.sort(key=lambda each: each[1].start)
    for (i, before), (j, after) in pairwise(pieces):
        if after.start < before.stop:
            first, second = sorted((i, j))
            raise PresetError(
                f"overlaps guidance.scale[{first}]: they are from {before.start} to {before.stop} "
                f"and from {after.start} to {after.stop}",
                key=f"guidance.scale[{second}]",
            )


def _check_tiles(spec: RunSpec) -> None:
    vae = spec.components.vae
    if not vae.tile_size:
        return
    if vae.tile_size < MIN_TILE:
        raise PresetError(
            f"expected 0 (no tiles) or at least {MIN_TILE} pixels, got {vae.tile_size}",
            key="components.vae.tile_size",
        )
    if vae.tile_overlap > vae.tile_size // 2:
        raise PresetError(
            f"expected at most {vae.tile_size // 16 * 8}, half of components.vae.tile_size "
            f"{vae.tile_size}, got {vae.tile_overlap}",
            key="components.vae.tile_overlap",
        )


def _check_kinds(spec: RunSpec) -> None:
    kinds = spec.output.kinds
    if len(set(kinds)) != len(kinds):
        raise PresetError(f"expected each kind once, got {', '.join(kinds)}", key="output.kinds")


def _check_scale(spec: RunSpec) -> None:
    side, scale = max(spec.width, spec.height), spec.output.scale
    if side and side * scale > MAX_SIDE and set(spec.output.kinds) - {"latents"}:
        raise PresetError(
            f"expected at most {MAX_SIDE // side}, as {side} pixels become {MAX_SIDE} at most, got {scale}",
            key="output.scale",
        )


def _check_format(spec: RunSpec) -> None:
    output = spec.output
    if "video" not in output.kinds:
        return
    if output.format != AUTO and (problem := misfit(output.format, output.path)):
        raise PresetError(problem, key="output.format")
    name = format_of(output)
    if spec.fps > FORMATS[name].max_fps:
        raise PresetError(
            f"expected at most {FORMATS[name].max_fps} in a {name}, got {spec.fps}; take webp or webm",
            key="fps",
        )
    least, width = FORMATS[name].min_width, spec.width * output.scale
    if spec.width and width < least:
        raise PresetError(
            f"{name} needs frames of at least {least} pixels in width, got {width}; take another format, or "
            f"output.scale={-(-least // spec.width)}",
            key="output.format",
        )
