"""`modiff sheet` on recorded runs: which are taken, where it goes, what is told, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from store.index.index import open_index
from store.index.previews import Preview, put_preview
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[5]
RED = Preview(1, 2, 2, bytes((250, 0, 0)) * 4)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


@pytest.fixture
def runs(store) -> list[str]:
    """Three runs of one sweep, the first two with a preview of their last step."""
    ids = [record_run(store, micro(f"seed={seed}")).id for seed in (1, 2, 3)]
    with open_index(store.root) as index:
        for run_id in ids[:2]:
            put_preview(index, store.links_of(run_id)[4].key, RED)
    for run_id in ids:
        store.tag(run_id, ["sweep/aaaa", "mine"])
    record_run(store, micro("seed=9"))
    return ids


def sheet(capsys, *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main(["sheet", *arguments]) == code
    return capsys.readouterr()


def told(capsys, *arguments: str) -> dict:
    return json.loads(sheet(capsys, *arguments, "--json")[0])


def test_the_runs_of_a_sweep_in_its_order_under_its_id(capsys, runs):
    made = told(capsys, "--tag", "sweep/aaaa", "--frames", "1")
    assert [each["run"] for each in made["runs"]] == runs
    assert [each["values"] for each in made["runs"]] == [{"seed": seed} for seed in (1, 2, 3)]
    assert [each["shows"] for each in made["runs"]] == ["previews", "previews", None]
    assert (made["varying"], made["frames"]) == (["seed"], 1)
    assert made["output"] == os.path.abspath("modiff-sheet-aaaa.png")
    with Image.open(made["output"]) as image:
        colours = image.convert("RGB").getcolors(1 << 20)
    assert sum(count for count, colour in colours if colour == (250, 0, 0)) == 2 * 160 * 160


def test_what_has_nothing_to_show_is_said_and_the_path_is_all_of_stdout(capsys, runs):
    out, err = sheet(capsys, *runs, "-o", "some.webp")
    assert out == f"{os.path.abspath('some.webp')}\n"
    assert err.count("\n") == 1
    assert runs[2] in err
    assert "no preview of its steps" in err


def test_the_order_of_runs_that_are_named_is_kept_and_each_is_there_once(capsys, runs):
    made = told(capsys, runs[2], runs[0], runs[2])
    assert [each["run"] for each in made["runs"]] == [runs[2], runs[0]]
    assert made["output"] == os.path.abspath(f"modiff-sheet-{runs[2]}.png")


def test_a_filter_is_that_of_the_app(capsys, runs):
    made = told(capsys, "--filter", "tag:mine status:done", "--tag", "sweep/aaaa")
    assert [each["run"] for each in made["runs"]] == runs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the runs, or say which"),
        (("x", "--tag", "mine"), "name the runs, or say which"),
        (("--tag", "none"), "no run fits"),
        (("--tag", "it's none"), "no run fits"),
        (("--filter", "status:x"), "none of queued"),
        (("--filter", "seed:"), "seed: has no value"),
        (("--filter", "it's"), "No closing quotation"),
        (("--tag", "mine", "-o", "a.gif"), "ends in .png, .jpg, .jpeg, .webp, got a.gif"),
        (("--tag", "mine", "-o", "gone/a.png"), "there is no folder"),
        (("--tag", "mine", "-o", "there.png"), "already there; choose another name or add"),
        (("--tag", "mine", "-o", "folder.png"), "is a folder"),
        (("--tag", "mine", "--frames", "17"), "1<=x<=16"),
    ],
)
def test_what_is_refused(capsys, runs, arguments, words):
    Path("there.png").write_bytes(b"mine")
    Path("folder.png").mkdir()
    before = sorted(os.listdir())
    _, err = sheet(capsys, *arguments, code=2)
    assert words in err
    assert sorted(os.listdir()) == before
    assert Path("there.png").read_bytes() == b"mine"


def test_it_replaces_a_file_where_it_may(capsys, runs):
    Path("there.png").write_bytes(b"mine")
    sheet(capsys, "--tag", "mine", "-o", "there.png", "--overwrite")
    assert Path("there.png").read_bytes().startswith(b"\x89PNG")


def test_too_many_runs_name_the_limit(capsys, runs, monkeypatch):
    monkeypatch.setattr("engine.compare.sheet.MAX_PICTURES", 8)
    _, err = sheet(capsys, "--tag", "mine", code=2)
    assert "3 runs with 4 frames each are 12 pictures; expected at most 8" in err
    sheet(capsys, "--tag", "mine", "--frames", "2")


def test_no_torch_is_needed(runs):
    code = (
        "import sys; from tui.cli.main import main; "
        "assert main(['sheet', '--tag', 'mine']) == 0; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
