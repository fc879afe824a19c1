"""`modiff models` on folders of real and sparse files: what is printed, the exit codes, and what is not imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from engine.checkpoints.locate import locate
from tests.imported import imported_by
from tests.weights.model_files import (
    Tensors,
    t2v_1_3b,
    t2v_14b,
    taehv,
    vae,
    write_safetensors,
    write_sharded,
)
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[5]
SMALL: Tensors = {"numbers": ("F32", (4, 4))}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in (
        "HF_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "XDG_CACHE_HOME",
        "COMFYUI_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing was ever written to the files of these tests is not what they are about."""
    monkeypatch.setattr("engine.checkpoints.library.check_no_holes", lambda tensors: None)


@pytest.fixture
def models(own_folders: Path) -> Path:
    folder = own_folders / "models"
    folder.mkdir()
    return folder


def modiff(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["models", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def objects(capsys, *arguments: object) -> list[dict]:
    (rows,) = json.loads(modiff(capsys, *arguments, "--json")[1]).values()
    return rows


# inspect


def test_inspect_a_file(capsys, tmp_path):
    path = write_safetensors(tmp_path / "wan.safetensors", t2v_1_3b())
    code, out, err = modiff(capsys, "inspect", path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == str(path)
    told = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert told["component"] == "denoiser, wan2.1-t2v-1.3b"
    assert told["numbers"] == "BF16"
    assert told["quantisation"] == "none"
    assert told["parameters"] == "1,418,996,800"
    assert told["size"] == f"2.84 GB ({path.stat().st_size:,} bytes)"
    assert (told["missing"], told["unexpected"]) == ("none", "none")
    assert told["modiff"] == "loads it"


def test_inspect_takes_the_name_of_what_is_built_in(capsys):
    rows = objects(capsys, "inspect", "builtin:micro")
    components = ["text_encoder", "image_encoder", "denoiser", "vae", "tokenizer"]
    assert [row["component"] for row in rows] == components
    code, out, err = modiff(capsys, "inspect", "builtin:nano")
    assert (code, out) == (2, "")
    assert err == (
        "modiff: builtin:nano: nothing built in is named so; "
        "there is builtin:micro, builtin:micro-i2v, builtin:micro-flf2v\n"
    )


def test_inspect_names_the_first_tensors_that_are_missing_or_too_many(capsys, tmp_path):
    tensors = vae()
    gone = [name for name in tensors if name.startswith("decoder.middle.0")]
    for name in gone:
        del tensors[name]
    tensors["extra.weight"] = ("F32", (2,))
    path = write_safetensors(tmp_path / "vae.safetensors", tensors)
    code, out, _ = modiff(capsys, "inspect", path)
    told = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert code == 0
    count, *names, more = told["missing"].replace(",", "").split()
    assert (count, len(names), more) == (f"{len(gone)}:", 3, "...")
    assert set(names) < set(gone)
    assert told["unexpected"].startswith("1: extra.weight")
    assert told["modiff"] == "cannot load it"
    (row,) = objects(capsys, "inspect", path)
    assert sorted(row["missing"]) == sorted(gone)
    assert row["supported"] is False


def test_inspect_a_folder_tells_everything_in_it(capsys, tmp_path):
    write_sharded(tmp_path / "dit", t2v_14b(), num_shards=6)
    write_safetensors(tmp_path / "vae.safetensors", vae())
    code, out, _ = modiff(capsys, "inspect", tmp_path)
    assert code == 0
    first, second = out.split("\n\n")
    assert "layout        original, safetensors, 6 shards" in first
    assert "vae, wan2.1-vae" in second
    assert [row["variant"] for row in objects(capsys, "inspect", tmp_path)] == [
        "wan2.1-t2v-14b",
        "wan2.1-vae",
    ]


def test_a_broken_file_among_good_ones_is_an_error_of_its_own(capsys, tmp_path):
    write_safetensors(tmp_path / "vae.safetensors", vae())
    broken = tmp_path / "broken.safetensors"
    broken.write_text("<!DOCTYPE html>")
    code, out, err = modiff(capsys, "inspect", tmp_path)
    assert code == 1
    assert "wan2.1-vae" in out
    assert err.startswith(f"{broken}: a web page")
    assert err.count("\n") == 1
    assert modiff(capsys, "inspect", broken)[0] == 2
    assert [bool(row["error"]) for row in objects(capsys, "inspect", tmp_path)] == [True, False]


@pytest.mark.parametrize("content", [None, "folder"])
def test_inspect_of_nothing_is_bad_input(capsys, tmp_path, content):
    path = tmp_path / "nothing"
    if content:
        path.mkdir()
    code, out, err = modiff(capsys, "inspect", path)
    assert (code, out) == (2, "")
    assert str(path) in err


def test_what_a_file_calls_its_tensors_cannot_act_on_a_terminal(capsys, tmp_path):
    tensors = vae() | {"evil\x1b[31m\nname": ("F32", (1,))}
    path = write_safetensors(tmp_path / "a\x1b[32m.safetensors", tensors)
    for arguments in (("inspect", path), ("inspect", path, "--json"), ("list",)):
        _, out, err = modiff(capsys, *arguments)
        assert "\x1b" not in out + err


# list


def test_list(capsys, models):
    write_safetensors(models / "wan_2.1_vae.safetensors", vae("F16"))
    write_safetensors(models / "dit/wan.safetensors", t2v_1_3b())
    write_safetensors(models / "other.safetensors", SMALL)
    (models / "broken.safetensors").write_bytes(b"")
    code, out, err = modiff(capsys, "list")
    assert code == 1  # one is broken
    head, dit, latent, blank, title, broken = out.splitlines()
    assert head.split() == ["MODEL", "COMPONENT", "LAYOUT", "NUMBERS", "SIZE", "LOADS", "PATH"]
    assert dit.split() == ["wan2.1-t2v-1.3b", "denoiser", "comfyui", "bf16", "2.84", "GB", "yes",
                           str(models / "dit/wan.safetensors")]  # fmt: skip
    assert latent.split()[:2] == ["wan2.1-vae", "vae"]
    assert head.index("PATH") == dit.index(str(models)) == latent.index(str(models))
    assert (blank, title) == ("", "cannot be used:")
    assert broken.startswith(f"  {models}/broken.safetensors: an empty file")
    assert err.splitlines()[-1] == "and 1 weight files that are no part of Wan"
    assert err.splitlines()[:-1] == ["builtin:micro comes with modiff"]
    assert len(objects(capsys, "list")) == 4
    assert modiff(capsys, "list", "--json")[0] == 1
    (models / "broken.safetensors").unlink()
    assert modiff(capsys, "list")[0] == modiff(capsys, "list", "--json")[0] == 0


def test_list_of_nothing_says_where_it_looked_and_what_to_do(capsys, models):
    code, out, err = modiff(capsys, "list")
    assert (code, out) == (0, "")
    assert str(models) in err
    assert "modiff models add FOLDER" in err
    assert objects(capsys, "list") == []


def test_list_does_not_drown_in_files_that_are_broken(capsys, models):
    for number in range(30):
        (models / f"{number:02}.safetensors").write_bytes(b"")
    out = modiff(capsys, "list")[1]
    assert len(out.splitlines()) == 1 + 20 + 1
    assert out.splitlines()[-1] == "  and 10 more; `modiff models list --json` has them all"


# where


def test_where_without_a_name_is_the_places(capsys, models, home):
    code, out, _ = modiff(capsys, "where")
    assert code == 0
    first, cache, *_ = out.splitlines()
    assert first.split() == ["models", "folder", str(models)]
    assert cache.split() == [
        "Hugging",
        "Face",
        "cache",
        "not",
        "there",
        str(home / ".cache/huggingface/hub"),
    ]
    assert objects(capsys, "where")[0] == {
        "path": str(models),
        "origin": "models folder",
        "exists": True,
    }


def test_where_is_a_model(capsys, models):
    write_safetensors(models / "a.safetensors", vae("F16"))
    write_safetensors(models / "b.safetensors", vae("F32"))
    code, out, _ = modiff(capsys, "where", "wan2.1-vae")
    assert code == 0
    title, _, best, other = out.splitlines()
    assert title == "wan2.1-vae (vae)"
    assert best.endswith("b.safetensors")
    assert other.endswith("a.safetensors")
    (answer,) = objects(capsys, "where", "wan2.1-vae")
    assert [Path(found["path"]).name for found in answer["found"]] == [
        "b.safetensors",
        "a.safetensors",
    ]


def test_where_is_a_model_that_is_not_here(capsys, models):
    code, out, err = modiff(capsys, "where", "umt5-xxl")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    begins = [number for number, line in enumerate(lines) if not line.startswith("  ")]
    assert [lines[number] for number in begins] == [
        "umt5-xxl (text encoder): not found on this machine",
        "umt5-xxl (tokenizer): not found on this machine",
    ]
    assert "google/umt5-xxl/tokenizer.json (17 MB)" in "".join(lines[begins[1] :])
    answers = objects(capsys, "where", "umt5-xxl")
    assert [(each["component"], each["found"], bool(each["absence"])) for each in answers] == [
        ("text_encoder", [], True),
        ("tokenizer", [], True),
    ]


def test_where_is_a_preset(capsys, models):
    code, _out, _ = modiff(capsys, "where", "micro")
    assert code == 0
    rows = objects(capsys, "where", "micro")
    assert [row["component"] for row in rows] == ["text_encoder", "tokenizer", "denoiser", "vae"]
    assert [Path(row["found"][0]["path"]).name for row in rows] == [
        "text_encoder.safetensors",
        "tokenizer.json",
        "dit.safetensors",
        "vae.safetensors",
    ]


def test_where_is_a_preset_whose_models_are_absent(capsys, models, tmp_path):
    preset = tmp_path / "mine.toml"
    preset.write_text(
        'format = 1\nextends = "micro"\n[components.denoiser]\ncheckpoint = "wan2.1-t2v-14b"\n'
        f'[components.vae]\ncheckpoint = "{tmp_path}/gone.safetensors"\n'
    )
    code, out, err = modiff(capsys, "where", preset)
    assert code == 1
    assert "text_encoder.safetensors" in out
    rows = [line.split() for line in err.splitlines()]
    assert rows[0] == ["PART", "FILE", "SIZE", "HERE"]
    assert [
        "denoiser",
        "diffusion_pytorch_model-{00001..00006}-of-00006.safetensors",
        "57.15",
        "GB",
        "need",
    ] in rows
    assert ["text", "encoder", "text_encoder.safetensors", "694", "kB", "have"] in rows
    assert ["total", "57.15", "GB", "to", "get"] in rows
    assert f"components.vae.checkpoint: {tmp_path}/gone.safetensors is not there" in err
    assert f"modiff models get {preset}" in err
    assert (
        "  hf download Wan-AI/Wan2.1-T2V-14B --include 'diffusion_pytorch_model*' --local-dir "
        in err
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("where", "wan2.1-t2v-14"), "did you mean"),
        (("where", "--preset", "nope"), 'no preset is named "nope"'),
        (("where", "--preset"), "--preset needs the name of a preset"),
        (("verify", "wan2.1-t2v-14"), "did you mean"),
        (("remove", "/never/added"), "/never/added: was not added"),
        (("add", "/never/there"), "/never/there: no such file or folder"),
    ],
)
def test_bad_names(capsys, models, arguments, problem):
    code, out, err = modiff(capsys, *arguments)
    assert (code, out) == (2, "")
    assert problem in err


# add, remove


def test_add_shows_what_is_there_and_remove_leaves_it(capsys, tmp_path):
    folder = tmp_path / "mine"
    path = write_safetensors(folder / "vae.safetensors", vae())
    code, out, _ = modiff(capsys, "add", folder)
    assert code == 0
    assert out.splitlines()[0] == str(folder)
    assert out.splitlines()[-1].endswith(str(path))
    assert str(path) in modiff(capsys, "list")[1]
    assert modiff(capsys, "add", folder)[:2] == (0, f"known already: {folder} (added)\n")
    assert modiff(capsys, "remove", folder)[:2] == (
        0,
        f"forgot {folder}; its files are untouched\n",
    )
    assert path.exists()
    assert str(path) not in modiff(capsys, "list")[1]


def test_a_place_is_added_and_removed_for_programs(capsys, tmp_path):
    folder = tmp_path / "mine"
    path = write_safetensors(folder / "vae.safetensors", vae())
    added, again, removed = (
        json.loads(modiff(capsys, command, folder, "--json")[1])
        for command in ("add", "add", "remove")
    )
    assert added["models"][0]["path"] == str(path)
    assert added == again | {"new": True}
    assert (again["path"], again["origin"], again["new"]) == (str(folder), "added", False)
    assert removed == {"path": str(folder)}


def test_add_an_empty_folder_says_so(capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    code, _, err = modiff(capsys, "add", tmp_path / "mine")
    assert code == 0
    assert "no model of Wan is in it yet" in err


# verify


def small_file(folder: Path, name: str = "small.safetensors") -> Path:
    return write_safetensors(folder / name, SMALL)


def overwrite(path: Path, byte: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte]))


def test_verify_remembers_and_notices(capsys, tmp_path):
    path = small_file(tmp_path)
    assert modiff(capsys, "verify", path)[:2] == (0, f"new      {path}: remembered from now on\n")
    assert modiff(capsys, "verify", path)[:2] == (0, f"ok       {path}\n")
    os.utime(path)
    assert modiff(capsys, "verify", path)[:2] == (0, f"ok       {path}\n")
    overwrite(path)
    code, out, _ = modiff(capsys, "verify", path)
    assert code == 1
    assert out.startswith(f"CHANGED  {path}: another file")
    assert modiff(capsys, "verify", path)[0] == 0  # told once: what is there now is what is known


def test_verify_tells_the_sum_that_others_compute(capsys, tmp_path):
    path = small_file(tmp_path)
    (row,) = objects(capsys, "verify", path)
    theirs = subprocess.run(
        ["sha256sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    assert row == {
        "path": str(path),
        "status": "new",
        "sha256": theirs,
        "note": "remembered from now on",
    }


def test_verify_notices_bytes_that_changed_behind_the_systems_back(capsys, tmp_path, monkeypatch):
    """A file system that says nothing was written, as a failing disk does: the identity stays the same."""
    from engine.checkpoints import digests

    path = small_file(tmp_path)
    same = digests.identity(path)
    for module in ("engine.checkpoints.digests", "engine.checkpoints.verify"):
        monkeypatch.setattr(f"{module}.identity", lambda _: same)
    assert modiff(capsys, "verify", path)[0] == 0
    overwrite(path)
    for _ in range(2):
        code, out, _ = modiff(capsys, "verify", path)
        assert code == 1
        assert out.startswith(f"DAMAGED  {path}: its bytes changed though nobody wrote to it")


def test_verify_compares_with_the_name_in_the_hugging_face_cache(capsys, tmp_path):
    import hashlib

    file = small_file(tmp_path)
    blobs = tmp_path / "models--a--wan/blobs"
    snapshot = tmp_path / "models--a--wan/snapshots/0"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    good = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
    file.rename(good)
    bad = blobs / ("0" * 64)
    bad.write_bytes(good.read_bytes())
    (snapshot / "good.safetensors").symlink_to(good)
    (snapshot / "bad.safetensors").symlink_to(bad)
    code, out, _ = modiff(capsys, "verify", snapshot)
    worse, better = out.splitlines()
    assert code == 1
    assert worse.startswith(
        f"DAMAGED  {snapshot}/bad.safetensors: the Hugging Face cache has it as 000000000000..."
    )
    assert better == f"ok       {snapshot}/good.safetensors"


def test_verify_fails_on_missing_shards_and_tensors(capsys, tmp_path):
    tensors, gone = vae(), "decoder.head.0.gamma"
    del tensors[gone]
    write_safetensors(tmp_path / "vae.safetensors", tensors)
    write_sharded(tmp_path / "dit", t2v_1_3b(), num_shards=3)
    (tmp_path / "dit/diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    code, out, _ = modiff(capsys, "verify", tmp_path)
    assert code == 1
    shards, file, whole = out.splitlines()
    assert shards.startswith("DAMAGED  ")
    assert "1 of 3 shards are missing" in shards
    assert file.startswith("new      ")
    assert whole.startswith(f"DAMAGED  {tmp_path}/vae.safetensors: 1 missing tensor ({gone})")


def test_verify_names_a_broken_shard_once(capsys, tmp_path):
    index = write_sharded(tmp_path / "dit", t2v_1_3b(), num_shards=3)
    shard = index.parent / "diffusion_pytorch_model-00002-of-00003.safetensors"
    os.truncate(shard, 1_000_000)
    code, out, _ = modiff(capsys, "verify", tmp_path)
    assert code == 1
    (line,) = out.splitlines()
    assert line.startswith(f"DAMAGED  {index}: {shard.name}: truncated, ")


def test_verify_tells_of_weights_that_are_no_numbers(capsys, tmp_path):
    from safetensors.torch import load_file, save_file

    shipped = locate("denoiser", "builtin:micro")
    tensors = load_file(shipped)
    tensors["blocks.2.norm3.bias"][3] = float("nan")
    path = tmp_path / "dit.safetensors"
    save_file(tensors, path)
    (tmp_path / "config.json").write_bytes(shipped.with_name("config.json").read_bytes())
    code, out, _ = modiff(capsys, "verify", path)
    assert code == 1
    assert out.splitlines() == [
        f"new      {path}: remembered from now on",
        f"DAMAGED  {path}: its tensor blocks.2.norm3.bias holds NaN; delete it and download it again",
    ]


def test_verify_all_and_by_name(capsys, models):
    path = write_safetensors(models / "taew2_1.safetensors", taehv("F16"))
    small_file(models)
    assert modiff(capsys, "verify")[1] == f"new      {path}: remembered from now on\n"
    assert modiff(capsys, "verify", "taew2.1")[1] == f"ok       {path}\n"
    code, out, err = modiff(capsys, "verify", "umt5-xxl")
    assert (code, out) == (2, "")
    assert "not found on this machine" in err


def test_verify_of_nothing(capsys):
    assert modiff(capsys, "verify")[::2] == (
        0,
        "nothing to verify; `modiff models where` says where models are looked for\n",
    )


# convert


def test_convert_says_where_it_wrote_and_overwrites_nothing(capsys, tmp_path):
    source = ROOT / "engine/micro/weights/vae.safetensors"
    target = tmp_path / "vae.pth"
    code, out, err = modiff(capsys, "convert", source, target, "--layout", "original")
    assert (code, out) == (0, f"{target}\n")
    assert err.startswith("every tensor read back as written")
    before = target.read_bytes()
    code, out, err = modiff(capsys, "convert", source, target, "--layout", "original")
    assert (code, out) == (2, "")
    assert f"{target}: is there already" in err
    assert target.read_bytes() == before
    assert modiff(capsys, "convert", tmp_path / "no", target, "--layout", "original")[0] == 2


def test_convert_tells_how_far_each_rounded_matrix_is(capsys, tmp_path):
    source = ROOT / "engine/micro/weights/dit.safetensors"
    target = tmp_path / "dit.safetensors"
    code, out, err = modiff(capsys, "convert", source, target, "--quantise", "int8")
    assert (code, out) == (0, f"{target}\n")
    assert re.search(
        r"relative error of 60 matrices: 0\.\d\d% on average; at most 1\.\d\d% blocks", err
    )
    target.unlink()
    code, out, err = modiff(capsys, "convert", source, target, "--quantise", "int8", "--json")
    told = json.loads(out)
    errors = [*told["errors"].values()]
    assert (code, told["path"], len(errors)) == (0, str(target), 60)
    assert errors == sorted(errors, reverse=True)
    code, out, err = modiff(capsys, "convert", source, tmp_path / "x")
    assert code == 2
    assert "say --layout original|diffusers|comfyui|gguf, or --quantise fp8|" in err


def test_inspect_does_not_say_loads_it_of_what_no_run_would_load(capsys, tmp_path):
    """A width that was not published, without the config.json that tells its heads."""
    weights = ROOT / "engine/micro/weights"
    copy = tmp_path / "dit.safetensors"
    copy.write_bytes((weights / "dit.safetensors").read_bytes())
    out = modiff(capsys, "inspect", copy)[1]
    assert "modiff        cannot load it" in out
    assert "put its config.json beside it" in out
    (tmp_path / "config.json").write_bytes((weights / "config.json").read_bytes())
    assert "modiff        loads it" in modiff(capsys, "inspect", copy)[1]


# cost


def test_neither_torch_nor_numpy_is_imported(models):
    write_sharded(models / "Wan2.1-T2V-14B", t2v_14b(), num_shards=6)
    write_safetensors(models / "vae.safetensors", vae())
    found = imported_by(
        ("models", "inspect", "builtin:micro"),
        ("models", "list"),
        ("models", "where", "wan2.1-t2v-14b"),
        ("models", "add", models / "Wan2.1-T2V-14B"),
        first="import engine.checkpoints.library",
    )
    for command, modules in found.items():
        heavy = {"torch", "numpy", "safetensors", "gguf", "transformers"}
        assert not modules & heavy, command
