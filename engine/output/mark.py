"""What a file says of the run that wrote it: id, latents and settings, as one line of JSON. Torch-free.

It travels with the file to other people, so that it holds no path of this machine, no address and no output of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from engine.checkpoints.known.catalogue import MODELS, is_published_name
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.output.rules import moved
from presets.spec.run import RunSpec
from store.bundle.portable import portable_preset, portable_spec

if TYPE_CHECKING:
    from store.lineage.records import RunRecord

VERSION = 1
# What the video of a run is marked with in the store, where it belongs to every run of these latents.
_LATENTS = re.compile(r"modiff (sha256:[0-9a-f]{64})")
_BEGIN = '{"modiff":'
_RUN = re.compile(r"[a-z0-9]{1,32}")


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    modiff: int
    run: str
    latents: str
    preset: str
    settings: dict[str, Any]
    branched: list[int] = []


@dataclass(frozen=True, slots=True)
class Mark:
    """run: its id, "" where the file says only from which latents it was decoded. preset: where its settings came from,
    "" for none. settings: those of a RunSpec, None where they did not travel. branched: the steps up to which other
    settings held, which did not travel either."""

    run: str
    latents: str
    preset: str = ""
    settings: dict[str, Any] | None = None
    branched: tuple[int, ...] = ()

    def spec(self) -> RunSpec:
        """The settings as a run. Raises PresetError where there are none, or for what this version does not know."""
        if self.settings is None:
            raise PresetError("the settings of the run did not travel with this file")
        return decode_spec(msgspec.json.encode(self.settings))


def mark_of(run: RunRecord, spec: RunSpec, latents: str) -> str:
    """latents: the digest of those that the run ended with."""
    spec = msgspec.structs.replace(_named(spec), output=moved(spec.output, ""))
    settings = msgspec.json.decode(portable_spec(encode_spec(spec).decode()))
    told = {
        "modiff": VERSION,
        "run": run.id,
        "latents": latents,
        "preset": portable_preset(run.preset),
        "settings": settings,
    }
    if run.segments:
        told["branched"] = [segment.stop for segment in run.segments]
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def read_mark(comment: str) -> Mark | None:
    """What a comment says; None for one that is not modiff's. Raises PresetError, in one line, for one that begins as
    modiff's and cannot be read."""
    if latents := _LATENTS.fullmatch(comment):
        return Mark("", latents[1])
    if not comment.startswith(_BEGIN):
        return None
    try:
        data = msgspec.json.decode(comment)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise PresetError(f"its mark of modiff is damaged ({error})") from None
    version = data.get("modiff") if isinstance(data, dict) else None
    if type(version) is int and version > VERSION:
        raise PresetError(
            f"its mark of modiff is of version {version}, newer than {VERSION}; update modiff"
        )
    try:
        told = msgspec.convert(data, _Written)
    except (msgspec.ValidationError, RecursionError) as error:
        raise PresetError(f"its mark of modiff is damaged ({error})") from None
    latents = _LATENTS.fullmatch(f"modiff {told.latents}")
    if not _RUN.fullmatch(told.run) or (told.latents and latents is None):
        raise PresetError("its mark of modiff is damaged (run or latents is no id)")
    return Mark(told.run, told.latents, told.preset, told.settings, tuple(told.branched))


def _named(spec: RunSpec) -> RunSpec:
    """With the names of published models in the place of the files that they were found in; portable_spec makes
    names of all others."""
    parts = spec.components
    encoder = parts.text_encoder
    return msgspec.structs.replace(
        spec,
        components=msgspec.structs.replace(
            parts,
            text_encoder=msgspec.structs.replace(
                encoder,
                checkpoint=_model("text_encoder", encoder.checkpoint),
                tokenizer=_model("tokenizer", encoder.tokenizer),
            ),
            image_encoder=msgspec.structs.replace(
                parts.image_encoder,
                checkpoint=_model("image_encoder", parts.image_encoder.checkpoint),
            ),
            denoiser=msgspec.structs.replace(
                parts.denoiser, checkpoint=_model("denoiser", parts.denoiser.checkpoint)
            ),
            vae=msgspec.structs.replace(parts.vae, checkpoint=_model("vae", parts.vae.checkpoint)),
        ),
    )


def _model(kind: str, checkpoint: str) -> str:
    path = PurePath(checkpoint)
    if not path.is_absolute():
        return checkpoint
    models = (model for model in MODELS if model.kind == kind)
    return next((model.name for model in models if is_published_name(model, path)), checkpoint)
