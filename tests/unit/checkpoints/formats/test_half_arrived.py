"""Downloads that are not finished: told as such whatever their names and their lengths say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.checkpoints.formats.holes import MIN_HOLE_BYTES, check_no_holes
from engine.checkpoints.formats.weight_file import SIDECARS, UNFINISHED
from engine.checkpoints.library import absence
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.checkpoints.source import open_source, sources_in
from engine.errors import CheckpointError
from tests.weights import model_files
from tui.cli.main import main

VAE = locate("vae", "builtin:micro")


@pytest.mark.parametrize("ending", [*UNFINISHED, ".!UT"])
def test_an_ending_of_an_unfinished_download_is_told(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"wan.safetensors{ending}"
    path.write_bytes(VAE.read_bytes()[:5000])
    assert sources_in(tmp_path) == [path]
    with pytest.raises(CheckpointError, match=r"half-finished download.*finish"):
        open_source(tmp_path)


@pytest.mark.parametrize("ending", SIDECARS)
def test_a_file_whose_download_manager_is_at_work_is_not_taken_for_whole(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "wan.safetensors"
    path.write_bytes(VAE.read_bytes())
    assert layout_at(path)[1].component == "vae"
    sidecar = tmp_path / f"wan.safetensors{ending}"
    sidecar.write_bytes(b"\0\1")
    with pytest.raises(CheckpointError, match=f"{ending} lies beside it.*let it finish"):
        layout_at(path)
    sidecar.unlink()
    assert layout_at(path)[1].component == "vae"


SIDE = 1024  # of a matrix of 4 MiB


def saved(path: Path, *, unwritten: tuple[int, int]) -> Path:
    """A file of three matrices in which a stretch, by its share of the tensors' bytes in percent, was never written."""
    save_file({name: torch.ones(SIDE, SIDE) for name in "abc"}, path)
    data = path.read_bytes()
    start, stop = (len(data) * share // 100 for share in unwritten)
    with path.open("wb") as file:
        file.write(data[:start])
        file.seek(stop)
        file.write(data[stop:])
    os.truncate(path, len(data))
    return path


@pytest.mark.parametrize(
    ("unwritten", "name"), [((20, 50), "a"), ((30, 100), "b"), ((70, 100), "c"), ((0, 99), None)]
)
def test_a_matrix_that_was_never_written_is_told(
    tmp_path: Path, unwritten: tuple[int, int], name: str | None
) -> None:
    path = saved(tmp_path / "wan.safetensors", unwritten=unwritten)
    assert SIDE * SIDE * 4 > MIN_HOLE_BYTES
    if name is None:
        with pytest.raises(CheckpointError, match="begins with nothing but zeros"):
            open_source(path)
        return
    with pytest.raises(
        CheckpointError, match=f"length was reserved, but {name} was not written whole"
    ):
        check_no_holes(open_source(path).tensors)


@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
def test_whoever_looks_at_a_file_whose_length_was_reserved_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Not a run alone."""
    path = model_files.write_safetensors(tmp_path / "wan.safetensors", model_files.vae())
    more = [str(tmp_path / "out"), "--layout", "diffusers"] if command == "convert" else []
    code = main(["models", command, str(path), *more])
    said = "".join(capsys.readouterr())
    assert "a half-finished download: its length was reserved" in said
    assert code == (1 if command == "verify" else 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unwritten", [(0, 0), (2, 30), (40, 60)])
def test_zeros_within_one_matrix_may_be_meant(tmp_path: Path, unwritten: tuple[int, int]) -> None:
    """A copy, or a file system that compresses, leaves them out."""
    check_no_holes(open_source(saved(tmp_path / "x.safetensors", unwritten=unwritten)).tensors)


def test_zeros_that_were_written_are_weights(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    save_file({"a": torch.zeros(1024, 1024)}, path)
    check_no_holes(open_source(path).tensors)


def test_an_interrupted_download_of_the_hub_is_told_with_what_to_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "half of it" not in absence("denoiser", "wan2.1-t2v-1.3b", [])
    blobs = tmp_path / "models--Wan-AI--Wan2.1-T2V-1.3B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").touch()
    os.truncate(blobs / "abc.incomplete", 3_000_000_000)
    line = absence("denoiser", "wan2.1-t2v-1.3b", [])
    assert f"half of it is there: 3.0 GB of an unfinished download in {blobs}" in line


@pytest.mark.parametrize("asked", ["index", "shard", "folder"])
def test_the_index_of_a_variant_is_one(tmp_path: Path, asked: str) -> None:
    tensors = load_file(VAE)
    half = len(tensors) // 2
    places = {}
    for number, names in enumerate((list(tensors)[:half], list(tensors)[half:]), 1):
        file = f"diffusion_pytorch_model.fp16-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    shard = tmp_path / "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"
    found = open_source({"index": index, "shard": shard, "folder": tmp_path}[asked])
    assert found.path == index
    assert found.tensors.keys() == tensors.keys()
    assert sources_in(tmp_path) == [index]
