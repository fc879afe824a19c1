"""Files that belong together are taken together; those that do not are told apart, in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.source import open_source, read_config, read_json, sources_in, stays_inside
from engine.errors import CheckpointError

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"


def shard(number: int, total: int = 3) -> str:
    return f"{STEM}-{number:05}-of-{total:05}.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Three shards of two tensors each, and their index."""
    folder = tmp_path / "model"
    folder.mkdir()
    places = {}
    for number in (1, 2, 3):
        tensors = {f"t{number}.{leaf}": torch.full((4,), float(number)) for leaf in ("a", "b")}
        save_file(tensors, folder / shard(number))
        places |= dict.fromkeys(tensors, shard(number))
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": places}))
    return folder


def refused(path: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["", INDEX, shard(1), shard(3)])
def test_any_part_of_a_set_opens_all_of_it(sharded: Path, asked: str) -> None:
    source = open_source(sharded / asked if asked else sharded)
    assert [file.name for file in source.files] == [shard(1), shard(2), shard(3)]
    assert sorted(source.tensors) == ["t1.a", "t1.b", "t2.a", "t2.b", "t3.a", "t3.b"]
    assert source.path.name == INDEX
    assert source.note == ""


def test_numbered_shards_need_no_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    for asked in (sharded, sharded / shard(2)):
        source = open_source(asked)
        assert (source.path.name, len(source.files), len(source.tensors)) == (shard(1), 3, 6)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / shard(2)).unlink()
    refused(sharded, f"1 of 3 shards are missing \\({shard(2)}\\); download them into")
    (sharded / INDEX).unlink()
    refused(sharded / shard(1), "1 of 3 shards are missing")


def test_shards_of_two_models_are_noticed(sharded: Path) -> None:
    save_file({"other": torch.zeros(1)}, sharded / shard(2))
    refused(sharded, r"2 tensors are not where it says \(t2\.a not in .*all from one repository")
    save_file(
        {"t2.a": torch.zeros(1), "t2.b": torch.zeros(1), "t1.a": torch.zeros(1)}, sharded / shard(2)
    )
    refused(sharded, r"holds t1\.a, which .* holds too")


def test_a_size_that_is_not_the_index_is_told(sharded: Path) -> None:
    tensors = {name: torch.zeros(4, dtype=torch.bfloat16) for name in ("t2.a", "t2.b")}
    save_file(tensors, sharded / shard(2))
    assert (
        open_source(sharded).note == "its index speaks of 96 bytes of tensors, its shards hold 80"
    )


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""]
)
def test_an_index_cannot_reach_out(sharded: Path, name: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"t1.a": name}}))
    refused(sharded, "not a file of its own folder")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged JSON"),
        ("[]", "expected a JSON object"),
        ('{"weight_map": 3}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {}}', "names 0 shards"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "a is there twice"),
        ("[" * 100_000, "damaged JSON"),
    ],
)
def test_a_damaged_index_is_refused(sharded: Path, text: str, words: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded / INDEX, words)


def test_names_in_an_index_are_told_short_and_printable(sharded: Path) -> None:
    name = "x\x1b[31m" * 500
    for table in (
        {"weight_map": {name: shard(1)}},
        {"weight_map": {"a": f"{name}.safetensors"}},
        {"weight_map": {"a": f"/{name}"}},
        {"weight_map": {f"\n{n}": f"{n}{name}" for n in range(5)}},
    ):
        (sharded / INDEX).write_text(json.dumps(table))
        with pytest.raises(CheckpointError) as caught:
            open_source(sharded / INDEX)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < len(str(sharded / INDEX)) + 310


@pytest.mark.parametrize("size", [-1, 10**400, True, "96"])
def test_a_size_that_makes_no_sense_is_not_told(sharded: Path, size: object) -> None:
    table = json.loads((sharded / INDEX).read_text())
    (sharded / INDEX).write_text(json.dumps(table | {"metadata": {"total_size": size}}))
    assert open_source(sharded).note == ""


def test_a_shard_that_is_still_coming_is_told_once(sharded: Path) -> None:
    (sharded / shard(2)).rename(sharded / f"{shard(2)}.part")
    assert sources_in(sharded) == [sharded / INDEX]
    refused(sharded, f"half of one is there: {shard(2)}.part")
    (sharded / INDEX).unlink()
    assert sources_in(sharded) == [sharded / shard(1)]
    (sharded / shard(1)).rename(sharded / f"{shard(1)}.part")
    (sharded / shard(3)).unlink()
    assert sources_in(sharded) == [sharded / f"{shard(1)}.part"]
    refused(sharded, "a half-finished download")


@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_pipes_are_refused_not_waited_for(sharded: Path, name: str) -> None:
    (sharded / name).unlink(missing_ok=True)
    os.mkfifo(sharded / name)
    with pytest.raises(CheckpointError, match="a pipe, expected a JSON file"):
        read_json(sharded / name)


def test_links_may_not_leave_the_folder(sharded: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (sharded / shard(1)).rename(outside)
    (sharded / shard(1)).symlink_to(outside)
    refused(sharded, "a link that leaves its folder")


def test_links_of_the_hugging_face_cache_are_followed(sharded: Path, tmp_path: Path) -> None:
    entry = tmp_path / "models--Wan-AI--Wan2.1"
    snapshot, blobs = entry / "snapshots" / "0123abcd", entry / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(sharded.iterdir())):
        blob = file.rename(blobs / f"{number:064x}")
        (snapshot / file.name).symlink_to(blob)
    assert len(open_source(snapshot).tensors) == 6
    assert not stays_inside(tmp_path / "elsewhere", snapshot)


def test_folders_are_searched_by_checkpoint_not_by_file(sharded: Path, tmp_path: Path) -> None:
    single = tmp_path / "vae" / "vae.safetensors"
    single.parent.mkdir()
    save_file({"w": torch.zeros(1)}, single)
    for ignored in (".hidden/x.safetensors", "venv/x.safetensors", "notes/readme.md"):
        path = tmp_path / ignored
        path.parent.mkdir()
        path.write_bytes(b"")
    assert sources_in(tmp_path) == [sharded / INDEX, single]
    (sharded / INDEX).unlink()
    assert sources_in(tmp_path) == [sharded / shard(1), single]
    assert sources_in(tmp_path, max_depth=0) == []


def test_a_folder_must_hold_one_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, "holds no weight file")
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"w": torch.zeros(1)}, tmp_path / name)
    refused(tmp_path, r"holds 2 checkpoints \(a\.safetensors, b\.safetensors\); name one")


def test_config_beside_the_weights_comes_before_that_in_them(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, file, metadata={"config": '{"dim": 7}'})
    assert read_config(open_source(file)) == {"dim": 7}
    (tmp_path / "config.json").write_text('{"dim": 9}')
    assert read_config(open_source(file)) == {"dim": 9}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged JSON"):
        read_config(open_source(file))
