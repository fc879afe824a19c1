"""The run that wrote a file, or what the file says of it where the store does not know it."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.output.rules import without_place
from store.errors import UnknownRun
from tui.describe.given import CLIP_ENDINGS, PICTURE_ENDINGS, UNREAD_ENDINGS
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.output.mark import Mark
    from presets.spec.run import RunSpec
    from store.store import Store

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".png", ".safetensors")
_DROPPED = {*ENDINGS, *PICTURE_ENDINGS, *CLIP_ENDINGS, *UNREAD_ENDINGS}
_IDS_SHOWN = 5
_CELLS_SHOWN = 200
_MAX_PATH = 4096


class RunElsewhere(UnknownRun):
    """A file is modiff's, and its run is not in this store. mark: what the file says of it."""

    def __init__(self, text: str, path: Path, mark: Mark) -> None:
        super().__init__(text)
        self.path, self.mark = path, mark


@dataclass(frozen=True, slots=True)
class WrittenBy:
    """run_id: the run that wrote the file. others: those that made the same."""

    run_id: str
    others: tuple[str, ...] = ()

    def told(self, path: Path) -> str:
        """That there are others; "" where there are none."""
        if not self.others:
            return ""
        more = f" and {len(self.others) - _IDS_SHOWN} more" if len(self.others) > _IDS_SHOWN else ""
        return (
            f"{printable(path.name)} is taken for that of run {self.run_id}; the same was made by "
            f"{', '.join(self.others[:_IDS_SHOWN])}{more}"
        )


def is_file_name(given: str) -> bool:
    """Whether a text is a file and no id: it has a dot or a slash, which are in none."""
    return bool(set(given) & set("./~\\"))


def dropped_path(text: str) -> Path | None:
    """The file that a terminal means which pastes the path of what is dropped on it: as it is, quoted or escaped for a
    shell, or as an address. None for any other text."""
    for path in _paths_in(text):
        if path.suffix.lower() in _DROPPED and os.path.isfile(path):
            return path
    return None


def no_file_told(text: str) -> str:
    """Why a text that is pasted where a file is expected is none."""
    path = next(reversed(_paths_in(text)), None)
    if path is None:
        return (
            "text is pasted into a field; here, the path of a picture, a clip or what a run wrote"
        )
    if not os.path.exists(path):
        return f"{printable(str(path))}: no such file"
    return f"{printable(str(path))}: expected a picture, a clip or what a run wrote"


def _paths_in(text: str) -> list[Path]:
    """What a text can mean where it is the path of one file, from the root on: as it is, then as a shell has it."""
    text = text.strip()
    if not text or len(text) > _MAX_PATH or "\n" in text or "\0" in text:
        return []
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark that is part of the name
        words = []
    given = (text, *(words if len(words) == 1 else ()))
    paths = (
        unquote(urlsplit(each).path) if each.startswith("file://") else os.path.expanduser(each)
        for each in given
    )
    return [Path(path) for path in paths if os.path.isabs(path)]


def path_of(given: str) -> Path:
    """Raises UnknownRun where there is no such file."""
    path = Path(os.path.abspath(os.path.expanduser(given)))
    if not os.path.isfile(path):
        raise UnknownRun(f"{given}: no such file; `modiff runs` lists the runs")
    return path


def written_by(store: Store, path: Path) -> WrittenBy:
    """The run that is named in a file; else the one that made these bytes, or was decoded from the latents that the
    file names, however it was renamed, moved or cut: of several the one that wrote it there, else the first.

    Raises RunElsewhere where that run is not in this store, UnknownRun for a file of another program, with what it
    says of itself.
    """
    if runs := store.runs_of(_digest(path)):
        return _chosen(store, path, runs)
    mark = mark_in(path)
    if mark.run:
        try:
            return WrittenBy(store.run(mark.run).id)
        except UnknownRun:
            pass
    if mark.latents and (runs := store.runs_of(mark.latents)):
        return _chosen(store, path, runs)
    raise RunElsewhere(_elsewhere(path, mark), path, mark)


def video_path(store: Store, run_id: str) -> Path | None:
    """Where a run's video can be read: its file, else the store's; None where neither is there (any more)."""
    from engine.output.reading import container
    from engine.results import is_stored
    from store.blobs.blobs import blob_path

    record = store.run(run_id)
    output = Path(record.output)
    if record.output and container(output):
        return output
    for link in store.links_of(run_id):
        if link.stage == "video" and is_stored(store, link.digest):
            return Path(blob_path(store.root, link.digest))
    return None


def mark_in(path: Path) -> Mark:
    """What a file says of its run. Raises UnknownRun where it says nothing, or nothing that can be read."""
    from engine.output.mark import read_mark
    from engine.output.reading import comment_of

    comment = comment_of(path)
    try:
        mark = read_mark(comment)
    except PresetError as error:
        raise UnknownRun(f"{path}: {shorten(printable(str(error)), _CELLS_SHOWN)}") from None
    if mark is None:
        told = f"; its comment is {shorten(comment, _CELLS_SHOWN)!r}" if comment else ""
        raise UnknownRun(
            f"{path}: no run of this store made it, and it has no mark of modiff{told}"
        )
    return mark


def settings_in(path: Path) -> RunSpec:
    """The settings that travelled with a file. Raises UnknownRun where there are none, PresetError, which names the
    file, for those that this version does not understand."""
    mark = mark_in(path)
    if mark.settings is None:
        raise UnknownRun(_elsewhere(path, mark))
    try:
        return mark.spec()
    except PresetError as error:
        raise PresetError(error.problem, key=error.key, source=str(path)) from None


def settings_of_file(store: Store, path: Path) -> tuple[RunSpec, str]:
    """The settings for another run like that which wrote a file, and the preset that they came from: the store's, where
    it knows the run, else those in the file. Raises UnknownRun, PresetError."""
    try:
        run = store.run(written_by(store, path).run_id)
    except RunElsewhere as elsewhere:
        return without_place(settings_in(path)), elsewhere.mark.preset
    return without_place(decode_spec(run.spec_json)), run.preset


def lines(path: Path, mark: Mark) -> list[tuple[str, str]]:
    """For people: what is known of a run that is not here."""
    told = [("file", str(path)), ("run", f"{mark.run}, which is not in this store")]
    told.append(("preset", mark.preset or "-"))
    told.append(("latents", mark.latents or "-"))
    if mark.branched:
        steps = ", ".join(str(step) for step in mark.branched)
        told.append(("branched", f"at step {steps}; other settings held till then"))
    return told


def as_json(path: Path, mark: Mark) -> dict[str, object]:
    """The object of `--json` for a run that is not here."""
    import json

    return {
        "run": mark.run,
        "is_here": False,
        "file": str(path),
        "preset": mark.preset,
        "latents": mark.latents,
        "branched": list(mark.branched),
        "spec": json.loads(encode_spec(mark.spec())),
    }


def _elsewhere(path: Path, mark: Mark) -> str:
    bundle = "`modiff store export` where that was and `modiff store import` here bring its run and settings"
    if mark.settings is None:
        return f"{path}: modiff made it, from latents {mark.latents}, but no run of this store; {bundle}"
    return (
        f"{path}: run {mark.run} made it, which is not in this store, so its steps are not here; `modiff run {path}` "
        f"makes it anew with the settings in it, `modiff presets save NAME --from-file {path}` keeps those; {bundle}"
    )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise UnknownRun(f"{path}: cannot be read ({error.strerror})") from None


def _chosen(store: Store, path: Path, runs: Sequence[str]) -> WrittenBy:
    run_id = next((each for each in runs if store.run(each).output == str(path)), runs[0])
    return WrittenBy(run_id, tuple(each for each in runs if each != run_id))
