"""Models wherever they lie: places, what is found in them, which file a name means, and what is said without one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from engine.checkpoints import library
from engine.checkpoints import places as places_module
from engine.checkpoints.known import catalogue
from engine.checkpoints.library import absence, find, scan, scan_places
from engine.checkpoints.names.renaming import find as find_name
from engine.checkpoints.places import (
    ADDED,
    COMFYUI,
    HUGGING_FACE,
    MODELS,
    Place,
    add,
    added_paths,
    list_file,
    places,
    remove,
)
from engine.errors import CheckpointError
from store import locks
from tests.counting import bytes_read
from tests.weights.model_files import (
    in_nvfp4,
    t2v_1_3b,
    t2v_14b,
    vae,
    write_safetensors,
    write_sharded,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it, so that no model of this machine counts."""
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


@pytest.fixture
def models(own_folders: Path) -> Path:
    folder = own_folders / "models"
    folder.mkdir()
    return folder


def place(folder: Path, origin: str = ADDED) -> Place:
    return Place(folder, origin, folder.exists())


def cached(
    home: Path,
    repository: str,
    files: dict[str, Path],
    revision: str = "a1",
    *,
    current: bool = True,
) -> Path:
    """A repository in the Hugging Face cache, as huggingface_hub lays it out: links into blobs."""
    entry = home / ".cache/huggingface/hub" / f"models--{repository.replace('/', '--')}"
    snapshot = entry / "snapshots" / revision
    for name, source in files.items():
        blob = entry / "blobs" / f"{revision}{name.replace('/', '_')}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, blob)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if current:
        (entry / "refs").mkdir(exist_ok=True)
        (entry / "refs/main").write_text(revision)
    return snapshot


def tokenizer(path: Path, *, num_pieces: int = 256_300, kind: str = "Unigram") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary = [["a", -1.5]] * num_pieces
    path.write_text(json.dumps({"added_tokens": [], "model": {"type": kind, "vocab": vocabulary}}))
    return path


# Places


def test_places_in_their_order(home, models, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "comfy"))
    (tmp_path / "mine").mkdir()
    add(tmp_path / "mine")
    assert [(p.path, p.origin, p.exists) for p in places()] == [
        (models, MODELS, True),
        (tmp_path / "mine", ADDED, True),
        (home / ".cache/huggingface/hub", HUGGING_FACE, False),
        (tmp_path / "comfy/models", COMFYUI, False),
        (home / "ComfyUI/models", COMFYUI, False),
        (home / "comfy/ComfyUI/models", COMFYUI, False),
        (home / "Documents/ComfyUI/models", COMFYUI, False),
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"},
        {"HUGGINGFACE_HUB_CACHE": "/g", "HF_HOME": "/h"},
        {"HF_HUB_CACHE": "~/c", "HUGGINGFACE_HUB_CACHE": "/g"},
        {"HF_HUB_CACHE": "$HOME/d"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(variables, monkeypatch, home):
    import subprocess
    import sys

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    theirs = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    (ours,) = (p.path for p in places() if p.origin == HUGGING_FACE)
    assert str(ours) == theirs.strip()


def test_added_folders_are_remembered_in_a_file_that_people_can_edit(tmp_path):
    first, second = tmp_path / "ä folder", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert add(first) == (Place(first, ADDED, True), True)
    assert add(second)[1]
    assert added_paths() == [first, second]
    assert str(first) in list_file().read_text(encoding="utf-8")
    list_file().write_text(f'# mine\npaths = ["{second}", "~/later"]\n')
    assert added_paths() == [second, Path(os.environ["HOME"]) / "later"]
    assert remove(second) == second
    assert added_paths() == [Path(os.environ["HOME"]) / "later"]
    names = {path.name for path in list_file().parent.iterdir()}
    assert names == {"models.toml", ".models.toml.lock"}


def test_what_is_known_already_is_not_added_again(tmp_path, models):
    folder = tmp_path / "mine"
    (folder / "inner/.hidden").mkdir(parents=True)
    add(folder)
    for again in (folder, folder / "inner", folder / "." / "inner" / ".."):
        assert add(again) == (Place(folder, ADDED, True), False)
    assert add(models)[0].origin == MODELS
    assert added_paths() == [folder]
    assert add(folder / "inner/.hidden")[1]  # hidden folders are not entered, so this one is new


def test_a_folder_deeper_than_we_look_can_be_added(tmp_path):
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    add(tmp_path / "a")
    assert not add(deep.parent)[1]
    assert add(deep)[1]


def test_a_file_can_be_added_and_a_damaged_one_cannot(tmp_path):
    good = write_safetensors(tmp_path / "good.safetensors", vae())
    bad = tmp_path / "bad.safetensors"
    bad.write_text("<html>")
    add(good)
    assert [found.recognition.variant for found in scan_places()] == ["wan2.1-vae"]
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: a web page"):
        add(bad)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        add(tmp_path / "nothing")
    assert added_paths() == [good]


def test_a_folder_that_is_gone_is_told_and_can_be_forgotten(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    add(folder)
    folder.rmdir()
    (found,) = scan_places()
    assert (
        found.error
        == f"{folder}: not there now; connect its disk, or forget it with `modiff models remove`"
    )
    remove(folder)
    assert scan_places() == []
    with pytest.raises(CheckpointError, match=r"was not added with .*; nothing was added"):
        remove(folder)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"paths = [", "not valid TOML"),
        (b"\xff", "not valid TOML"),
        (b"folders = []", "unknown key 'folders', expected paths"),
        (b"paths = '/x'", "paths is not a list of texts"),
        (b"paths = ['']", "paths is not a list of texts"),
        (b"paths = [1]", "paths is not a list of texts"),
        (b"#" * 300_000, "more than 262,144 bytes"),
        (b"a=" + b"[" * 100_000, "not valid TOML"),
    ],
)
def test_a_damaged_list_is_one_line_that_names_it(content, problem):
    list_file().parent.mkdir(parents=True)
    list_file().write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        places()
    line = str(caught.value)
    assert line.startswith(f"{list_file()}: ")
    assert problem in line
    assert "correct it, or delete it" in line
    assert "\n" not in line


def test_a_list_that_is_a_pipe_does_not_hang():
    list_file().parent.mkdir(parents=True)
    os.mkfifo(list_file())
    with pytest.raises(CheckpointError, match="not a regular file"):
        places()


def test_a_list_that_cannot_be_written(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(blocker))
    (tmp_path / "mine").mkdir()
    with pytest.raises(CheckpointError, match=r"models\.toml: cannot be written"):
        add(tmp_path / "mine")


# Scanning


def test_of_changes_at_the_same_time_none_is_lost(tmp_path, monkeypatch):
    """Each of twelve begins when the one before has read the list and not written it yet."""
    folders = [tmp_path / f"folder-{number}" for number in range(12)]
    for folder in folders:
        folder.mkdir()
    write, started = places_module._write, []

    def write_late(paths):
        if len(started) < len(folders) - 1:
            following = threading.Thread(target=add, args=(folders[len(started) + 1],))
            started.append(following)
            following.start()
            following.join(0.05)  # it must wait for us
        write(paths)

    monkeypatch.setattr(places_module, "_write", write_late)
    add(folders[0])
    for each in started:
        each.join()
    assert sorted(added_paths()) == sorted(folders)
    remove(folders[3])
    assert len(added_paths()) == 11


def test_who_holds_the_list_for_too_long_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.config_file.LOCK_SECONDS", 0.0)
    list_file().parent.mkdir(parents=True, exist_ok=True)
    with (
        locks.acquire(list_file().with_name(".models.toml.lock"), timeout_seconds=0),
        pytest.raises(CheckpointError, match="another process") as caught,
    ):
        add(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_whose_name_is_no_unicode_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    with pytest.raises(CheckpointError, match="name that is not valid Unicode"):
        add(folder)
    assert not list_file().exists()


def test_a_folder_of_everything(tmp_path):
    write_safetensors(tmp_path / "dit.safetensors", t2v_1_3b())
    write_sharded(tmp_path / "big", t2v_14b(), num_shards=6)
    write_safetensors(tmp_path / "sub/vae.safetensors", vae("F16"))
    tokenizer(tmp_path / "google/umt5-xxl/tokenizer.json")
    (tmp_path / "broken.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "notes.txt").write_text("no weights")
    write_safetensors(tmp_path / ".cache/hidden.safetensors", vae())
    found = scan(place(tmp_path))
    assert [
        (str(f.path.relative_to(tmp_path)), f.recognition and f.recognition.variant) for f in found
    ] == [
        ("big/diffusion_pytorch_model.safetensors.index.json", "wan2.1-t2v-14b"),
        ("broken.safetensors", None),
        ("dit.safetensors", "wan2.1-t2v-1.3b"),
        ("google/umt5-xxl/tokenizer.json", "umt5-xxl"),
        ("sub/vae.safetensors", "wan2.1-vae"),
    ]
    assert [f.origin for f in found] == [ADDED] * 5
    assert len(found[0].files) == 6
    assert found[1].error.startswith(
        f"{tmp_path}/broken.safetensors: begins with nothing but zeros"
    )


def test_a_missing_shard_is_told_and_hides_nothing(tmp_path):
    write_sharded(tmp_path / "big", t2v_14b(), num_shards=6)
    (tmp_path / "big/diffusion_pytorch_model-00003-of-00006.safetensors").unlink()
    write_safetensors(tmp_path / "vae.safetensors", vae())
    broken, good = scan(place(tmp_path))
    assert (
        "1 of 6 shards are missing (diffusion_pytorch_model-00003-of-00006.safetensors)"
        in broken.error
    )
    assert good.recognition.variant == "wan2.1-vae"


def test_a_link_to_a_file_outside_is_refused_until_its_folder_is_known(tmp_path):
    real = write_safetensors(tmp_path / "elsewhere/vae.safetensors", vae())
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "link.safetensors").symlink_to(real)
    add(mine)
    (found,) = scan_places()
    assert found.recognition is None
    assert found.error == (
        f"{mine}/link.safetensors: is a link to {real} outside; "
        f"`modiff models add {real.parent}` makes that known"
    )
    add(real.parent)
    (found,) = scan_places()
    assert found.recognition.variant == "wan2.1-vae"  # once, though two names lead to it


def test_linked_folders_are_not_entered_but_told(tmp_path):
    write_safetensors(tmp_path / "elsewhere/vae.safetensors", vae())
    mine = tmp_path / "mine"
    (mine / "real").mkdir(parents=True)
    (mine / "away").symlink_to(tmp_path / "elsewhere")
    (mine / "real/up").symlink_to(mine)  # a circle
    (mine / "inside").symlink_to(mine / "real")
    (found,) = scan(place(mine))
    assert found.error.startswith(f"{mine}/away: is a link to {tmp_path}/elsewhere outside; ")


def test_links_that_lead_nowhere_or_to_themselves_are_errors_of_their_own(tmp_path):
    (tmp_path / "a.safetensors").symlink_to("a.safetensors")
    (tmp_path / "b.safetensors").symlink_to("gone.safetensors")
    write_safetensors(tmp_path / "c.safetensors", vae())
    os.mkfifo(tmp_path / "d.safetensors")
    found = scan(place(tmp_path))
    assert [f.path.name for f in found] == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
        "d.safetensors",
    ]
    assert [bool(f.error) for f in found] == [True, True, False, True]


def test_the_hugging_face_cache(home, tmp_path):
    file = write_safetensors(tmp_path / "a.safetensors", vae())
    old = write_safetensors(tmp_path / "b.safetensors", vae("F16"))
    foreign = write_safetensors(tmp_path / "c.safetensors", vae())
    cached(home, "Wan-AI/Wan2.1-T2V-1.3B", {"vae/model.safetensors": old}, "0old", current=False)
    cached(home, "Wan-AI/Wan2.1-T2V-1.3B", {"vae/model.safetensors": file}, "1new")
    cached(home, "someone/other", {"vae.safetensors": foreign})
    found = scan_places()
    assert [(f.origin, f.path.parts[-3], f.recognition.dtypes) for f in found] == [
        (HUGGING_FACE, "1new", {"F32": 126_892_531}),
        (HUGGING_FACE, "0old", {"F16": 126_892_531}),
    ]


def test_a_link_of_the_cache_that_leaves_its_repository_is_refused(home, tmp_path):
    good = write_safetensors(tmp_path / "a.safetensors", vae())
    outside = write_safetensors(tmp_path / "b.safetensors", vae())
    snapshot = cached(home, "Wan-AI/Wan2.1", {"vae.safetensors": good})
    (snapshot / "evil.safetensors").symlink_to(outside)
    evil, fine = scan_places()
    assert evil.error.startswith(f"{snapshot}/evil.safetensors: is a link to {outside} outside")
    assert fine.recognition is not None


def test_a_sharded_model_of_the_cache(home, tmp_path):
    write_sharded(tmp_path / "big", t2v_14b(), num_shards=6)
    files = {path.name: path for path in (tmp_path / "big").iterdir()}
    snapshot = cached(home, "Wan-AI/Wan2.1-T2V-14B", files)
    (found,) = find("denoiser", "wan2.1-t2v-14b")
    assert found.path == snapshot / "diffusion_pytorch_model.safetensors.index.json"
    assert found.recognition.shards == 6


@pytest.mark.parametrize(
    ("folder", "num_pieces", "kind", "is_found"),
    [
        ("google/umt5-xxl", 10, "Unigram", True),
        ("umt5-xxl", 10, "Unigram", True),
        ("tokenizer", 256_300, "Unigram", True),
        ("tokenizer", 32_100, "Unigram", False),  # T5
        ("tokenizer", 250_112, "Unigram", False),  # mT5
        ("xlm-roberta-large", 250_002, "Unigram", False),
        ("umt5-xxl", 10, "WordPiece", False),
    ],
)
def test_the_tokenizer_is_told_from_others(tmp_path, folder, num_pieces, kind, is_found):
    path = tokenizer(tmp_path / folder / "tokenizer.json", num_pieces=num_pieces, kind=kind)
    add(tmp_path)
    assert [f.path for f in find("tokenizer", "umt5-xxl")] == ([path] if is_found else [])


def test_a_real_unigram_tokenizer_is_read_as_one(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    path = tmp_path / "umt5-xxl/tokenizer.json"
    path.parent.mkdir()
    Tokenizer(Unigram([("<pad>", 0.0), ("a", -1.0)], unk_id=0)).save(str(path))
    add(tmp_path)
    assert [f.recognition.component for f in scan_places()] == ["tokenizer"]


# Names


def test_the_best_file_for_a_name_comes_first(tmp_path, models):
    write_safetensors(tmp_path / "x/4_bits.safetensors", *in_nvfp4(t2v_1_3b()))
    write_safetensors(tmp_path / "x/fp8.safetensors", t2v_1_3b("F8_E4M3"))
    write_safetensors(tmp_path / "x/Wan2_1-T2V-1_3B_bf16.safetensors", t2v_1_3b("BF16"))
    write_safetensors(tmp_path / "x/finetune_bf16.safetensors", t2v_1_3b("BF16"))
    write_safetensors(models / "z_fp16.safetensors", t2v_1_3b("F16"))
    write_safetensors(models / "z_other_fp16.safetensors", t2v_1_3b("F16"))
    write_safetensors(tmp_path / "x/fp32.safetensors", t2v_1_3b("F32"))
    add(tmp_path / "x")
    assert [f.path.name for f in find("denoiser", "wan2.1-t2v-1.3b")] == [
        "fp32.safetensors",
        "Wan2_1-T2V-1_3B_bf16.safetensors",
        "finetune_bf16.safetensors",
        "z_fp16.safetensors",
        "z_other_fp16.safetensors",
        "fp8.safetensors",
        "4_bits.safetensors",
    ]
    assert find("vae", "wan2.1-vae") == []


def test_an_incomplete_model_is_left_out_and_named_in_the_absence(models):
    tensors = t2v_1_3b()
    del tensors["blocks.7.ffn.0.weight"], tensors["blocks.9.modulation"]
    path = write_safetensors(models / "wan.safetensors", tensors)
    assert find("denoiser", "wan2.1-t2v-1.3b") == []
    line = absence("denoiser", "wan2.1-t2v-1.3b")
    assert line.endswith(
        f"; found but cannot be used: {path}: 2 missing tensors (blocks.7.ffn.0.weight, blocks.9.modulation)"
    )


def test_absence_says_what_to_get_and_where_it_goes(models):
    line = absence("denoiser", "wan2.1-t2v-14b")
    folder = models / "Wan2.1-T2V-14B"
    assert "\n" not in line
    for part in (
        "wan2.1-t2v-14b (denoiser): not found on this machine; it is published as Wan-AI/Wan2.1-T2V-14B (fp32): ",
        "(9.89 GB, 9.84 GB, 9.84 GB, 9.84 GB, 9.84 GB, 7.91 GB)",
        "57.15 GB in all",
        f"to put into {folder}: `hf download Wan-AI/Wan2.1-T2V-14B --include 'diffusion_pytorch_model*' "
        f"--local-dir {folder}`",
        "or as Comfy-Org/Wan_2.1_ComfyUI_repackaged: split_files/diffusion_models/wan2.1_t2v_14B_bf16.safetensors "
        "(bf16, about 28.58 GB) or ",
        "`modiff models add FOLDER` makes it known",
    ):
        assert part in line


def test_absence_of_each_component_is_one_line_with_a_command(models):
    for model in catalogue.MODELS:
        line = absence(model.kind, model.name)
        assert "\n" not in line
        assert f"`hf download {model.releases[0].repository} " in line
        assert str(models / model.releases[0].repository.partition("/")[2]) in line


def test_what_the_absence_says_to_do_is_enough(models):
    """Files put where the line says, named as it says, are found by the name that was absent."""
    assert find("denoiser", "wan2.1-t2v-14b") == []
    write_sharded(models / "Wan2.1-T2V-14B", t2v_14b(), num_shards=6)
    tokenizer(models / "Wan2.1-T2V-1.3B/google/umt5-xxl/tokenizer.json", num_pieces=10)
    assert len(find("denoiser", "wan2.1-t2v-14b")) == 1
    assert len(find("tokenizer", "umt5-xxl")) == 1


def test_absence_tells_of_a_download_that_was_not_finished(models):
    write_sharded(models / "Wan2.1-T2V-14B", t2v_14b(), num_shards=6)
    (models / "Wan2.1-T2V-14B/diffusion_pytorch_model-00006-of-00006.safetensors").unlink()
    (models / "wan_2.1_vae.safetensors.part").write_bytes(b"\0" * 10)
    line = absence("denoiser", "wan2.1-t2v-14b")
    assert "found but cannot be used: " in line
    assert "1 of 6 shards are missing" in line
    assert "vae" not in line
    assert "half-finished download" in absence("vae", "wan2.1-vae")


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("denoiser", "wan2.1-t2v-14B", 'did you mean "wan2.1-t2v-14b"'),
        ("denoiser", "wan21-t2v-1.3b", 'did you mean "wan2.1-t2v-1.3b"'),
        ("vae", "wan2.1-t2v-14b", 'no vae is named "wan2.1-t2v-14b"'),
        ("text_encoder", "zzz", "; there are umt5-xxl"),
        ("", "/mnt/models/vae.pth", "/mnt/models/vae.pth: no such file or folder"),
    ],
)
def test_a_name_that_is_none_has_its_nearest(kind, name, problem):
    with pytest.raises(CheckpointError, match=problem):
        find(kind, name, [])


def test_what_was_scanned_is_not_scanned_again(models, monkeypatch):
    write_safetensors(models / "vae.safetensors", vae())
    among = scan_places()
    monkeypatch.setattr(library, "places", lambda: pytest.fail("looked again"))
    assert len(find("vae", "wan2.1-vae", among)) == 1
    assert "umt5" in absence("text_encoder", "umt5-xxl", among)


def test_of_a_folder_of_57_gigabytes_only_the_headers_are_read(tmp_path):
    write_sharded(tmp_path / "big", t2v_14b("F32"), num_shards=6)
    assert sum(path.stat().st_size for path in (tmp_path / "big").iterdir()) > 57e9
    (found,), num_bytes = bytes_read(lambda: scan(place(tmp_path)))
    assert num_bytes < 1 << 20  # six headers of 25 KB, the index and the configuration
    assert found.recognition.supported


def test_pipes_are_told_not_waited_for(home, models):
    os.mkfifo(models / "tokenizer.json")
    (found,) = scan_places()
    assert found.error.startswith(f"{models}/tokenizer.json: a pipe, expected a tokenizer")
    (models / "tokenizer.json").unlink()
    source = write_safetensors(models / "x.safetensors", vae())
    snapshot = cached(home, "Wan-AI/Wan2.1", {"vae.safetensors": source}, current=False)
    (snapshot.parent.parent / "refs").mkdir()
    os.mkfifo(snapshot.parent.parent / "refs/main")
    assert [found.path for found in scan_places()] == [snapshot / "vae.safetensors"]


def test_a_file_comes_before_a_link_to_it(models, tmp_path):
    file = write_safetensors(tmp_path / "mine/vae.safetensors", vae())
    (models / "link.safetensors").symlink_to(file)
    add(file.parent)
    assert [found.path for found in scan_places()] == [file]
    remove(file.parent)
    add(file)
    assert [found.path for found in scan_places()] == [file]


def test_names_that_were_seen_are_known(tmp_path):
    """Files of one model share their names: a file whose names are new takes a quarter longer."""
    for number in range(10):
        write_safetensors(tmp_path / f"{number}.safetensors", t2v_14b())
    scan(place(tmp_path / "0.safetensors"))
    known = find_name.cache_info()
    assert len(scan(place(tmp_path))) == 10
    seen = find_name.cache_info()
    assert seen.misses == known.misses
    assert seen.hits >= known.hits + 10 * len(t2v_14b())
