"""The folders of other programs, by their own files and variables."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.checkpoints import elsewhere
from engine.checkpoints.places import places


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "ComfyUI"
    home.mkdir()
    monkeypatch.setenv("COMFYUI_PATH", str(home))
    return home


def extra(home: Path, text: str) -> list[Path]:
    (home / "extra_model_paths.yaml").write_text(text)
    found = elsewhere.comfyui_folders()
    assert found[0] == home / "models"
    return [path for path in found if path.name != "models"]


def test_the_folders_that_comfyui_was_told_of_are_looked_at(comfyui: Path) -> None:
    text = """
# as its example has it
a111:
    base_path: /srv/webui/
    checkpoints: models/Stable-diffusion
    hypernetworks: models/hypernetworks
comfyui:
    base_path: shared
    is_default: true
    diffusion_models: |
        unet
        more/wan
    vae: /absolute/vae
"""
    assert extra(comfyui, text) == [
        Path("/srv/webui/models/Stable-diffusion"),
        comfyui / "shared/unet",
        comfyui / "shared/more/wan",
        Path("/absolute/vae"),
    ]
    assert comfyui / "shared/unet" in [place.path for place in places()]


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "comfyui: {}\n", "comfyui:\n#  vae: x\n", "a: ~\nb: null\n"]
)
def test_a_list_of_nothing_is_nothing(comfyui: Path, text: str) -> None:
    assert extra(comfyui, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: 2024-30-01\n",
        "- a\n- b\n",
        "a: 3\n",
        "!!python/object/apply:os.system ['true']",
        "x" * 300_000,
        "a: {<<: [x]}",
    ],
)
def test_a_list_that_cannot_be_read_is_told_of_itself(comfyui: Path, text: str) -> None:
    assert extra(comfyui, text) == [comfyui / "extra_model_paths.yaml"]


def test_what_sections_share_counts_for_each(comfyui: Path) -> None:
    text = """
defaults: &defaults
    base_path: /shared
    vae: vae
comfyui:
    <<: *defaults
    vae: mine
"""
    assert extra(comfyui, text) == [Path("/shared/vae"), Path("/shared/mine")]


# CPU seconds, twenty times what it takes: only what grows with the square of a file gets there.
MAX_SECONDS = 2.0


def test_a_list_of_a_stranger_takes_no_time(comfyui: Path) -> None:
    """To YAML this is a number to the base of sixty, of 120,000 digits."""
    begun = time.process_time()
    assert extra(comfyui, "a: " + "1:" * 120_000 + "1") == [comfyui / "extra_model_paths.yaml"]
    assert time.process_time() - begun < MAX_SECONDS


def test_the_cache_of_modelscope_is_looked_at_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "hub"))
    assert elsewhere.other_folders() == []
    (tmp_path / "hub").mkdir()
    assert elsewhere.other_folders() == [(tmp_path / "hub", "ModelScope cache")]
