"""Where other programs keep the models that they share with this one. Torch-free; nothing of theirs is ever written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from engine.checkpoints.formats.reading import opened
from engine.errors import CheckpointError

MAX_YAML_BYTES = 256 * 1024
_COMFYUI_HOMES = ("~/ComfyUI", "~/comfy/ComfyUI", "~/Documents/ComfyUI")
_EXTRA_PATHS = "extra_model_paths.yaml"
_NOTHING = ("", "~", "null")  # as YAML says it
_MERGED = "<<"  # what a section has of another one
# of what ComfyUI's file names, the kinds in which parts of Wan lie; more only costs time
_KINDS = (
    "checkpoints",
    "diffusion_models",
    "unet",
    "text_encoders",
    "clip",
    "clip_vision",
    "vae",
    "loras",
)
_OTHERS = (
    ("~/Wan2GP/ckpts", "WanGP"),
    ("~/SwarmUI/Models", "SwarmUI"),
    ("~/StabilityMatrix/Models", "Stability Matrix"),
    ("~/.local/share/StabilityMatrix/Models", "Stability Matrix"),
)


def hugging_face_cache() -> Path:
    """Where huggingface_hub keeps its downloads, by the variables that it reads, in its order."""
    environment = {name: value for name, value in os.environ.items() if value}
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"
    )
    chosen = (
        environment.get("HF_HUB_CACHE")
        or environment.get("HUGGINGFACE_HUB_CACHE")
        or os.path.join(home, "hub")
    )
    return Path(os.path.expandvars(os.path.expanduser(chosen)))


def comfyui_folders() -> list[Path]:
    """ComfyUI's folders of models, and those that the `extra_model_paths.yaml` of each installation names. One that
    cannot be read is there itself, so that whoever looks at it is told why."""
    configured = os.environ.get("COMFYUI_PATH")
    homes = [Path(os.path.expanduser(home)) for home in (configured, *_COMFYUI_HOMES) if home]
    found = [home / "models" for home in homes]
    for home in homes:
        found += _extra_folders(home / _EXTRA_PATHS)
    return found


def other_folders() -> list[tuple[Path, str]]:
    """(folder, whose it is) of the hubs and programs that keep Wan's files as they were published."""
    hub = os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub"
    homes = [(hub, "ModelScope cache"), *_OTHERS]
    found = [(Path(os.path.expanduser(home)), origin) for home, origin in homes]
    # of a program that is not here there is nothing to say
    return [(path, origin) for path, origin in found if os.path.isdir(path)]


def _extra_folders(file: Path) -> list[Path]:
    if not os.path.lexists(file):
        return []
    try:
        with opened(file, "ComfyUI's list of folders") as (stream, _):
            data = stream.read(MAX_YAML_BYTES + 1)
        # texts, lists and tables only: of the numbers that YAML knows some take minutes to make
        table = yaml.load(data, yaml.BaseLoader) if len(data) <= MAX_YAML_BYTES else None
    except (CheckpointError, yaml.YAMLError, ValueError, RecursionError):
        return [file]
    if table is None and len(data) <= MAX_YAML_BYTES:
        return []  # nothing but comments
    if not isinstance(table, dict):
        return [file]
    sections = [section for section in table.values() if section not in _NOTHING]
    shared = [section.get(_MERGED, {}) for section in sections if isinstance(section, dict)]
    if not all(isinstance(section, dict) for section in (*sections, *shared)):
        return [file]
    return [
        path
        for section in sections
        for path in _folders_of({**section.get(_MERGED, {}), **section}, file.parent)
    ]


def _folders_of(section: dict[object, object], home: Path) -> Iterator[Path]:
    """The folders of one section: each kind has some, a line each, which begin at its base_path."""
    base = section.get("base_path", "")
    start = home / os.path.expandvars(os.path.expanduser(base if isinstance(base, str) else ""))
    for kind in _KINDS:
        lines = section.get(kind)
        if isinstance(lines, str):
            yield from (start / line.strip() for line in lines.splitlines() if line.strip())
