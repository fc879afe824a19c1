"""What people install of the micro model: the model, its words, its colours; the recipe stays in the repository."""

from __future__ import annotations

import tomllib
from pathlib import Path

import engine.micro

ROOT = Path(__file__).parents[4]
MICRO = Path(engine.micro.__file__).parent
WEIGHTS = {
    "MODEL_CARD.md",
    "config.json",
    "dit.safetensors",
    "flf2v/config.json",
    "flf2v/dit.safetensors",
    "i2v/config.json",
    "i2v/dit.safetensors",
    "image_encoder.safetensors",
    "text_encoder.safetensors",
    "tiny_decoder.safetensors",
    "tokenizer.json",
    "vae.safetensors",
}


def test_the_package_holds_the_words_and_the_weights_alone() -> None:
    names = {path.name for path in MICRO.iterdir()} - {"__pycache__"}
    assert names == {"__init__.py", "grammar.py", "weights"}
    folder = MICRO / "weights"
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert files.keys() == WEIGHTS
    assert sum(path.stat().st_size for path in files.values()) <= 24_000_000


def test_the_wheel_is_made_of_the_four_packages() -> None:
    """Each with all of its files: hatchling leaves out only what git ignores."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert table["tool"]["hatch"]["build"] == {
        "targets": {"wheel": {"packages": ["presets", "store", "engine", "tui"]}}
    }
