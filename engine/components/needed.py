"""The models that a run needs: which are here, and what the others are published as. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.checkpoints.known import catalogue
from engine.checkpoints.library import Found, absence, find, look, notes, target_of
from engine.checkpoints.locate import locate
from engine.components.providers.umt5 import tokenizer_file
from engine.components.registry import reads_weights
from engine.errors import CheckpointError
from presets.tasks import has_pictures

if TYPE_CHECKING:
    from engine.checkpoints.known.catalogue import Release
    from presets.spec.components import Components
    from presets.spec.run import RunSpec


@dataclass(frozen=True, slots=True)
class Needed:
    """A model that a run needs.

    kind: the component, or `tokenizer`. name: as the run calls it, a name of the catalogue or a path. found: what will
    do, the one that is used first. Where there is none, `absence` says so in one line; release, target: what is
    published and the folder that it goes into, None for a path; notes: a line each for what is here and cannot be
    used, as a download that was not finished.
    """

    kind: str
    name: str
    found: tuple[Found, ...] = ()
    absence: str = ""
    release: Release | None = None
    target: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The setting that names it."""
        return "text_encoder.tokenizer" if self.kind == "tokenizer" else f"{self.kind}.checkpoint"


def needed(spec: RunSpec, among: Sequence[Found]) -> list[Needed]:
    """Every model of a run that is read here, absent or not. among: as of `library.scan_places`."""
    found, components = [], spec.components
    pictures = ("image_encoder",) if has_pictures(spec) else ()
    for kind in ("text_encoder", *pictures, "denoiser", "vae"):
        part = getattr(components, kind)
        if not reads_weights(kind, part.name):
            continue  # they are where it runs
        found.append(named(kind, part.checkpoint, among))
        if kind == "text_encoder":
            found.append(_tokenizer(components, among))
    return found


def named(kind: str, checkpoint: str, among: Sequence[Found]) -> Needed:
    """A model by what a run calls it."""
    if catalogue.model(checkpoint, kind) is None:
        return _at(Needed(kind, checkpoint), lambda: locate(kind, checkpoint))
    if found := find(kind, checkpoint, among):
        return Needed(kind, checkpoint, tuple(found))
    return _published(kind, checkpoint, among)


def _tokenizer(components: Components, among: Sequence[Found]) -> Needed:
    encoder = components.text_encoder
    part = Needed("tokenizer", encoder.tokenizer or encoder.checkpoint)
    part = _at(part, lambda: tokenizer_file(encoder, lambda: among))
    if part.found:
        return part
    name = encoder.tokenizer or "umt5-xxl"
    is_named = catalogue.model(name, "tokenizer") is not None
    return replace(_published("tokenizer", name, among), name=part.name) if is_named else part


def _at(part: Needed, locate: Callable[[], Path]) -> Needed:
    try:
        found = look(locate())
    except CheckpointError as error:
        return replace(part, absence=str(error))
    return replace(part, absence=found.error) if found.error else replace(part, found=(found,))


def _published(kind: str, name: str, among: Sequence[Found]) -> Needed:
    model = catalogue.model(name, kind)
    assert model is not None
    release = model.releases[0]
    line = absence(kind, name, among)
    told = notes(model, among)
    return Needed(kind, name, (), line, release, target_of(release), tuple(told))


class ModelsAbsent(CheckpointError):
    """Models that a run names are published, and not on this machine. needed: every model of the run."""

    def __init__(self, refused: CheckpointError, needed: Sequence[Needed]) -> None:
        super().__init__(str(refused), parts=refused.parts)
        self.key = refused.key
        self.needed = tuple(needed)
