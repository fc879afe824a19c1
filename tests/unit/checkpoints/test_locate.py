"""From what a preset says to the files: names, paths, folders, and the tokenizer that goes with an encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from engine.checkpoints.locate import locate, tokenizer_in
from engine.checkpoints.places import models_folder
from engine.components import umt5, wan_dit
from engine.components.choice import settle
from engine.errors import CheckpointError
from presets.library import load_preset
from presets.spec import Components, RunSpec
from store.index.index import open_index
from tests import model_files


def test_fingerprint_counts_every_file_of_a_component(tmp_path: Path) -> None:
    """Another tokenizer or configuration makes other numbers of the same weights."""
    for name in ("text_encoder.safetensors", "tokenizer.json", "dit.safetensors", "config.json"):
        shutil.copyfile(locate("vae", "builtin:micro").with_name(name), tmp_path / name)
    parts = load_preset(
        "micro",
        [
            f"components.text_encoder.checkpoint={tmp_path / 'text_encoder.safetensors'}",
            f"components.text_encoder.tokenizer={tmp_path / 'tokenizer.json'}",
            f"components.denoiser.checkpoint={tmp_path / 'dit.safetensors'}",
        ],
    ).components

    def fingerprints() -> tuple[str, str]:
        with open_index(tmp_path / "store") as index:
            abouts = (
                umt5.describe(parts.text_encoder, index),
                wan_dit.describe(parts.denoiser, index),
            )
        return tuple(about.identity["weights"] for about in abouts)

    text, denoiser = fingerprints()
    assert fingerprints() == (text, denoiser)
    for name in ("tokenizer.json", "config.json"):
        file = tmp_path / name
        file.write_text(file.read_text() + " ")
    assert fingerprints()[0] != text
    assert fingerprints()[1] != denoiser


def test_locate(own_folders: Path, tmp_path: Path) -> None:
    assert models_folder() == own_folders / "models"
    with pytest.raises(CheckpointError, match=r"components\.vae\.checkpoint is empty"):
        locate("vae", "")
    with pytest.raises(CheckpointError, match=r"--set components\.denoiser\.checkpoint="):
        locate("denoiser", "nowhere/file.safetensors")
    file = own_folders / "models" / "vae.safetensors"
    file.parent.mkdir()
    file.touch()
    assert locate("vae", "vae.safetensors") == file
    assert locate("vae", str(file)) == file
    for kind in ("text_encoder", "tokenizer", "denoiser", "vae"):
        assert locate(kind, "builtin:micro").is_file()


def micro_folder(folder: Path) -> Path:
    """The micro model as somebody's repository of the original layout."""
    shutil.copytree(locate("vae", "builtin:micro").parent, folder)
    return folder


def test_a_folder_stands_for_the_one_component_in_it(tmp_path: Path) -> None:
    folder = micro_folder(tmp_path / "repository")
    assert locate("denoiser", str(folder)) == folder / "dit.safetensors"
    assert locate("vae", str(folder)) == folder / "vae.safetensors"
    assert locate("tokenizer", str(folder)) == folder / "tokenizer.json"
    shutil.copy(folder / "vae.safetensors", folder / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds 2 checkpoints of a vae \(other\.safetensors, vae"
    ):
        locate("vae", str(folder))
    (folder / "dit.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"holds no checkpoint of a denoiser \(.*dit\.safetensors: .*empty"
    ):
        locate("denoiser", str(folder))


@pytest.mark.parametrize(
    "place", ["tokenizer.json", "google/umt5-xxl/tokenizer.json", "../tokenizer/tokenizer.json"]
)
def test_the_tokenizer_is_found_where_it_was_published(tmp_path: Path, place: str) -> None:
    weights = tmp_path / "text_encoder" / "model.safetensors"
    weights.parent.mkdir()
    assert tokenizer_in(weights.parent) is None
    tokenizer = weights.parent / place
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.touch()
    assert tokenizer_in(weights.parent) == tokenizer


def test_names_become_paths(own_folders: Path) -> None:
    folder = own_folders / "models" / "Wan2.1-T2V-1.3B"
    dit = model_files.write_safetensors(folder / "dit.safetensors", model_files.t2v_1_3b())
    vae = model_files.write_safetensors(folder / "vae.safetensors", model_files.vae())
    spec = load_preset("wan2.1-t2v-1.3b")
    with pytest.raises(CheckpointError) as caught:
        settle(spec)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("`modiff models where NAME`")
    assert lines[0].startswith(
        "components.text_encoder.checkpoint: umt5-xxl (text encoder): not found"
    )
    assert lines[1].startswith("components.text_encoder.tokenizer: umt5-xxl (tokenizer): not found")
    assert "models_t5_umt5-xxl-enc-bf16.pth" in lines[0]
    assert str(own_folders / "models" / "Wan2.1-T2V-1.3B") in lines[0]
    encoder = load_preset("micro").components.text_encoder
    parts: Components = msgspec.structs.replace(spec.components, text_encoder=encoder)
    settled: RunSpec = settle(msgspec.structs.replace(spec, components=parts))
    assert settled.components.denoiser.checkpoint == str(dit)
    assert settled.components.vae.checkpoint == str(vae)
    assert settled.components.text_encoder == encoder
