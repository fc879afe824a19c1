"""Where the user's own presets lie."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from presets.errors import PresetError


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
