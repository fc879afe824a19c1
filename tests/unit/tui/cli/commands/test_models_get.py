"""`modiff models get` against a mirror on loopback: what is asked first, what is printed, where the files end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoints.known.catalogue import Model, PublishedFile, Release
from tests.servers.hub_mirror import Mirror, serving
from tui.cli.main import main

REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B"
NAME = "google/umt5-xxl/tokenizer.json"
# as the library knows a tokenizer of UMT5: by its kind, and by the folder that it was published in
DATA = b'{"model": {"type": "Unigram", "vocab": []}}'
FOLDER = "Wan2.1-T2V-1.3B"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    release = Release(REPOSITORY, (PublishedFile(NAME, len(DATA)),), "JSON")
    small = Model("umt5-xxl", "tokenizer", "UMT5-XXL's tokenizer", ("umt5-xxl",), (release,))
    monkeypatch.setattr("engine.checkpoints.known.catalogue.MODELS", (small,))
    with serving(Mirror(files={(REPOSITORY, NAME): DATA})) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.address)
        yield made


def get(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["models", "get", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> list[str]:
    """Somebody at a terminal; what they were asked."""
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)

    def prompt(text: str) -> str:
        asked.append(text)
        return answer

    monkeypatch.setattr("click.termui.visible_prompt_func", prompt)
    return asked


def test_a_model_is_downloaded_to_where_it_is_found(capsys, mirror, own_folders):
    code, out, err = get(capsys, "umt5-xxl", "--yes")
    path = own_folders / "models" / FOLDER / NAME
    assert (code, out) == (0, f"{path}\n")
    assert path.read_bytes() == DATA
    assert f"{len(DATA)} bytes, into {own_folders / 'models'}, with " in err
    assert "✓ 1/1 tokenizer.json" in err
    assert get(capsys, "umt5-xxl")[::2] == (
        0,
        "PART       FILE            SIZE      HERE\n"
        f"tokenizer  tokenizer.json  {len(DATA)} bytes  have\n"
        "total                      0 bytes   to get\n"
        "nothing is missing\n",
    )


def test_a_dry_run_asks_nobody(capsys, mirror, own_folders):
    code, out, err = get(capsys, "umt5-xxl", "--dry-run")
    assert (code, out) == (0, "")
    assert f"tokenizer  {NAME}  {len(DATA)} bytes  need" in err
    assert mirror.asked == []
    assert not (own_folders / "models").exists()


def test_json_tells_what_is_needed_and_where_it_went(capsys, mirror, own_folders):
    (before,) = json.loads(get(capsys, "umt5-xxl", "--dry-run", "--json")[1])["models"]
    assert (before["have"], before["bytes"], before["repository"]) == (False, len(DATA), REPOSITORY)
    assert before["command"] == (
        f"hf download {REPOSITORY} {NAME} --local-dir {own_folders / 'models' / FOLDER}"
    )
    (after,) = json.loads(get(capsys, "umt5-xxl", "--yes", "--json")[1])["models"]
    assert (after["have"], after["path"]) == (True, str(own_folders / "models" / FOLDER / NAME))


def test_it_asks_first_and_no_is_an_answer(capsys, mirror, own_folders, monkeypatch):
    asked = answering(monkeypatch, "n")
    code, _, err = get(capsys, "umt5-xxl")
    assert code == 130
    assert len(asked) == 1
    assert "free" in err
    assert mirror.gets() == []
    assert not (own_folders / "models").exists()


def test_without_anybody_to_ask_yes_is_to_be_said(capsys, mirror, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    code, _, err = get(capsys, "umt5-xxl")
    assert code == 2
    assert "add --yes" in err
    assert mirror.gets() == []


def test_another_folder_becomes_known(capsys, mirror, tmp_path, monkeypatch):
    big = tmp_path / "big"
    answering(monkeypatch, "y")
    code, out, err = get(capsys, "umt5-xxl", "--to", big)
    assert (code, out) == (0, f"{big / FOLDER / NAME}\n")
    assert f"into {big}, with " in err
    assert "which becomes known to modiff" in err
    assert main(["models", "where"]) == 0
    assert str(big) in capsys.readouterr().out


def test_a_disk_without_room_is_refused_before_anybody_is_asked(
    capsys, mirror, own_folders, monkeypatch
):
    asked = answering(monkeypatch, "y")
    monkeypatch.setattr("engine.checkpoints.download.free_bytes", lambda folder: 10)
    code, _, err = get(capsys, "umt5-xxl")
    assert (code, asked) == (1, [])
    assert "its disk has room for 10 bytes" in err
    assert not (own_folders / "models").exists()


def test_ctrl_c_leaves_what_was_loaded_and_says_so(capsys, mirror, own_folders, monkeypatch):
    def stopped(self: object, done: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10)
        before.setattr("tui.cli.transfer.Transfer.loaded", stopped)
        code, _, err = get(capsys, "umt5-xxl", "-y")
    assert code == 130
    assert (
        f"10 bytes of {len(DATA)} bytes are here and stay; `modiff models get umt5-xxl -y` goes on"
        in err
    )
    assert "`modiff models get umt5-xxl` goes on with it" in get(capsys, "umt5-xxl", "--dry-run")[2]
    code, _, err = get(capsys, "umt5-xxl", "-y")
    assert code == 0
    assert f"{len(DATA)} bytes, of which 10 bytes are here already" in err
    assert mirror.gets()[-1] == (NAME, "bytes=10-")
    assert (own_folders / "models" / FOLDER / NAME).read_bytes() == DATA


def test_a_name_that_is_none_has_its_nearest(capsys, mirror):
    code, _, err = get(capsys, "umt5-xx")
    assert code == 2
    assert 'did you mean "umt5-xxl"' in err


def test_what_cannot_be_had_has_one_line(capsys, mirror):
    mirror.refusals[NAME] = (401, "GatedRepo")
    code, _, err = get(capsys, "umt5-xxl", "-y")
    assert code == 1
    assert "its licence is to be accepted first" in err.splitlines()[-1]


def test_a_preset_whose_models_are_here(capsys, tmp_path: Path):
    assert get(capsys, "micro")[0] == 0
    code, _, err = get(capsys, tmp_path / "none.toml")
    assert code == 2
    assert "none.toml" in err
