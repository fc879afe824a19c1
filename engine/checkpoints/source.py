"""Weights as they lie on a disk: one file, or the shards that make one checkpoint. Torch-free.

A `Source` is what somebody downloaded, under the names of its files; what it is, `recognise` tells. Shards are
taken together by their index, or by their numbered names. Nothing outside of the folder is ever read through an
index or a link, except for the Hugging Face cache, whose links point into the same repository's blobs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.checkpoints.formats.reading import opened, refusal, shortened, without_repeats
from engine.checkpoints.formats.table import TensorInfo, WeightFile
from engine.checkpoints.formats.weight_file import UNFINISHED, read_weight_file

INDEX_SUFFIX = ".index.json"
# diffusers puts the name of a variant, such as fp16, into an index as well as into the names of its shards
_INDEX = re.compile(r".+\.index(\.\w+)?\.json")
_VARIANT = re.compile(r"(?P<stem>.+)\.(?P<variant>\w+)")
CONFIG = "config.json"
# The index of the 14B model has 97 KB; a repository's config a few hundred bytes.
MAX_JSON_BYTES = 8 << 20
MAX_SHARDS = 1000
MAX_DEPTH = 6
MAX_ENTRIES = 20_000

_SUFFIXES = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.[a-z]+)")
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", "site-packages", "venv"}


@dataclass(frozen=True, slots=True)
class Source:
    """One checkpoint. path: its file, or the index (or first file) of its shards. tensors: names as in the
    files. config_file: the `config.json` beside it, which need not be about it."""

    path: Path
    files: tuple[Path, ...]
    format: str
    num_bytes: int
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    config_file: Path | None
    note: str = ""


def open_source(path: Path) -> Source:
    """The checkpoint at `path`: a weight file, one shard or the index of a sharded one, or a folder that holds
    a single checkpoint.

    Raises CheckpointError, in one line, where there is none or it is damaged or incomplete.
    """
    if os.path.isdir(path):
        path = _only_one(path)
    if is_index(path.name):
        return _open_indexed(path)
    indices = indices_beside(path)
    if not indices:
        return _source(path, [read_weight_file(path)])
    index = next((index for index in indices if os.path.isfile(index)), None)
    return _open_indexed(index) if index is not None else _open_numbered(path)


def is_index(name: str) -> bool:
    """Whether a file is an index of shards by its name."""
    return _INDEX.fullmatch(name) is not None


def indices_beside(path: Path) -> list[Path]:
    """Where the index of a shard may be; empty for what is no shard by its name."""
    shard = _SHARD.fullmatch(path.name)
    return [path.with_name(name) for name in _indices_of(shard)] if shard else []


def _indices_of(shard: re.Match[str]) -> list[str]:
    names = [f"{shard['stem']}{shard['suffix']}{INDEX_SUFFIX}"]
    if found := _VARIANT.fullmatch(shard["stem"]):
        names.append(f"{found['stem']}{shard['suffix']}.index.{found['variant']}.json")
    return names


def sources_in(folder: Path, *, max_depth: int = MAX_DEPTH) -> list[Path]:
    """What `open_source` may open below a folder, sorted: weight files, and for shards their index, or the
    first that is there of their files. Hidden folders and linked folders are not entered.

    Raises CheckpointError where the folder cannot be read or has more than 20,000 entries.
    """
    found: list[Path] = []
    num_entries = 0
    for parent, names in _walk(folder, max_depth):
        num_entries += len(names)
        if num_entries > MAX_ENTRIES:
            raise refusal(
                folder, f"more than {MAX_ENTRIES:,} files; name a folder of models inside it"
            )
        found += [parent / name for name in _checkpoints(names)]
    return sorted(found)


def read_config(source: Source) -> dict[str, Any]:
    """The model configuration that came with the weights: of `config.json` beside them, else of the file's own
    metadata; empty where there is none. Raises CheckpointError where it is damaged."""
    if source.config_file is not None:
        return read_json(source.config_file)
    try:
        config = json.loads(source.metadata.get("config", "{}"))
    except (ValueError, RecursionError) as error:
        raise refusal(source.path, f"damaged config in its metadata ({error})") from None
    return config if isinstance(config, dict) else {}


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of a file of at most `max_bytes` (8 MiB) without repeated keys. Raises CheckpointError."""
    with opened(path, "a JSON file") as (file, _):
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise refusal(path, f"larger than any published file of its kind ({max_bytes:,} bytes)")
    try:
        table = json.loads(data, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"damaged JSON ({error}); download it again") from None
    if not isinstance(table, dict):
        raise refusal(path, "expected a JSON object; download it again")
    return table


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether a file of `folder` is really in it, or in the blobs of the same Hugging Face cache entry."""
    target, home = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if target.is_relative_to(home):
        return True
    entry = next(
        (parent for parent in (home, *home.parents) if parent.name.startswith("models--")), None
    )
    return entry is not None and target.is_relative_to(entry / "blobs")


def _walk(folder: Path, max_depth: int) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files) of a folder and those below it."""
    todo = [(folder, 0)]
    while todo:
        parent, depth = todo.pop()
        try:
            with os.scandir(parent) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if parent != folder:
                continue  # a folder inside that is not ours to read hides nothing else
            raise refusal(folder, f"cannot be read ({error.strerror or error})") from None
        names = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < max_depth and entry.name not in _SKIPPED_FOLDERS:
                    todo.append((parent / entry.name, depth + 1))
            else:
                names.append(entry.name)
        yield parent, names


def _checkpoints(names: Sequence[str]) -> list[str]:
    """The files of one folder by which `open_source` opens what it holds: each shard set counts once, with what
    of it is still being downloaded."""
    indices = {name for name in names if is_index(name)}
    found = sorted(indices)
    sets: set[tuple[str, str, str]] = set()
    for name in sorted(names):
        if not is_weights(name):
            continue
        shard = _SHARD.fullmatch(_finished(name))
        if shard is None:
            found.append(name)
        elif indices.isdisjoint(_indices_of(shard)):
            key = (shard["stem"], shard["total"], shard["suffix"])
            if key not in sets:
                found.append(name)
            sets.add(key)
    return found


def is_weights(name: str) -> bool:
    """Whether a file is one of weights by its name, be it whole or half a download."""
    lower = _finished(name).lower()
    return lower.endswith(_SUFFIXES) or (lower.endswith(".bin") and "pytorch_model" in lower)


def _finished(name: str) -> str:
    """What a download will be called."""
    ending = next((ending for ending in UNFINISHED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _only_one(folder: Path) -> Path:
    try:
        here = _checkpoints([entry.name for entry in os.scandir(folder) if not entry.is_dir()])
    except OSError as error:
        raise refusal(folder, f"cannot be read ({error.strerror or error})") from None
    if len(here) == 1:
        return folder / here[0]
    if not here:
        raise refusal(folder, "holds no weight file (safetensors, .pth or GGUF)")
    raise refusal(folder, f"holds {len(here)} checkpoints ({_few(here)}); name one of them")


def _open_numbered(path: Path) -> Source:
    """Shards without an index: the numbers in their names say what belongs together."""
    shard = _SHARD.fullmatch(path.name)
    assert shard is not None
    total = int(shard["total"])
    if not 1 <= total <= MAX_SHARDS:
        raise refusal(path, f"one of {total} shards; expected 1 to {MAX_SHARDS}")
    names = [f"{shard['stem']}-{n:05}-of-{total:05}{shard['suffix']}" for n in range(1, total + 1)]
    return _source(path.with_name(names[0]), _read_shards(path, names))


def _open_indexed(index: Path) -> Source:
    table = read_json(index)
    places = table.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise refusal(index, "not an index of shards (no weight_map); download it again")
    names = sorted(set(places.values()))
    if not 1 <= len(names) <= MAX_SHARDS:
        raise refusal(index, f"names {len(names):,} shards; expected 1 to {MAX_SHARDS}")
    for name in names:
        if not name or Path(name).name != name or name in ("..", "."):
            raise refusal(
                index,
                f"names the shard {shortened(name)!r}, which is not a file of its own folder; "
                "get the index from where the model was published",
            )
    shards = _read_shards(index, names)
    held = {shard.path.name: shard.tensors for shard in shards}
    absent = [tensor for tensor, name in places.items() if tensor not in held[name]]
    if absent:
        tensor, name = shortened(absent[0]), shortened(places[absent[0]])
        raise refusal(
            index,
            f"{len(absent)} tensors are not where it says ({tensor} not in {name}): shards of different models or "
            "downloads; download them again, all from one repository",
        )
    about = table.get("metadata")
    size = about.get("total_size") if isinstance(about, dict) else None
    stored = sum(t.stop - t.start for shard in shards for t in shard.tensors.values())
    differs = type(size) is int and 0 <= size < 1 << 63 and size != stored
    note = (
        f"its index speaks of {size:,} bytes of tensors, its shards hold {stored:,}"
        if differs
        else ""
    )
    return _source(index, shards, note)


def _read_shards(asked: Path, names: Sequence[str]) -> list[WeightFile]:
    folder = asked.parent
    absent = [name for name in names if not os.path.lexists(folder / name)]
    if absent:
        halves = [name + ending for name in absent for ending in UNFINISHED]
        halves = [name for name in halves if os.path.lexists(folder / name)]
        told = f"; half of one is there: {shortened(halves[0])}" if halves else ""
        raise refusal(
            asked,
            f"{len(absent)} of {len(names)} shards are missing ({_few(absent)}{told}); download them into the same "
            "folder",
        )
    for name in names:
        if not stays_inside(folder / name, folder):
            target = shortened(os.path.realpath(folder / name))
            raise refusal(
                folder / name,
                f"a link that leaves its folder (to {target}); name the folder that really holds the files",
            )
    return [read_weight_file(folder / name) for name in names]


def _source(path: Path, shards: Sequence[WeightFile], note: str = "") -> Source:
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        twice = next((name for name in shard.tensors if name in tensors), None)
        if twice is not None:
            raise refusal(
                shard.path,
                f"holds {shortened(twice)}, which {shortened(tensors[twice].file.name)} holds too: shards of different "
                "models or downloads; download them again, all from one repository",
            )
        tensors |= shard.tensors
        metadata |= shard.metadata
    config = path.with_name(CONFIG)
    return Source(
        path=path,
        files=tuple(shard.path for shard in shards),
        format=shards[0].format,
        num_bytes=sum(shard.size for shard in shards),
        tensors=tensors,
        metadata=metadata,
        config_file=config if config.is_file() else None,
        note="; ".join(part for part in (note, *dict.fromkeys(s.note for s in shards)) if part),
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(shortened, names[:3])) + (", ..." if len(names) > 3 else "")
