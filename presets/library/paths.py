"""Where presets lie, by name: the shipped ones and the user's own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs

from presets.errors import PresetError
from presets.fields.wording import did_you_mean, nearest

SHIPPED = Path(__file__).parents[1] / "shipped"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")


def user_preset_dir() -> Path:
    """The folder of the user's own presets; it need not exist yet. Raises `PresetError` where no home is known."""
    configured = os.environ.get("MODIFF_CONFIG_DIR")
    try:
        root = (
            Path(configured).expanduser() if configured else platformdirs.user_config_path("modiff")
        )
    except RuntimeError:
        what = f"MODIFF_CONFIG_DIR={configured}" if configured else "HOME"
        raise PresetError(f"{what} names no folder: there is no such home") from None
    return root / "presets"


def preset_path(name_or_path: str | Path) -> Path:
    """Where a preset's file is; raises `PresetError` with the nearest name when there is none."""
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        return Path(name_or_path).expanduser()
    check_name(name_or_path)
    for folder in (lambda: SHIPPED, user_preset_dir):
        path = folder() / f"{name_or_path}.toml"
        if os.path.exists(path):  # False where it cannot be known; Path.exists raises
            return path
    names = [path.stem for path in (*shipped_files(), *user_files())]
    near = did_you_mean(nearest(name_or_path, names)) or f"; there are {', '.join(names)}"
    raise PresetError(f'no preset is named "{name_or_path}"{near}')


def check_name(name: str) -> None:
    """Raises `PresetError` for what is no name of a preset."""
    if not NAME.match(name):
        raise PresetError(
            f'"{name[:60]}" is not a preset name; a name has at most 64 letters, digits, ".", "_", '
            '"+" and "-", and a path to a preset file ends in .toml'
        )


def is_shipped(name: str) -> bool:
    """Whether a name is that of a preset of ours."""
    # Case is ignored: on macOS and Windows, Base.toml and base.toml are one file.
    return name.casefold() in {path.stem.casefold() for path in SHIPPED.glob("*.toml")}


def shipped_files() -> list[Path]:
    """Our presets by name."""
    return sorted(SHIPPED.glob("*.toml"), key=lambda path: path.stem)


def user_files() -> list[Path]:
    """The user's presets by name. Raises `PresetError` where their folder cannot be read."""
    folder = user_preset_dir()
    try:
        files = [path for path in folder.iterdir() if path.suffix == ".toml"]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PresetError(f"cannot read the folder {folder}: {error.strerror or error}") from None
    return sorted(path for path in files if not path.name.startswith("."))
