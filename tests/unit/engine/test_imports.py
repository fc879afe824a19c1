"""Models and schedulers run wherever torch, einops and safetensors do: nothing else is imported there."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[3] / "engine"
ALLOWED = {"torch", "einops", "safetensors"}
OWN = ("engine.models", "engine.schedulers")


def imported(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


FILES = sorted([*(ENGINE / "models").rglob("*.py"), *(ENGINE / "schedulers").rglob("*.py")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ENGINE)))
def test_imports_nothing_else(file: Path) -> None:
    allowed = set(ALLOWED)
    if file.name == "attention.py":
        allowed.add("sageattention")  # optional, imported where it is asked for
    foreign = {
        name
        for name in imported(file)
        if name.split(".")[0] not in allowed | sys.stdlib_module_names and not name.startswith(OWN)
    }
    assert foreign == set()


def test_there_is_something_to_look_at() -> None:
    names = {file.name for file in FILES}
    assert {"wandit.py", "wanvae.py", "t5.py", "flow_unipc.py"} <= names


def test_loading_models_imports_no_compiler() -> None:
    """Of torch and what it stands on: seconds of the first run of every engine."""
    code = """
import sys
from engine.components.providers import clip, umt5, wan_dit, wan_vae
from presets.library.loading import load_preset
parts = load_preset("micro-i2v").components
for load in (
    lambda: umt5.load(parts.text_encoder),
    lambda: clip.load(parts.image_encoder),
    lambda: wan_dit.load(parts.denoiser),
    lambda: wan_vae.load(parts.vae),
):
    load()
assert "torch" in sys.modules
assert not {"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
