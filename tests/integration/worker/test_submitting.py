"""What is checked and settled before a run is queued."""

from __future__ import annotations

import sys

import msgspec
import pytest

from engine.client import submit
from engine.components import registry
from engine.components.choice import settle
from engine.errors import ComponentError
from presets.encoding import decode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset


@pytest.fixture
def checked(monkeypatch):
    """Component checks that pass, whatever checkpoints this machine has."""
    monkeypatch.setattr("engine.client.check", lambda store, spec: None)


@pytest.mark.usefixtures("checked")
def test_a_submitted_run_gets_a_path_of_its_own(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = load_preset("micro")
    run = store.run(submit(store, spec, preset="micro"))
    assert run.output == str(tmp_path / f"modiff-{run.id}.mp4")
    assert decode_spec(run.spec_json) == spec
    assert (run.status, run.preset) == ("queued", "micro")


@pytest.mark.usefixtures("checked")
def test_a_given_output_wins_over_the_preset_and_is_made_absolute(store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = load_preset("micro", ["output.path=from-preset.mp4"])
    run = store.run(submit(store, spec))
    assert run.output == str(tmp_path / "from-preset.mp4")
    run = store.run(submit(store, spec, output="given.mp4"))
    assert run.output == str(tmp_path / "given.mp4")


@pytest.mark.usefixtures("checked")
@pytest.mark.parametrize("output", ["missing/v.mp4", ".", "file/v.mp4"])
def test_an_output_that_cannot_be_written_is_refused_before_queueing(
    store, monkeypatch, tmp_path, output
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PresetError, match=r"^output\.path: ") as caught:
        submit(store, load_preset("micro"), output=output)
    assert "\n" not in str(caught.value)
    assert store.runs(limit=9) == []


def test_components_are_checked_before_queueing(store):
    spec = load_preset("micro", ["components.vae.name=unheard-of"])
    with pytest.raises(ComponentError, match="unheard-of"):
        submit(store, spec)
    assert store.runs(limit=9) == []


def test_files_of_a_submitted_run_do_not_depend_on_the_environment(store, monkeypatch, tmp_path):
    monkeypatch.setattr("engine.client.check", lambda store, spec: None)
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "models"
    (models / "umt5").mkdir(parents=True)
    for name in ("text.safetensors", "umt5/tokenizer.json", "dit.safetensors"):
        (models / name).write_bytes(b"")
    monkeypatch.setenv("MODIFF_MODELS", "models")
    spec = load_preset(
        "micro",
        [
            "components.text_encoder.checkpoint=text.safetensors",
            "components.text_encoder.tokenizer=umt5/tokenizer.json",
            "components.denoiser.checkpoint=dit.safetensors",
        ],
    )
    stored = decode_spec(store.run(submit(store, spec)).spec_json).components
    assert stored.text_encoder.checkpoint == str(models / "text.safetensors")
    assert stored.text_encoder.tokenizer == str(models / "umt5" / "tokenizer.json")
    assert stored.denoiser.checkpoint == str(models / "dit.safetensors")
    assert stored.vae == spec.components.vae


def test_files_of_a_third_party_component_are_its_own_affair(monkeypatch):
    spec = load_preset("micro", ["components.vae.checkpoint=no/such/file"])
    vae = msgspec.structs.replace(spec.components.vae, name="other")
    other = msgspec.structs.replace(
        spec, components=msgspec.structs.replace(spec.components, vae=vae)
    )
    with pytest.raises(ComponentError, match="unknown 'other'"):
        settle(other)
    provided = registry.provider
    monkeypatch.setattr(
        registry,
        "provider",
        lambda kind, name: object() if name == "other" else provided(kind, name),
    )
    assert settle(other) == other


def test_sage_without_its_package_is_refused_before_queueing(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "sageattention", None)  # what Python takes for not installed
    spec = load_preset("micro", ["components.denoiser.attention=sage"])
    with pytest.raises(ComponentError, match=r"components\.denoiser\.attention: 'sage' needs"):
        submit(store, spec)
    assert store.runs(limit=9) == []


def test_a_specification_that_is_not_valid_is_refused_before_queueing(store):
    spec = msgspec.structs.replace(load_preset("micro"), frames=18)
    with pytest.raises(PresetError, match="frames"):
        submit(store, spec)
    assert store.runs(limit=9) == []
