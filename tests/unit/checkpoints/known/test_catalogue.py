"""What was published: sizes that fit the models' parameters, names that are unique, text that people can use."""

from __future__ import annotations

import re
from pathlib import PurePath

import pytest

from engine.checkpoints.known import catalogue
from engine.checkpoints.known.catalogue import MODELS, PublishedFile, Release

# Parameters as the papers' code builds them, and bytes of a number, by what a release says it stores.
PARAMETERS = {
    "wan2.1-t2v-1.3b": 1_418_996_800,
    "wan2.1-t2v-14b": 14_288_491_584,
    "wan2.1-i2v-14b-480p": 16_394_878_784,
    "wan2.1-i2v-14b-720p": 16_394_878_784,
    "wan2.1-flf2v-14b": 16_395_536_704,
    "wan2.1-vace-1.3b": 2_153_972_032,
    "wan2.1-vace-14b": 17_337_592_896,
    "umt5-xxl": 5_680_910_336,
    "wan2.1-vae": 126_892_531,
    "taew2.1": 11_315_539,
}
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "16 bits": 2, "fp8": 1}


def test_the_names_that_presets_use():
    assert list(dict.fromkeys(model.name for model in catalogue.MODELS)) == [
        *PARAMETERS,
        "clip-vit-h-14",
    ]


def test_a_name_and_a_kind_are_one_model():
    keys = [(model.name, model.kind) for model in MODELS]
    assert len(keys) == len(set(keys))
    assert (
        catalogue.model("umt5-xxl", "tokenizer")
        .releases[0]
        .files[0]
        .name.endswith("tokenizer.json")
    )
    assert catalogue.model("umt5-xxl").kind == "text_encoder"
    assert catalogue.model("wan2.1-t2v-14b", "vae") is None
    assert catalogue.model("wan3") is None


@pytest.mark.parametrize("model", [m for m in MODELS if m.name in PARAMETERS and m.kind != "tokenizer"],
                         ids=lambda model: model.name)  # fmt: skip
def test_bytes_are_those_of_the_parameters(model):
    """A header takes at most half a percent; mixed files hold some tensors at twice the width."""
    for release in model.releases:
        size = release.num_bytes or release.about_bytes
        if release.note in BYTES:
            assert 1 <= size / (PARAMETERS[model.name] * BYTES[release.note]) < 1.005, release
        else:
            assert release.note == "scaled fp8"


def test_the_publishers_release_is_first_and_every_file_has_a_folder_of_its_repository():
    for model in MODELS:
        if model.name != "taew2.1":  # whose author publishes on GitHub
            assert model.releases[0].repository.startswith("Wan-AI/")
        for release in model.releases:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", release.repository)
            assert not any(file.name.startswith("/") for file in release.files)


def test_shards_are_listed_once_and_summed():
    (release, *_) = catalogue.model("wan2.1-t2v-14b").releases
    assert release.num_bytes == 57_154_077_392 + 96_805
    assert catalogue.total_size(release) == "57.15 GB"
    assert catalogue.file_list(release) == (
        "diffusion_pytorch_model-{00001..00006}-of-00006.safetensors "
        "(9.89 GB, 9.84 GB, 9.84 GB, 9.84 GB, 9.84 GB, 7.91 GB), "
        "diffusion_pytorch_model.safetensors.index.json (97 kB)"
    )


def test_what_is_not_known_exactly_is_said_to_be_about_right():
    (vace, *_) = catalogue.model("wan2.1-vace-14b").releases
    assert vace.num_bytes is None
    assert catalogue.total_size(vace) == "about 69.35 GB"
    assert catalogue.file_list(vace) == "diffusion_pytorch_model*"
    assert catalogue.total_size(Release("a/b", (PublishedFile("c"),), "")) == ""


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/m/wan_2.1_vae.safetensors", "wan2.1-vae", True),
        ("/m/wan_alpha_2.1_vae_rgb_channel.safetensors", "wan2.1-vae", False),
        ("/m/models_t5_umt5-xxl-enc-bf16.pth.part", "umt5-xxl", True),
        ("/m/diffusion_pytorch_model.safetensors.index.json", "wan2.1-t2v-14b", False),
        (
            "/m/Wan2.1-T2V-14B/diffusion_pytorch_model.safetensors.index.json",
            "wan2.1-t2v-14b",
            True,
        ),
        (
            "/m/Wan2.1-I2V-14B-480P/diffusion_pytorch_model.safetensors.index.json",
            "wan2.1-t2v-14b",
            False,
        ),
        (
            "/h/models--Wan-AI--Wan2.1-T2V-14B/snapshots/0/diffusion_pytorch_model-00002-of-00006.safetensors",
            "wan2.1-t2v-14b",
            True,
        ),
    ],
)
def test_what_is_called_as_it_was_published(path, name, expected):
    assert catalogue.is_published_name(catalogue.model(name), PurePath(path)) is expected


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (96_805, "97 kB"),
        (507_609_880, "508 MB"),
        (57_154_077_392, "57.15 GB"),
    ],
)
def test_sizes_are_decimal(num_bytes, text):
    assert catalogue.decimal_size(num_bytes) == text
