"""The last frame of a run as a picture, for another run to begin from. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.compare.frames import Frame, read_frames
from engine.compare.report import video_of
from engine.errors import EngineError, InputError
from engine.inputs.pictures.reading import Picture, read_picture
from engine.output.mark import mark_of, read_mark
from engine.output.media import save_png
from engine.output.paths import default_output, output_paths
from engine.output.reading import comment_of
from engine.runs.expanded import with_text
from presets.encoding import decode_spec
from presets.errors import PresetError
from store.blobs.files import written_whole

if TYPE_CHECKING:
    from presets.spec.run import RunSpec
    from store.lineage.records import RunRecord
    from store.store import Store


def last_frame(store: Store, run_id: str) -> Path:
    """A PNG of the last frame of a run, of the size that the run computed, with its mark; beside its output, as
    OUTPUT-last.png, and where there is another file of that name, as OUTPUT-last-RUN.png.

    Of its PNG frames where it wrote some, else of its video, stored or written. Raises InputError where there is none,
    or no room for the picture, UnknownRun.
    """
    run = store.run(run_id)
    spec = decode_spec(run.spec_json)
    frame = _frame(store, run, spec)
    output = Path(run.output or default_output(spec.output).replace("{run}", run.id)).absolute()
    folder = output.parent if output.parent.is_dir() else Path.cwd()
    stem = output.stem.removesuffix("-frames")
    for name in (f"{stem}-last.png", f"{stem}-last-{run.id}.png"):
        path = folder / name
        if path.exists():
            if _holds(path, frame):
                return path
            continue
        try:
            with written_whole(path, replaces=False) as draft:
                comment = mark_of(run, with_text(store, run, spec), run.latents)
                save_png(draft, (frame.width, frame.height), frame.pixels, comment)
        except FileExistsError:
            continue
        except OSError as error:
            raise _refused(
                run, f"cannot be written to {path} ({error.strerror or error})"
            ) from None
        return path
    raise _refused(run, f"cannot be written: {path} is another picture; move that away")


def _frame(store: Store, run: RunRecord, spec: RunSpec) -> Frame:
    picture = _last_png(run, spec)
    if picture is not None:
        return _sized(Frame(picture.width, picture.height, picture.rgb), spec)
    written = Path(run.output)
    try:
        *_, found = read_frames(video_of(store, run.id))
    except EngineError as error:
        if "video" not in spec.output.kinds or not written.is_file():
            if run.status == "done" and "video" not in spec.output.kinds:
                raise _refused(run, "is not there: it wrote no video") from None
            why = str(error).replace(f"run {run.id} ({run.status})", "it")
            raise _refused(run, f"is not there: {why}") from None
        try:
            *_, found = read_frames(written)
        except EngineError as unread:
            raise _refused(run, f"is not there: {unread}") from None
    return _sized(found, spec)


def _last_png(run: RunRecord, spec: RunSpec) -> Picture | None:
    """Of the frames that a run wrote, as far as they are still there."""
    if "frames" not in spec.output.kinds or not run.output:
        return None
    written = Path(run.output)
    folder = written if written.is_dir() else output_paths(written, spec.output.kinds)["frames"]
    path = folder / f"{spec.frames - 1:05d}.png"
    try:
        mark = read_mark(comment_of(path))
        return read_picture(path) if mark is not None and mark.run == run.id else None
    except (InputError, PresetError):
        return None


def _sized(frame: Frame, spec: RunSpec) -> Frame:
    """In the size that the run computed, where it wrote larger pictures."""
    if (frame.width, frame.height) == (spec.width, spec.height):
        return frame
    from PIL import Image

    image = Image.frombytes("RGB", (frame.width, frame.height), frame.pixels)
    small = image.resize((spec.width, spec.height), Image.Resampling.BOX)
    return Frame(spec.width, spec.height, small.tobytes())


def _holds(path: Path, frame: Frame) -> bool:
    try:
        return read_picture(path).digest == Picture(frame.width, frame.height, frame.pixels).digest
    except InputError:
        return False


def _refused(run: RunRecord, why: str) -> InputError:
    return InputError(f"the last frame of run {run.id} ({run.status}) {why}", key="image.path")
