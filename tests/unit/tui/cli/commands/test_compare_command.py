"""`modiff compare` on recorded runs: what is printed, what is written, exit codes, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.compare.frames import read_frames
from presets.encoding import encode_spec
from store.blobs import blobs
from store.lineage.records import Segment
from store.store import open_store
from tests.stores.recorded_runs import micro, record_run, wave
from tui.cli.main import main
from tui.describe.comparison import WIDTH

ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


@pytest.fixture
def pair(store) -> tuple[str, str]:
    """A run, and a branch of it at step 2."""
    a = record_run(store, micro(), frames=wave(5, 64, 64))
    b = record_run(
        store,
        micro("guidance.scale=7"),
        seed=1,
        shared=a,
        stop=2,
        segments=[Segment(2, encode_spec(micro()))],
        frames=wave(5, 64, 64, phase=0.2),
    )
    return a.id, b.id


def modiff(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main(["compare", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def sections(text: str) -> dict[str, list[str]]:
    """The lines of each part of the text by their first word."""
    return {part.split(maxsplit=1)[0]: part.splitlines() for part in text.split("\n\n")}


def test_a_run_and_its_branch(capsys, pair):
    a, b = pair
    code, out, err = modiff(capsys, a, b)
    assert (code, err) == (0, "")
    assert max(map(cell_len, out.splitlines())) <= WIDTH
    told = sections(out)
    assert told["settings"][1].split() == ["guidance.scale", "2.5", "7.0", "from", "step", "3"]
    assert told["chain"] == ["chain    the same keys for the first 2 steps of 5, then they part"]
    steps = [line.split() for line in told["steps"]]
    assert steps[1] == ["equal:", "steps", "1-2"]
    assert [line[0] for line in steps[3:]] == ["3", "4", "5"]
    assert told["latents"][0].startswith("latents  relative L2 ")
    assert told["latents"][1] == "frames   5 of 64x64"
    assert "dB" in told["latents"][2]
    times = {line.split("  ")[1]: line.split()[-2:] for line in told["times"][1:]}
    assert times["steps computed"] == ["5", "3"]
    assert times["steps reused"] == ["0", "2"]
    assert f"branch of                      {a}" in out


def test_json(capsys, pair):
    a, b = pair
    code, out, _ = modiff(capsys, a, b, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["a"]["run"], told["b"]["run"], told["b"]["parent"]) == (a, b, a)
    assert told["settings"] == [
        {"key": "guidance.scale", "a": 2.5, "b": 7.0, "start": 2, "stop": None}
    ]
    assert told["chain"] == {
        "shared_steps": 2,
        "steps_a": 5,
        "steps_b": 5,
        "same_key_other_bytes": [],
    }
    assert told["steps"]["of"] == "latents"
    compared = told["steps"]["compared"]
    assert [each["index"] for each in compared] == [0, 1, 2, 3, 4]
    assert [each["relative_l2"] == 0 for each in compared] == [True, True, False, False, False]
    assert compared[-1]["relative_l2"] == told["latents"]["relative_l2"]
    frames = told["frames"]
    assert (frames["count"], frames["width"], frames["height"]) == (5, 64, 64)
    assert frames["psnr_min"] == min(frames["psnr_by_frame"]) <= frames["psnr"]
    assert frames["ssim_min"] == min(frames["ssim_by_frame"]) < frames["ssim"] < 1
    assert (told["reasons"], told["output"]) == ({}, [])


def test_a_run_with_itself_and_by_the_beginning_of_its_id(capsys, pair):
    a, _ = pair
    code, out, _ = modiff(capsys, a[:6], a)
    assert code == 0
    for line in (
        "settings: the same",
        "chain    all 5 steps have the same keys",
        "latents  equal",
        "frames   5 of 64x64, all equal",
    ):
        assert line in out
    told = json.loads(modiff(capsys, a, a, "--json")[1])
    assert (told["frames"]["equal"], told["frames"]["psnr"]) == (5, None)


def test_equal_keys_with_other_bytes_and_environments(capsys, store):
    facts = [f'{{"device":"cpu","torch":"2.{minor}"}}' for minor in (6, 7)]
    a = record_run(store, micro(), environment=facts[0])
    b = record_run(store, micro(), seed=1, environment=facts[1])
    from store.database.database import immediate

    with immediate(store.lineage) as connection:
        connection.execute(
            "UPDATE run_links SET key=(SELECT key FROM run_links AS other WHERE other.run_id=? "
            "AND other.stage='step' AND other.idx=run_links.idx) WHERE run_id=? AND stage='step'",
            (a.id, b.id),
        )
    _, out, _ = modiff(capsys, a.id, b.id)
    told = sections(out)
    assert " ".join(told["chain"]).endswith("; the same keys gave other bytes at steps 1-5")
    assert told["environment"][1].split() == ["torch", "2.6", "2.7"]


def test_long_and_hostile_values_stay_within_the_page(capsys, store):
    first = "a cat\x1b[2J walks " + "very " * 60
    a = record_run(store, micro(f"prompt={json.dumps(first)}"))
    b = record_run(store, micro(f"prompt={json.dumps('猫' * 200)}"))
    code, out, _ = modiff(capsys, a.id, b.id)
    assert code == 0
    assert "\x1b" not in out
    assert "a cat\\x1b[2J walks" in out
    assert max(map(cell_len, out.splitlines())) <= WIDTH
    assert out.count("猫") == 200


def test_many_steps_are_thinned_out_in_the_text_alone(capsys, store):
    a = record_run(store, micro("scheduler.steps=40"))
    b = record_run(store, micro("scheduler.steps=40"), seed=1)
    _, out, _ = modiff(capsys, a.id, b.id)
    rows = [line for line in sections(out)["steps"] if line[:8].strip().isdigit()]
    assert len(rows) == 16
    assert (rows[0].split()[0], rows[-1].split()[0]) == ("1", "40")
    assert "16 of 40 steps that differ" in out
    assert len(json.loads(modiff(capsys, a.id, b.id, "--json")[1])["steps"]["compared"]) == 40


def test_what_cannot_be_compared_is_said(capsys, store, pair):
    a, _ = pair
    queued = store.enqueue(encode_spec(micro()), preset="micro", output="/v/{run}.mp4")
    for order in ((a, queued), (queued, a)):
        code, out, err = modiff(capsys, *order)
        assert (code, err) == (0, "")
        assert f"steps    run {queued} (queued) has no steps on record" in out
        assert f"latents  run {queued} (queued) has no final latents" in out
        assert f"frames   run {queued} (queued) has no video in the store" in out
    told = json.loads(modiff(capsys, a, queued, "--json")[1])
    assert [told[part] for part in ("steps", "latents", "frames")] == [None] * 3
    assert set(told["reasons"]) == {"steps", "latents", "frames"}


def test_videos_of_other_lengths_are_said(capsys, store, tmp_path):
    a = record_run(store, micro(), frames=wave(5, 64, 64))
    b = record_run(store, micro("fps=12"), frames=wave(9, 64, 64))
    path = tmp_path / "both.mp4"
    code, out, _ = modiff(capsys, a.id, b.id, "--output", path)
    assert code == 0
    assert "frames   videos of 5 and of 9 frames cannot be compared" in out
    assert len(list(read_frames(path))) == 9


# Files


def test_the_video_and_the_sheet(capsys, pair, tmp_path):
    code, out, _ = modiff(capsys, *pair, "--output", tmp_path / "both.mp4")
    assert code == 0
    assert out.splitlines()[-2:] == [str(tmp_path / "both.mp4"), str(tmp_path / "both.png")]
    assert sorted(os.listdir(tmp_path)) == ["both.mp4", "both.png"]
    assert len(list(read_frames(tmp_path / "both.mp4"))) == 5


def test_the_sheet_alone(capsys, pair, tmp_path):
    code, out, _ = modiff(capsys, *pair, "--output", tmp_path / "both.png", "--json")
    assert code == 0
    assert json.loads(out)["output"] == [str(tmp_path / "both.png")]
    assert os.listdir(tmp_path) == ["both.png"]


@pytest.mark.parametrize("taken", ["both.mp4", "both.png"])
def test_nothing_is_overwritten(capsys, pair, tmp_path, taken):
    (tmp_path / taken).write_bytes(b"mine")
    code, out, err = modiff(capsys, *pair, "--output", tmp_path / "both.mp4")
    assert (code, out) == (2, "")
    assert err == (
        f"modiff: {tmp_path / taken} is there already; name another, nothing is overwritten\n"
    )
    assert os.listdir(tmp_path) == [taken]
    assert (tmp_path / taken).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("both.avi", "expected a name that ends in .mp4 or .png, got both.avi"),
        ("both", "expected a name that ends in .mp4 or .png, got both"),
        ("gone/both.mp4", "there is no folder {folder}/gone; make it, or choose another"),
        (
            "/proc/both.mp4",
            "the folder /proc cannot be written (No such file or directory); choose another",
        ),
    ],
)
def test_names_that_will_not_do(capsys, pair, tmp_path, name, line):
    code, out, err = modiff(capsys, *pair, "--output", tmp_path / name)
    assert (code, out, err) == (2, "", f"modiff: {line.format(folder=tmp_path)}\n")


def test_pictures_need_both_videos(capsys, store, pair, tmp_path):
    failed = record_run(store, micro(), status="failed")
    code, out, err = modiff(capsys, pair[0], failed.id, "--output", tmp_path / "both.mp4")
    assert (code, out) == (1, "")
    assert err == f"modiff: run {failed.id} (failed) has no video in the store\n"
    assert os.listdir(tmp_path) == []


def test_videos_that_are_gone_or_damaged(capsys, store, pair, tmp_path):
    digests = [
        next(link.digest for link in store.links_of(run) if link.stage == "video") for run in pair
    ]
    damaged, gone = (blobs.blob_path(store.root, digest) for digest in digests)
    gone.unlink()
    code, out, _ = modiff(capsys, *pair)
    assert code == 0
    assert f"frames   the video of run {pair[1]} is no longer in the store" in out
    code, _, err = modiff(capsys, *pair, "--output", tmp_path / "both.mp4")
    assert (code, len(err.splitlines())) == (1, 1)
    damaged.chmod(0o600)
    damaged.write_bytes(b"x")
    code, _, err = modiff(capsys, *pair, "--output", tmp_path / "both.mp4")
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"the video of run {pair[0]}" in err
    assert os.listdir(tmp_path) == []


def test_an_unknown_run(capsys, pair):
    for arguments in ((pair[0], "zzzz"), ("zzzz", pair[0])):
        code, out, err = modiff(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert "zzzz" in err


def test_without_tensors_torch_is_not_imported(store):
    runs = [
        store.enqueue(encode_spec(micro(f"seed={seed}")), preset="micro", output="")
        for seed in (1, 2)
    ]
    code = (
        "import json, sys; from tui.cli.main import main; code = main(['compare', *sys.argv[1:]]); "
        "print(json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *runs], capture_output=True, text=True, cwd=ROOT, check=True
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert not {"torch", "numpy", "PIL", "imageio_ffmpeg"} & set(modules)
