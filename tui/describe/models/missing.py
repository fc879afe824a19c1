"""The models of a run that are here and those to be had first, as people and `--json` are told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.checkpoints.known.catalogue import decimal_size, file_runs
from tui.text import columns, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.components.needed import Needed

HAVE, NEED = "have", "need"


def absent(parts: Sequence[Needed]) -> list[Needed]:
    """Those that are not here, published or not."""
    return [part for part in parts if not part.found]


def missing_bytes(parts: Sequence[Needed]) -> int:
    """Of all files to be downloaded; of a file whose size is not known, nothing."""
    return sum(_bytes_of(part) for part in absent(parts))


def missing_size(parts: Sequence[Needed]) -> str:
    """`69.03 GB`, `about 69.4 GB` where not every size is known exactly."""
    lacks = [part.release for part in absent(parts) if part.release is not None]
    is_exact = all(release.num_bytes is not None for release in lacks)
    return ("" if is_exact else "about ") + decimal_size(missing_bytes(parts))


def lack(parts: Sequence[Needed]) -> str:
    """`69.04 GB to get`, `a file is missing` where nobody knows how much that is; of what has them all, ""."""
    if not absent(parts):
        return ""
    return f"{missing_size(parts)} to get" if missing_bytes(parts) else "a file is missing"


def by_preset() -> dict[str, str]:
    """What `lack` says, for the presets of which something is missing."""
    from engine.checkpoints.library import scan_places
    from engine.components.needed import needed
    from presets.errors import PresetError
    from presets.library.listing import list_presets
    from presets.library.loading import load_preset

    among = scan_places()
    sizes: dict[str, str] = {}
    for name in [info.name for info in list_presets() if not info.error]:
        try:
            sizes[name] = lack(needed(load_preset(name), among))
        except PresetError:
            continue  # told as broken
    return {name: size for name, size in sizes.items() if size}


def rows(parts: Sequence[Needed]) -> list[tuple[str, str, str, str]]:
    """Part, file, size and whether it is here, a line a file or run of shards, and the total; with a heading."""
    told = [("PART", "FILE", "SIZE", "HERE")]
    for part in parts:
        title, state = title_of(part), HAVE if part.found else NEED
        for name, size in _files(part):
            told.append((title, printable(name), size, state))
            title = ""
    told.append(("total", "", missing_size(parts), "to get"))
    return told


def brief_rows(parts: Sequence[Needed]) -> list[tuple[str, str, str]]:
    """Part, size and whether it is here: a line each, for a narrow panel."""
    return [(title_of(part), size_of(part), HAVE if part.found else NEED) for part in parts]


def title_of(part: Needed) -> str:
    return part.kind.replace("_", " ")


def size_of(part: Needed) -> str:
    """Of what is here and used, or of what is to be downloaded; "" where that is not known."""
    if part.found:
        told = part.found[0].recognition
        return decimal_size(told.file_bytes) if told is not None else ""
    return missing_size([part]) if part.release is not None else ""


def commands(parts: Sequence[Needed]) -> list[str]:
    """What downloads them without modiff, a command for each model."""
    lacks = [
        (part.release, part.target)
        for part in absent(parts)
        if part.release is not None and part.target is not None
    ]
    if not lacks:
        return []
    from engine.checkpoints.library import download_command  # reads all that models may be

    return [download_command(*each) for each in lacks]


def lines(parts: Sequence[Needed], preset: str = "") -> list[str]:
    """All of it: the table, what is here and cannot be used, and one command a line. preset: that `modiff models get`
    can be given, where it is known."""
    names = dict.fromkeys(part.name for part in absent(parts) if part.release is not None)
    told = [*columns(rows(parts))]
    for part in absent(parts):
        told += [printable(f"{title_of(part)}: {note}") for note in part.notes]
        if part.release is None:
            told.append(printable(part.absence))
    if names:
        wanted = preset or " ".join(names)
        told += [f"get them:  modiff models get {wanted}", "or by hand:"]
        told += [f"  {command}" for command in commands(parts)]
    return told


def as_json(parts: Sequence[Needed]) -> list[dict[str, Any]]:
    """A part each: what it is, where it lies, or what to download."""
    return [
        {
            "component": part.kind,
            "name": part.name,
            "have": bool(part.found),
            "path": str(part.found[0].path) if part.found else "",
            "bytes": _bytes_of(part),
            "repository": part.release.repository if part.release else "",
            "files": [
                {"name": file.name, "bytes": file.num_bytes}
                for file in (part.release.files if part.release else ())
            ],
            "target": str(part.target or ""),
            "command": next(iter(commands([part])), ""),
            "problem": "; ".join(part.notes) or ("" if part.release else part.absence),
        }
        for part in parts
    ]


def _bytes_of(part: Needed) -> int:
    if part.found:
        told = part.found[0].recognition
        return told.file_bytes if told is not None else 0
    release = part.release
    if release is None:
        return 0
    known = sum(file.num_bytes or 0 for file in release.files)
    return release.num_bytes or max(known, release.about_bytes or 0)


def _files(part: Needed) -> list[tuple[str, str]]:
    if part.found:
        return [(part.found[0].path.name, size_of(part))]
    if part.release is None:
        return [(part.name, "")]
    told = []
    runs = file_runs(part.release)
    for name, group in runs:
        sizes = [file.num_bytes for file in group if file.num_bytes is not None]
        size = decimal_size(sum(sizes)) if sizes else ""
        if not size and len(runs) == 1:
            size = missing_size([part])
        told.append((name, size))
    return told
