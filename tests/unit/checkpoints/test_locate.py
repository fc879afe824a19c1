"""From what a preset says to the files: names, paths, folders, and the tokenizer that goes with an encoder."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.known.expected import UMT5Shape
from engine.checkpoints.known.expected import umt5 as umt5_tensors
from engine.checkpoints.locate import locate, tokenizer_in
from engine.checkpoints.places import models_folder
from engine.checkpoints.vocabulary.held import digest_of
from engine.checkpoints.vocabulary.sentencepiece_model import of_sentencepiece
from engine.components.choice import settle
from engine.components.protocols import Description
from engine.components.providers import umt5, wan_dit
from engine.errors import CheckpointError
from presets.library.loading import load_preset
from presets.spec.components import Components, TextEncoderSpec
from presets.spec.run import RunSpec
from store.index.index import open_index
from tests.weights import model_files, vocabularies


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
    with pytest.raises(CheckpointError, match=r"components\.vae\.checkpoint: is empty"):
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
    siblings = shutil.ignore_patterns("i2v", "flf2v")
    shutil.copytree(locate("vae", "builtin:micro").parent, folder, ignore=siblings)
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


def test_a_folder_with_a_lora_alone_says_what_it_holds(tmp_path: Path) -> None:
    name = "diffusion_model.blocks.0.self_attn.q.lora_{}.weight"
    tensors = {name.format("A"): torch.zeros(4, 8), name.format("B"): torch.zeros(8, 4)}
    folder = tmp_path / "loras"
    folder.mkdir()
    save_file(tensors, folder / "style.safetensors")
    with pytest.raises(CheckpointError) as caught:
        locate("denoiser", str(folder))
    assert str(caught.value) == (
        f"{folder}: holds no checkpoint of a denoiser (but a lora style.safetensors)"
    )


# The vocabulary that an encoder has inside

SPIECE = vocabularies.trained()


def comfyui_encoder(folder: Path, model: bytes = SPIECE) -> Path:
    """An encoder with as many rows as the vocabulary inside has pieces."""
    folder.mkdir(exist_ok=True)
    num_pieces = len(of_sentencepiece(model).pieces)
    shape = UMT5Shape(vocab=num_pieces, dim=8, ffn=8, layers=1, heads=1, buckets=4, inner=8)
    tensors = {name: torch.zeros(size) for name, size in umt5_tensors(shape).items()}
    held = torch.frombuffer(bytearray(model), dtype=torch.uint8)
    path = folder / "umt5.safetensors"
    save_file(tensors | {"spiece_model": held}, path)
    return path


def described(folder: Path, **options: str) -> Description:
    with open_index(folder / "store") as index:
        return umt5.describe(TextEncoderSpec(**options), index)


def test_the_vocabulary_inside_comes_after_a_named_one_and_before_all_others(
    tmp_path: Path,
) -> None:
    path = comfyui_encoder(tmp_path / "models")
    beside = vocabularies.write_tokenizer_json(path.parent, SPIECE)
    spec = TextEncoderSpec(checkpoint=str(path))
    assert umt5.tokenizer_file(spec) == path
    named = msgspec.structs.replace(spec, tokenizer=str(beside))
    assert umt5.tokenizer_file(named) == beside
    settled = umt5.settle(spec, list)
    assert (settled.checkpoint, settled.tokenizer) == (str(path), str(path))
    bare = tmp_path / "bare" / "umt5.safetensors"
    bare.parent.mkdir()
    tensors = load_file(path)
    del tensors["spiece_model"]
    save_file(tensors, bare)
    spec = TextEncoderSpec(checkpoint=str(bare))
    with pytest.raises(CheckpointError, match="umt5-xxl"):
        umt5.tokenizer_file(spec)
    (bare.parent / "spiece.model").write_bytes(SPIECE)
    assert umt5.tokenizer_file(spec) == bare.parent / "spiece.model"
    vocabularies.write_tokenizer_json(bare.parent, SPIECE)
    assert umt5.tokenizer_file(spec) == bare.parent / "tokenizer.json"
    # that of another file, by its name
    other = TextEncoderSpec(checkpoint=str(bare), tokenizer=str(path))
    assert umt5.tokenizer_file(other) == path


def test_the_vocabulary_inside_is_part_of_what_the_encoder_is(tmp_path: Path) -> None:
    """All of it: of numbers as many as these a sample sees but three places."""
    one = comfyui_encoder(tmp_path / "one")
    changed = vocabularies.trained(remove_extra_whitespaces=False)
    two = comfyui_encoder(tmp_path / "two", changed)
    about = described(tmp_path, checkpoint=str(one))
    assert about.files == (one,)
    assert about.identity["vocabulary"] == digest_of(one)
    assert about.identity == described(tmp_path, checkpoint=str(one), tokenizer=str(one)).identity
    assert (
        about.identity["vocabulary"]
        != described(tmp_path, checkpoint=str(two)).identity["vocabulary"]
    )
    json = vocabularies.write_tokenizer_json(tmp_path, SPIECE)
    named = described(tmp_path, checkpoint=str(one), tokenizer=str(json))
    assert named.files == (one, json)
    assert "vocabulary" not in named.identity
    assert named.identity["weights"] != about.identity["weights"]
    spiece = tmp_path / "spiece.model"
    spiece.write_bytes(SPIECE)
    beside = described(tmp_path, checkpoint=str(one), tokenizer=str(spiece))
    assert "vocabulary" not in beside.identity
    assert len({a.identity["weights"] for a in (about, named, beside)}) == 3


def test_what_is_built_in_has_some_components() -> None:
    assert locate("denoiser", "builtin:micro-i2v").parts[-2:] == ("i2v", "dit.safetensors")
    assert locate("denoiser", "builtin:micro-flf2v").parts[-2:] == ("flf2v", "dit.safetensors")
    assert locate("image_encoder", "builtin:micro").name == "image_encoder.safetensors"
    with pytest.raises(CheckpointError) as told:
        locate("vae", "builtin:micro-i2v")
    assert str(told.value) == (
        "components.vae.checkpoint: builtin:micro-i2v has no vae; builtin:micro has one"
    )
