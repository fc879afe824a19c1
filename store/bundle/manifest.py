"""What a bundle says of itself: its manifest, which is read as the words of a stranger.

Specs, facts and environments are JSON texts inside it, as the store has them, so that nothing in the
manifest has a shape of its own. Whatever is not exactly as written here is refused whole.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from store.bundle.portable import portable_json, portable_preset, portable_spec, portable_text
from store.bundle.strict import BundleRefused, first_twin, strict_object
from store.lineage.records import FINAL_STATUSES, MAX_RATING, SOURCES
from store.lineage.runs import MAX_NOTE

# The version of the bundle format that this code writes, and the newest that it reads.
FORMAT = 1

MAX_MANIFEST_BYTES = 4 * 1024 * 1024

VIDEO = "video"
TENSORS = "tensors"
TEXT = "text"
# of a stage or a kind of link: all others make tensors
_CONTENTS = {VIDEO: VIDEO, "expand": TEXT, "expanded": TEXT}
_TOLD = {VIDEO: "a video", TEXT: "a text", TENSORS: "tensors"}

# `$(?!\n)` is the end of the text; `$` alone allows a newline after it.
_ID = r"[a-z2-7]{10}"
_SHA256 = r"sha256:[0-9a-f]{64}"
RunId = Annotated[str, Meta(pattern=rf"^{_ID}$(?!\n)")]
RunIdOrNone = Annotated[str, Meta(pattern=rf"^({_ID})?$(?!\n)")]
Digest = Annotated[str, Meta(pattern=rf"^{_SHA256}$(?!\n)")]
DigestOrNone = Annotated[str, Meta(pattern=rf"^({_SHA256})?$(?!\n)")]
Key = Annotated[str, Meta(pattern=r"^k[0-9]{1,3}:[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.-]{0,31}$(?!\n)")]
Tag = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$(?!\n)")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Step = Annotated[int, Meta(ge=0, le=100_000)]
StopStep = Annotated[int, Meta(ge=0, le=100_000)]
Rating = Annotated[int, Meta(ge=0, le=MAX_RATING)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
# A class that only a later version knows is as good as any: an unknown one can be made again.
Keep = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9_]{0,31})?$(?!\n)")]


class BlobRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member `blobs/<64 hex digits of digest>` of `size` bytes."""

    digest: Digest
    size: Count


class StageRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """store.lineage.records.StageRecord."""

    name: Name
    seconds: Seconds
    cached: bool


class SeenRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """store.lineage.records.RunLink: what the run saw, whether or not the bundle has its blob."""

    stage: Name
    index: Step
    key: Key
    digest: DigestOrNone
    latents: DigestOrNone
    sigma: float | None
    timestep: float | None
    source: Annotated[str, Meta(pattern=f"^({'|'.join(SOURCES)})$(?!\\n)")]
    seconds: Seconds


class SegmentRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """store.lineage.records.Segment."""

    stop: Step
    spec: str


class RunRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """store.lineage.records.RunRecord, without what is of one machine; parent may be of no run in the bundle.

    What has a default came later, as of LinkRow.
    """

    id: RunId
    status: Annotated[str, Meta(pattern=f"^({'|'.join(FINAL_STATUSES)})$(?!\\n)")]
    preset: Annotated[str, Meta(max_length=255)]
    spec: str
    segments: tuple[SegmentRow, ...]
    stop_at: StopStep | None
    parent: RunIdOrNone
    parent_step: Step | None
    note: Annotated[str, Meta(max_length=MAX_NOTE)]
    tags: tuple[Tag, ...]
    latents: DigestOrNone
    environment: str
    created_ns: Count
    started_ns: Count | None
    ended_ns: Count | None
    stages: tuple[StageRow, ...]
    seen: tuple[SeenRow, ...]
    rating: Rating = 0


class LinkRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """store.lineage.records.LinkRecord; `digest` and `state` are of blobs in the bundle, or empty.

    What has a default came later: where it is that, it is not written, so that a modiff from before
    reads the bundle.
    """

    key: Key
    kind: Name
    digest: DigestOrNone
    latents: DigestOrNone
    state: DigestOrNone
    seconds: Seconds
    environment: str
    facts: str
    resume_at: Step | None = None
    keep: Keep = ""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Runs by id, links by key, blobs by digest. made_by: the program and its version."""

    format: Annotated[int, Meta(ge=FORMAT, le=FORMAT)]
    made_by: Annotated[str, Meta(pattern=r"^[ -~]{0,64}$(?!\n)")]
    runs: tuple[RunRow, ...]
    links: tuple[LinkRow, ...]
    blobs: tuple[BlobRow, ...]


def encode_manifest(manifest: Manifest) -> bytes:
    """The one encoding of a manifest, read back; BundleRefused when no import would take it."""
    encoded = msgspec.json.encode(manifest, order="sorted")
    decode_manifest(encoded)
    return encoded


def decode_manifest(encoded: bytes) -> Manifest:
    """The manifest of these bytes, all of it checked but the specs; raises BundleRefused."""
    if len(encoded) > MAX_MANIFEST_BYTES:
        raise BundleRefused(
            f"its manifest has {len(encoded):,} bytes, expected at most {MAX_MANIFEST_BYTES:,}; "
            "fewer runs make a smaller one"
        )
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        raise BundleRefused("its manifest is not UTF-8") from None
    data = strict_object(text, "its manifest")
    version = data.get("format")
    if type(version) is int and version > FORMAT:
        raise BundleRefused(
            f"its format is {version}, the newest that this modiff reads is {FORMAT}; update modiff"
        )
    try:
        manifest = msgspec.convert(data, Manifest)
    except msgspec.ValidationError as error:
        raise BundleRefused(f"its manifest is not valid: {error}") from None
    except UnicodeEncodeError:  # half a pair of surrogates where one of a few names belongs
        raise BundleRefused("its manifest is not valid: a text is not Unicode") from None
    _check(manifest)
    return manifest


def contents_of(kind: str) -> str:
    """What the result of a stage, or of a kind of link, is."""
    return _CONTENTS.get(kind, TENSORS)


def blob_kinds(manifest: Manifest, *, is_trusted: bool = True) -> dict[str, str]:
    """What each digest that the rows name is of, VIDEO, TENSORS or TEXT; without trust, the runs' rows only.

    BundleRefused where one is named as both.
    """
    named = [(run.latents, TENSORS) for run in manifest.runs]
    named += [(seen.digest, contents_of(seen.stage)) for run in manifest.runs for seen in run.seen]
    if is_trusted:
        for link in manifest.links:
            named += [
                (link.digest, contents_of(link.kind)),
                (link.state, TENSORS),
            ]
    kinds: dict[str, str] = {}
    for digest, kind in named:
        if digest and kinds.setdefault(digest, kind) != kind:
            one, other = sorted((kinds[digest], kind), key=list(_TOLD).index)
            raise BundleRefused(f"{digest} is named as {_TOLD[one]} and as {_TOLD[other]}")
    return kinds


def parents_first(runs: tuple[RunRow, ...]) -> list[RunRow]:
    """The runs, each after the one that it was branched from; BundleRefused for a circle."""
    ids = {run.id for run in runs}
    children: dict[str, list[RunRow]] = {}
    for run in runs:
        children.setdefault(run.parent if run.parent in ids else "", []).append(run)
    ordered = children.get("", [])
    for run in ordered:  # grows while it is gone through: each run is looked at once
        ordered += children.get(run.id, [])
    if len(ordered) < len(runs):
        raise BundleRefused("its runs descend from each other in a circle")
    return ordered


def _check(manifest: Manifest) -> None:
    if not manifest.runs:
        raise BundleRefused("its manifest names no run")
    _refuse_twins("run", [run.id for run in manifest.runs])
    _refuse_twins("link", [link.key for link in manifest.links])
    _refuse_twins("blob", [blob.digest for blob in manifest.blobs])
    parents_first(manifest.runs)
    for run in manifest.runs:
        _check_run(run)
    stored = {blob.digest for blob in manifest.blobs}
    for link in manifest.links:
        _check_portable(link.facts, f"the facts of {link.key}")
        _check_environment(link.environment, link.key)
        if absent := {link.digest, link.state} - stored - {""}:
            raise BundleRefused(f"the link {link.key} names {absent.pop()}, which is not in it")
    if unnamed := stored - set(blob_kinds(manifest)):
        raise BundleRefused(f"it has {unnamed.pop()}, which nothing in it names")


def _check_run(run: RunRow) -> None:
    what = f"run {run.id}"
    _refuse_twins(f"tag of {what}", list(run.tags))
    _refuse_twins(f"stage of {what}", [stage.name for stage in run.stages])
    _refuse_twins(f"link of {what}", [f"{seen.stage} {seen.index}" for seen in run.seen])
    stops = [0, *(segment.stop for segment in run.segments)]
    if any(stop <= before for before, stop in itertools.pairwise(stops)):
        raise BundleRefused(f"the segments of {what} stop at {stops[1:]}, expected rising steps")
    for spec in [run.spec, *(segment.spec for segment in run.segments)]:
        strict_object(spec, f"the spec of {what}")
        if portable_spec(spec) != spec:
            raise BundleRefused(f"the spec of {what} names a path, expected file names only")
    if portable_text(run.note) != run.note or portable_preset(run.preset) != run.preset:
        raise BundleRefused(f"the note or the preset of {what} holds control characters or a path")
    _check_environment(run.environment, what)


def _check_environment(text: str, what: str) -> None:
    if text:
        _check_portable(text, f"the environment of {what}")


def _check_portable(text: str, what: str) -> None:
    strict_object(text, what)
    if portable_json(text) != text:
        raise BundleRefused(f"{what} names a path or a machine")


def _refuse_twins(what: str, names: list[str]) -> None:
    twin = first_twin(names)
    if twin is not None:
        raise BundleRefused(f"the {what} {twin} is there twice")
