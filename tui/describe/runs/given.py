"""What a run began from, by the pictures and the clip in the store, whatever became of their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from presets.encoding import decode_spec
from presets.errors import PresetError
from tui.describe.inputs import GIVEN, file_name, inputs_of
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from presets.spec.run import RunSpec
    from store.index.index import Index
    from store.index.previews import Preview
    from store.lineage.records import RunLink, RunRecord
    from store.store import Store


@dataclass(frozen=True, slots=True)
class GivenTo:
    """name: of the setting, for people. file: its name. told: its size, where it is known. preview: None where the
    store has none (any more). fps: at which it plays, 0 for a picture."""

    name: str
    file: str
    told: str = ""
    preview: Preview | None = None
    fps: float = 0.0


def given_files(spec: Mapping[str, Any]) -> list[str]:
    """The names of the files that a run was given; spec: of any version, as it was read from JSON."""
    tables = [spec.get(name) for name in GIVEN]
    paths = [table.get("path") for table in tables if isinstance(table, dict)]
    return [printable(file_name(path)) for path in paths if isinstance(path, str) and path]


def given_to(store: Store, index: Index, run_id: str) -> list[GivenTo]:
    """What a run was given, in the order of its settings; nothing of one that this version cannot read. Raises
    UnknownRun."""
    try:
        spec = decode_spec(store.run(run_id).spec_json)
    except PresetError:
        return []
    paths = inputs_of(spec)
    links = store.links_of(run_id) if paths else []
    return [_given(store, index, spec, name, path, links) for name, path in paths.items()]


def changed_file(store: Store, record: RunRecord, links: Sequence[RunLink]) -> str:
    """The name of a file that a run which goes on would have to read and that is gone, or another one than it was
    queued with; "" for none. A run that has made a step has read all of them."""
    if any(link.stage == "step" for link in links):
        return ""
    try:
        spec = decode_spec(record.spec_json)
    except PresetError:
        return ""
    from engine.inputs.settle import holds_given
    from store.blobs.blobs import is_stored
    from store.index.index import open_index

    read = {"video": "clip", "image": "picture", "last_image": "picture"}
    stored = {link.stage for link in links if is_stored(store.root, link.digest)}
    with open_index(store.root) as index:
        for name, path in inputs_of(spec).items():
            is_wanted = getattr(spec, name).digest and read[name] not in stored
            if is_wanted and not holds_given(spec, name, index):
                return printable(file_name(path))
    return ""


def _given(
    store: Store, index: Index, spec: RunSpec, name: str, path: str, links: list[RunLink]
) -> GivenTo:
    from engine.graph import key_of
    from engine.tasks.wan import picture_node
    from store.index.previews import get_preview

    file, label = printable(file_name(path)), GIVEN[name]
    if name == "video":
        link = next((each for each in links if each.stage == "clip"), None)
        preview = get_preview(index, link.key) if link else None
        size = f"{spec.width}x{spec.height}, {spec.frames} frames"
        return GivenTo(label, file, size, preview, float(spec.fps))
    if not getattr(spec, name).digest:
        return GivenTo(label, file)
    key = key_of(picture_node(spec, name), {}, None)
    link = next((each for each in links if each.key == key), None)
    return GivenTo(label, file, _size(store, link) if link else "", get_preview(index, key))


def _size(store: Store, link: RunLink) -> str:
    """`640x400`, of the pixels that are stored."""
    from safetensors import SafetensorError, safe_open

    from store.blobs.blobs import blob_path

    try:
        with safe_open(blob_path(store.root, link.digest), framework="np") as file:
            height, width, _ = file.get_slice("pixels").get_shape()
    except (OSError, SafetensorError, ValueError):
        return ""
    return f"{width}x{height}"
