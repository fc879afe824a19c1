"""TAEHV as the VAE of a run, and in place of the matrix that shows steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.chain.previews import preview_of, previewer_of
from engine.checkpoints.convert.convert import convert
from engine.checkpoints.known import catalogue, expected
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.library import scan_places, target_of
from engine.checkpoints.source import open_source
from engine.components.providers import taehv, wan_vae
from engine.components.unseen import published
from engine.errors import CheckpointError, ComponentError
from engine.models.vae.taehv import TAEHV
from presets.spec.components import VAESpec
from store.index.index import Index
from tests.oracles.parity import randomise
from tests.weights.model_files import vae, write_safetensors


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    model = TAEHV()
    randomise(model, 0)
    return {name: weight.half() for name, weight in model.state_dict().items()}


@pytest.fixture
def index(tmp_path: Path):
    with Index(tmp_path / "index.sqlite") as opened:
        yield opened


def spec(path: Path, **options) -> VAESpec:
    return VAESpec(name="taehv", checkpoint=str(path), device="cpu", **options)


@pytest.mark.parametrize("name", ["taew2_1.safetensors", "taew2_1.pth"])
def test_a_file_of_either_format_is_loaded(tmp_path, index, weights, name: str) -> None:
    path = tmp_path / name
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    found = recognise(open_source(path))
    assert (found.component, found.variant, found.supported, found.note) == (
        "vae", "taew2.1", True, "",
    )  # fmt: skip
    about = taehv.describe(spec(path), index)
    assert about.facts == {
        "latent_channels": 16, "latent_stride": [4, 8, 8], "latents_of": "wan2.1",
    }  # fmt: skip
    assert about.identity["name"] == "taehv"
    assert about.identity["weights"]
    component = taehv.use(taehv.load(spec(path)), spec(path))
    video = torch.cat(list(component.decode(torch.zeros(1, 16, 2, 2, 3))), 2)
    assert video.shape == (1, 3, 5, 16, 24)
    assert component.encode(video).shape == (1, 16, 2, 2, 3)


def typed(shapes) -> dict:
    return {name: ("F16", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "changed", "note"),
    [
        ("taew2_2.safetensors", {"encoder.17.weight": (48, 64, 3, 3)}, "of 48 channels; take taew2_1"),
        ("taehv.safetensors", {}, "of HunyuanVideo, by its name; take taew2_1"),
        ("taecvx.pth.safetensors", {}, "of CogVideoX, by its name"),
    ],
)  # fmt: skip
def test_those_for_other_latents_are_refused(tmp_path, index, name, changed, note) -> None:
    path = write_safetensors(tmp_path / name, typed(expected.taehv() | changed))
    found = recognise(open_source(path))
    assert (found.component, found.supported) == ("vae", False)
    assert note in found.note
    with pytest.raises(CheckpointError, match=note):
        taehv.describe(spec(path), index)


def test_a_name_that_tells_nothing_is_said_to(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "tiny.safetensors", typed(expected.taehv()))
    assert (
        "HunyuanVideo, CogVideoX and Open-Sora have the same" in recognise(open_source(path)).note
    )


def test_each_component_takes_its_own_files(tmp_path, index, weights) -> None:
    tiny, whole = tmp_path / "taew2_1.safetensors", tmp_path / "vae.safetensors"
    save_file(weights, tiny)
    write_safetensors(whole, vae())
    with pytest.raises(CheckpointError, match=r"a TAEHV.*components\.vae\.name=taehv"):
        wan_vae.describe(VAESpec(checkpoint=str(tiny)), index)
    with pytest.raises(CheckpointError):
        taehv.describe(spec(whole), index)


def test_a_tiny_vae_is_not_converted(tmp_path, weights) -> None:
    save_file(weights, tmp_path / "taew2_1.safetensors")
    with pytest.raises(CheckpointError, match="read everywhere as it is"):
        convert(open_source(tmp_path / "taew2_1.safetensors"), tmp_path / "x", layout="diffusers")


WAN = {"latents_of": "wan2.1", "latent_channels": 16}


def test_steps_are_shown_by_it_where_its_file_is(tmp_path, weights, monkeypatch) -> None:
    monkeypatch.setenv("MODIFF_MODELS", str(tmp_path))
    assert previewer_of(WAN) is preview_of
    (tmp_path / "vae_approx").mkdir()
    torch.save(weights, tmp_path / "vae_approx" / "taew2_1.pth")
    show, latents = previewer_of(WAN), torch.randn(1, 16, 10, 3, 104)
    assert show is not None
    preview = show(latents)
    assert (preview.num_frames, preview.height, preview.width) == (8, 3, 96)
    assert preview.pixels != preview_of(latents).pixels
    assert previewer_of(WAN | {"latent_channels": 48}) is None


def test_steps_are_shown_by_the_matrix_where_its_file_is_none(
    tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("MODIFF_MODELS", str(tmp_path))
    (tmp_path / "taew2_1.safetensors").write_bytes(b"damaged")
    assert previewer_of(WAN) is preview_of
    assert "steps are shown without a TAEHV" in caplog.text


def test_tiles_are_refused(tmp_path, index) -> None:
    with pytest.raises(ComponentError, match="takes whole frames"):
        taehv.describe(spec(tmp_path / "x", tile_size=128), index)


def test_the_published_one_is_found_by_its_name(tmp_path, weights, monkeypatch) -> None:
    """Not others of its layout, which are other weights."""
    monkeypatch.setenv("MODIFF_MODELS", str(tmp_path))
    named = VAESpec(name="taehv", checkpoint="taew2.1", device="cpu")
    model = catalogue.model("taew2.1", "vae")
    assert model is not None
    for name in ("lighttaew2_1.safetensors", "tiny.safetensors"):
        save_file(weights, tmp_path / name)
    with pytest.raises(CheckpointError, match="OzzyGT/taew2_1"):
        taehv.settle(named, scan_places)
    about = published("vae", named)
    assert about is not None
    path = target_of(model.releases[0]) / "taew2_1.safetensors"
    path.parent.mkdir()
    save_file(weights, path)
    assert taehv.settle(named, scan_places).checkpoint == str(path)
    assert about.num_bytes == sum(weight.numel() for weight in weights.values()) * 4
    # as `modiff models get` leaves it, it shows steps too
    assert previewer_of(WAN) is not preview_of
