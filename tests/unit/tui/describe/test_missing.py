"""What is told of models that are here and models that are not: the table, the commands, the object of `--json`."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checkpoints.known import catalogue
from engine.components.needed import ModelsAbsent, Needed, needed
from engine.errors import CheckpointError
from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.models import missing
from tui.describe.plan import memory_estimate, planned
from tui.text import columns


def parts(preset: str = "wan2.1-t2v-14b") -> list[Needed]:
    return needed(load_preset(preset), [])


def test_every_file_has_a_row_and_all_of_them_a_total():
    assert [" ".join(row).split() for row in missing.rows(parts())] == [
        ["PART", "FILE", "SIZE", "HERE"],
        ["text", "encoder", "models_t5_umt5-xxl-enc-bf16.pth", "11.36", "GB", "need"],
        ["tokenizer", "google/umt5-xxl/tokenizer.json", "17", "MB", "need"],
        ["denoiser", "diffusion_pytorch_model-{00001..00006}-of-00006.safetensors", "57.15", "GB", "need"],
        ["diffusion_pytorch_model.safetensors.index.json", "97", "kB", "need"],
        ["vae", "Wan2.1_VAE.pth", "508", "MB", "need"],
        ["total", "69.04", "GB", "to", "get"],
    ]  # fmt: skip


def test_a_size_that_is_not_known_exactly_is_about():
    assert missing.missing_size(parts("wan2.1-t2v-1.3b")) == "about 17.56 GB"
    assert missing.missing_size(parts("micro")) == "0 bytes"


def test_the_narrow_table_fits_forty_columns():
    lines = columns(missing.brief_rows(parts()))
    assert lines == [
        "text encoder  11.36 GB  need",
        "tokenizer     17 MB     need",
        "denoiser      57.15 GB  need",
        "vae           508 MB    need",
    ]


def test_each_model_has_one_command(own_folders: Path):
    commands = missing.commands(parts())
    assert len(commands) == 4
    assert commands[3] == (
        "hf download Wan-AI/Wan2.1-T2V-1.3B Wan2.1_VAE.pth --local-dir "
        f"{own_folders / 'models' / 'Wan2.1-T2V-1.3B'}"
    )
    told = missing.lines(parts(), "wan2.1-t2v-14b")
    assert [line.strip() for line in told[-4:]] == commands
    assert "get them:  modiff models get wan2.1-t2v-14b" in told
    assert "get them:  modiff models get umt5-xxl wan2.1-t2v-14b wan2.1-vae" in missing.lines(
        parts()
    )


def test_what_is_here_is_had():
    told = missing.as_json(parts("micro"))
    assert [(part["component"], part["have"]) for part in told] == [
        ("text_encoder", True),
        ("tokenizer", True),
        ("denoiser", True),
        ("vae", True),
    ]
    assert all(Path(part["path"]).is_file() for part in told)


def test_a_plan_needs_no_weights():
    with open_store() as store:
        made = planned(store, load_preset("wan2.1-t2v-14b"))
    assert (made.total_steps, made.stored_steps) == (50, 0)
    assert [row.state for row in made.rows] == ["compute"] * 4
    # fp32 latents [16,21,90,160] of 50 steps, and those after the last
    assert made.bytes == 51 * 4 * 16 * 21 * 90 * 160
    assert [part.kind for part in made.missing] == ["text_encoder", "tokenizer", "denoiser", "vae"]
    # parameters of the published models, in the dtypes of the preset; what a denoiser keeps in fp32 takes twice as much
    assert made.weights == {
        "text_encoder": 2 * 5_680_910_336,
        "denoiser": 2 * (14_288_491_584 + 187_648_064),
        "vae": 4 * 126_892_531,
    }
    assert memory_estimate(made) == (
        "38.0 GiB of weights (denoiser 27.0 GiB, text encoder 10.6 GiB, vae 484 MiB)"
    )


def test_a_plan_of_models_that_are_here_is_no_estimate():
    with open_store() as store:
        made = planned(store, load_preset("micro"))
    assert (made.missing, made.weights) == ((), {})


def test_what_cannot_fit_is_refused_without_weights_too():
    with open_store() as store, pytest.raises(Exception, match="is an image-to-video model"):
        planned(
            store,
            load_preset("wan2.1-t2v-14b", ["components.denoiser.checkpoint=wan2.1-i2v-14b-480p"]),
        )


def test_a_path_that_is_not_there_is_still_refused():
    spec = load_preset("micro", ["components.vae.checkpoint=/none.safetensors"])
    with open_store() as store, pytest.raises(CheckpointError) as told:
        planned(store, spec)
    assert not isinstance(told.value, ModelsAbsent)


def test_the_catalogue_and_the_published_shapes_agree():
    """Every denoiser that a preset can name has its plan without weights."""
    from engine.components.unseen import published
    from presets.spec.components import DenoiserSpec

    for model in catalogue.MODELS:
        if model.kind == "denoiser":
            assert published("denoiser", DenoiserSpec(checkpoint=model.name)) is not None
