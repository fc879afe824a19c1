"""What lies in the places: every checkpoint recognised, and the best one for a name. Torch-free, no network.

Folders are looked at again each time and nothing is copied: what is on the disk now is what there is.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.checkpoints.elsewhere import hugging_face_cache
from engine.checkpoints.formats.holes import check_no_holes
from engine.checkpoints.formats.reading import opened
from engine.checkpoints.formats.table import BLOCKS, ITEM_BITS, PAIRS
from engine.checkpoints.known import catalogue
from engine.checkpoints.known.recognise import Recognition, describe, recognise
from engine.checkpoints.opened import layout_at
from engine.checkpoints.places import (
    ADDED,
    HUGGING_FACE,
    TOKENIZER,
    Place,
    models_folder,
    places,
)
from engine.checkpoints.source import MAX_DEPTH, MAX_ENTRIES, sources_in, stays_inside
from engine.checkpoints.vocabulary.held import SPIECE_SUFFIX, read_spiece
from engine.checkpoints.vocabulary.sentencepiece_model import of_sentencepiece
from engine.errors import CheckpointError
from presets.fields.wording import did_you_mean, nearest

_OF_WAN = re.compile(
    r"wan|umt5", re.IGNORECASE
)  # repositories of the Hugging Face cache to look into
_UNIGRAM = re.compile(rb'"type"\s*:\s*"Unigram"|"unk_id"\s*:')
_TOKENIZER_BYTES = 16_837_417
_MAX_TOKENIZER_BYTES = 64 << 20
# Halves of downloads into a folder, where huggingface_hub keeps them too; hidden, so that nothing is looked for there.
DOWNLOADS = Path(".cache", "huggingface", "download")
# UMT5 has 256,384 rows of embeddings; mT5 and XLM-RoBERTa, which lie beside it, have 250,112 and 250,002 pieces.
_UMT5_PIECES = range(255_000, 262_144)


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a place. path: its file, or the index (or first file) of its shards. origin: of the place.
    files: all of it. recognition: `None` where `error` says in one line why it cannot be used."""

    path: Path
    origin: str
    files: tuple[Path, ...] = ()
    recognition: Recognition | None = None
    error: str = ""


def scan(place: Place) -> list[Found]:
    """Everything in one place: what can be read, and what cannot with the reason; sorted by path, but the
    newest snapshot of each repository of the Hugging Face cache before older ones.

    A place that is not there holds nothing; only a missing one that somebody added is told. Folders are
    entered six deep, hidden and linked ones not at all.
    """
    if not place.exists:
        told = f"{place.path}: not there now; connect its disk, or forget it with `modiff models remove`"
        return [Found(place.path, place.origin, error=told)] if place.origin == ADDED else []
    if os.path.isfile(place.path):
        return [look(place.path, place.origin)]
    homes = [known.path for known in places() if known.exists]
    folders = _snapshots(place.path) if place.origin == HUGGING_FACE else [place.path]
    return [found for folder in folders for found in _scan_folder(folder, place.origin, homes)]


def scan_places() -> list[Found]:
    """Everything in all places, in their order; a file that two of them reach counts once, as itself where it is in
    one and a link to it in the other."""
    first: dict[str, Found] = {}
    for place in places():
        for found in scan(place):
            known = first.setdefault(os.path.realpath(found.path), found)
            if os.path.islink(known.path) and not os.path.islink(found.path):
                first[os.path.realpath(found.path)] = found
    return list(first.values())


def look(path: Path, origin: str = "") -> Found:
    """What is at one path, a tokenizer too, or the reason why it cannot be read."""
    try:
        if path.name == TOKENIZER or path.suffix == SPIECE_SUFFIX:
            return Found(path, origin, (path,), _recognise_tokenizer(path))
        source, layout = layout_at(path)
        return Found(source.path, origin, source.files, recognise(source, layout))
    except CheckpointError as error:
        return Found(path, origin, error=str(error))
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle of links
        return Found(path, origin, error=f"{path}: cannot be read ({error})")


def whole(found: Found) -> Found:
    """The same; or with what is wrong, where a part of its weights was never written to its files. To be asked of
    what somebody looks at: reading a folder of many files goes without. A model that this version cannot load is told
    as what it is."""
    told = found.recognition
    if told is None or not told.supported or told.component == "tokenizer":
        return found
    try:
        check_no_holes(layout_at(found.path)[0].tensors)
    except CheckpointError as error:
        return replace(found, recognition=None, error=str(error))
    return found


def find(kind: str, name: str, among: Sequence[Found] | None = None) -> list[Found]:
    """What can be used as the component `kind` for a name of the catalogue, best first; `kind` is also
    `tokenizer`. among: what `scan_places` gave, which is asked where it is left out.

    Complete and supported ones only: unquantised before quantised, of higher precision first, files named as they
    were published before others (a model trained further has the same tensors), then by place and path. Raises
    CheckpointError where the catalogue has no such name.
    """
    model = wanted(kind, name)
    usable = [
        (found, found.recognition)
        for found in (scan_places() if among is None else among)
        if found.recognition is not None
        and _is_of(model, found.recognition)
        and found.recognition.supported
    ]
    usable.sort(
        key=lambda pair: (
            model.variants.index(pair[1].variant),
            bool(pair[1].quantisation),
            -_bits(pair[1]),
            not catalogue.is_published_name(model, pair[0].path),
        )
    )
    return [found for found, _ in usable]


def absence(
    kind: str, name: str, among: Sequence[Found] | None = None, *, brief: bool = False
) -> str:
    """One line for a name of which nothing can be used here: what is wanted, where it is published, how large it
    is, where it goes, and what was found that cannot be used. brief: without other releases that would do."""
    model = wanted(kind, name)
    release, *others = model.releases
    target = target_of(release)
    in_all = f", {catalogue.total_size(release)} in all" if len(release.files) > 1 else ""
    line = (
        f"{name} ({kind.replace('_', ' ')}): not found on this machine; it is published as "
        f"{release.repository} ({release.note}): {catalogue.file_list(release)}{in_all}, to put into {target}: "
        f"`{download_command(release, target)}`"
    )
    for repository in dict.fromkeys(other.repository for other in others if not brief):
        told = [
            f"{other.files[0].name} ({other.note}, {catalogue.total_size(other)})"
            for other in others
            if other.repository == repository
        ]
        line += f"; or as {repository}: {' or '.join(told)}"
    if not brief:
        line += "; where you have it elsewhere, `modiff models add FOLDER` makes it known"
    return "; ".join([line, *notes(model, scan_places() if among is None else among)])


def target_of(release: catalogue.Release, home: Path | None = None) -> Path:
    """The folder that a release goes into. home: the place, our own folder of models where it is left out."""
    return (home or models_folder()) / release.repository.rpartition("/")[2]


def notes(model: catalogue.Model, among: Sequence[Found]) -> list[str]:
    """What is here of a model that cannot be used: a download that was not finished, files that are damaged or
    something else."""
    half = _halves_told(model, target_of(model.releases[0]))
    shortcomings = [
        f"found but cannot be used: {found.error or _shortcoming(found)}"
        for found in among
        if is_about(model, found)
    ]
    return [half, *shortcomings] if half else shortcomings


def _halves_told(model: catalogue.Model, target: Path) -> str:
    """Of a download that began and did not finish: where it lies, and how it goes on."""
    begun = target / DOWNLOADS
    ours = [
        half
        for half in _unfinished_below(begun)
        if any(
            str(half.relative_to(begun)).startswith(f"{file.name}.")
            for file in model.releases[0].files
        )
    ]
    if ours:
        return f"{_half_told(ours)}; `modiff models get {model.name}` goes on with it"
    for release in model.releases:
        entry = hugging_face_cache() / f"models--{release.repository.replace('/', '--')}"
        if halves := _unfinished_below(entry / "blobs"):
            return f"{_half_told(halves)}; `hf download` of the same files goes on with it, or begins again"
    return ""


def _half_told(halves: Sequence[Path]) -> str:
    so_far = sum(half.stat().st_size for half in halves if half.is_file())
    return f"half of it is there: {so_far / 1e9:.1f} GB of an unfinished download in {halves[0].parent}"


def _unfinished_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, _, names in os.walk(folder):
        found += [Path(parent, name) for name in names if name.endswith(".incomplete")]
        if len(found) > MAX_ENTRIES:
            break
    return sorted(found)


def is_about(model: catalogue.Model, found: Found) -> bool:
    """Whether something is that model, or by its name should be where it cannot be read."""
    if found.recognition is None:
        return catalogue.is_published_name(model, found.path)
    return _is_of(model, found.recognition)


def wanted(kind: str, name: str) -> catalogue.Model:
    """The model of the catalogue; raises CheckpointError, with the nearest name, where there is none."""
    model = catalogue.model(name, kind)
    if model is None and os.sep in name:  # no name has one: this was to be a path
        raise CheckpointError(f"{name}: no such file or folder; check the path")
    if model is None:
        names = list(dict.fromkeys(m.name for m in catalogue.MODELS if kind in ("", m.kind)))
        near = did_you_mean(nearest(name, names)) or f"; there are {', '.join(names)}"
        raise CheckpointError(
            f'no {kind.replace("_", " ") or "model"} is named "{name[:80]}"{near}'
        )
    return model


def download_command(release: catalogue.Release, target: Path) -> str:
    """The command of huggingface_hub that puts a release into a folder. One pattern or plain names: its
    versions differ in what they do with several patterns."""
    names = [file.name for file in release.files]
    what = (
        names
        if len(names) <= 2 and "*" not in names[0]
        else ["--include", "diffusion_pytorch_model*"]
    )
    return shlex.join(["hf", "download", release.repository, *what, "--local-dir", str(target)])


def _scan_folder(folder: Path, origin: str, homes: Sequence[Path]) -> list[Found]:
    try:
        paths = sources_in(folder)
    except CheckpointError as error:
        return [Found(folder, origin, error=str(error))]
    tokenizers, linked = _tokenizers_and_links(folder)
    within = [folder, *homes]
    # what a link within the places leads to is found there
    all_found = [_refuse(path, origin) for path in linked if not _is_known(path, within)]
    for path in (*paths, *tokenizers):
        leaves = os.path.islink(path) and not _is_known(path, within)
        all_found.append(_refuse(path, origin) if leaves else look(path, origin))
    return sorted((f for f in all_found if not _is_foreign_tokenizer(f)), key=lambda f: f.path)


def _tokenizers_and_links(folder: Path) -> tuple[list[Path], list[Path]]:
    """(tokenizer files, links to folders) below a folder, as deep as `sources_in` goes."""
    tokenizers: list[Path] = []
    links: list[Path] = []
    num_entries = 0
    for parent, folders, files in os.walk(folder):
        num_entries += len(folders) + len(files)
        if num_entries > MAX_ENTRIES:
            break
        here = Path(parent)
        links += [
            here / name
            for name in folders
            if not name.startswith(".") and os.path.islink(here / name)
        ]
        tokenizers += [here / name for name in files if name == TOKENIZER]
        deep = len(here.relative_to(folder).parts) >= MAX_DEPTH
        folders[:] = [] if deep else [name for name in folders if not name.startswith(".")]
    return tokenizers, links


def _is_known(path: Path, homes: Sequence[Path]) -> bool:
    try:
        return any(stays_inside(path, home) for home in homes)
    except (OSError, RuntimeError):  # a circle of links
        return False


def _refuse(link: Path, origin: str) -> Found:
    target = os.path.realpath(link)
    folder = target if os.path.isdir(target) else os.path.dirname(target)
    line = f"{link}: is a link to {target} outside; `modiff models add {shlex.quote(folder)}` makes that known"
    return Found(link, origin, error=line)


def _snapshots(hub: Path) -> Iterator[Path]:
    """The snapshots of the repositories that seem to be of Wan, the current one of each first."""
    try:
        repositories = sorted(
            entry.path
            for entry in os.scandir(hub)
            if entry.name.startswith("models--") and _OF_WAN.search(entry.name)
        )
    except OSError:
        return
    for repository in map(Path, repositories):
        try:
            with opened(repository / "refs" / "main", "a revision") as (file, _):
                current = file.read(100).decode("ascii").strip()
        except (CheckpointError, ValueError):
            current = ""
        try:
            snapshots = [entry for entry in os.scandir(repository / "snapshots") if entry.is_dir()]
            snapshots.sort(key=lambda entry: (entry.name != current, -entry.stat().st_mtime_ns))
        except OSError:
            continue
        yield from (Path(entry.path) for entry in snapshots)


def _recognise_tokenizer(path: Path) -> Recognition:
    """UMT5-XXL's is told by its size, its folder or its number of pieces; another one has no variant."""
    is_json = path.name == TOKENIZER
    with opened(path, "a tokenizer") as (file, facts):
        num_bytes = facts.size
        if num_bytes > _MAX_TOKENIZER_BYTES:
            raise CheckpointError(f"{path}: {num_bytes:,} bytes are more than any tokenizer has")
        data = file.read() if is_json else b""
    if not is_json:
        is_umt5 = len(of_sentencepiece(read_spiece(path)).pieces) in _UMT5_PIECES
    elif not data.lstrip().startswith(b"{"):
        raise CheckpointError(f"{path}: not a tokenizer, which is a JSON object; download it again")
    else:
        is_umt5 = _UNIGRAM.search(data) is not None and (
            num_bytes == _TOKENIZER_BYTES
            or "umt5" in path.parent.name.lower()
            # A piece is a list of its own, and few other lists are in the file: it need not be parsed.
            or data.count(b"[") in _UMT5_PIECES
        )
    return Recognition(
        component="tokenizer",
        variant="umt5-xxl" if is_umt5 else "",
        supported=True,
        note="" if is_umt5 else "not that of UMT5-XXL",
        layout="huggingface" if is_json else "sentencepiece",
        format="json" if is_json else "spiece",
        shards=1,
        prefix="",
        dtypes={},
        quantisation="",
        parameters=0,
        file_bytes=num_bytes,
        memory={},
        missing=(),
        unexpected=(),
        misshapen=(),
    )


def _is_foreign_tokenizer(found: Found) -> bool:
    told = found.recognition
    return told is not None and told.component == "tokenizer" and not told.variant


def _shortcoming(found: Found) -> str:
    told = found.recognition
    assert told is not None
    return f"{found.path}: {describe(told.missing, told.unexpected, told.misshapen) or told.note}"


def _is_of(model: catalogue.Model, recognition: Recognition) -> bool:
    return recognition.component == model.kind and recognition.variant in model.variants


def _bits(recognition: Recognition) -> float:
    """Bits of the numbers that most of the parameters are; of two kinds of 16, Wan's own a little more."""
    if not recognition.dtypes:
        return 0.0
    dtype = max(recognition.dtypes, key=lambda name: recognition.dtypes[name])
    if dtype in BLOCKS:
        num_bytes, num_weights = BLOCKS[dtype]
        return 8 * num_bytes / num_weights
    if dtype == PAIRS:
        return 4.0
    return ITEM_BITS[dtype] + (0.5 if dtype == "BF16" else 0.0)
