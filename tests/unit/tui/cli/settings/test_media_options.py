"""What a run begins from, as options: what they set, what they refuse, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from engine.output.encoders import encode
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset, override
from tui.cli.main import main
from tui.cli.settings.prompts import prompt_of_preset
from tui.describe.inputs import looked_at

STRENGTH = "strength 0.6 at shift 3: 12 of 20 steps, from sigma 0.82"
NOTES = [
    "the prompt still is the preset's, whatever the video shows: "
    '"a large red circle moves left over a dark blue background"; --prompt says another',
    "video: clip.mp4, 64x64; 9 frames at 8 a second",
    STRENGTH,
]


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """9 frames of 64x64 at 8 a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    frames = (memoryview(bytes([20 * number]) * (64 * 64 * 3)) for number in range(9))
    encode(path, frames, format="h264", size=(64, 64), fps=8, comment="")
    return path


@pytest.fixture(autouse=True)
def clip(store, encoded):
    """clip.mp4 in the current folder."""
    Path("clip.mp4").write_bytes(encoded.read_bytes())


def queued(capsys, store, *arguments):
    """The settings of a run that was queued, and what was said of it."""
    assert main([*arguments, "--detach"]) == 0
    run_id, err = capsys.readouterr()
    return decode_spec(store.run(run_id.strip()).spec_json), err.splitlines()


def test_a_clip_and_its_strength(capsys, store):
    spec, told = queued(capsys, store, "run", "micro", "--video", "clip.mp4", "--strength", "0.6")
    assert (spec.video.path, spec.video.strength) == (str(Path("clip.mp4").absolute()), 0.6)
    assert spec.video.digest.startswith("sha256:")
    assert spec.frames == 9
    assert told == NOTES


def test_programs_are_told_the_same_and_quiet_is_quiet(capsys, store):
    assert main(["run", "micro", "--video", "clip.mp4", "--quiet", "--json", "--detach"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["notes"] == NOTES


def test_a_sigma_goes_instead_of_a_strength_and_the_other_way_round(capsys, store):
    by_sigma, told = queued(capsys, store, "run", "micro", "--video", "clip.mp4", "--sigma", "0.8")
    assert by_sigma.video.sigma == 0.8
    assert told[-1] == "sigma 0.8 at shift 3: 11 of 20 steps, from sigma 0.79"
    preset = ["--video", "clip.mp4", "--set", "video.sigma=0.8"]
    by_strength, _ = queued(capsys, store, "run", "micro", *preset, "--strength", "0.5")
    assert (by_strength.video.sigma, by_strength.video.strength) == (0.0, 0.5)


def test_the_size_as_options(capsys, store):
    spec, _ = queued(capsys, store, "run", "micro", "--width", "96", "--height", "48")
    assert (spec.width, spec.height) == (96, 48)
    spec, told = queued(
        capsys, store, "run", "micro", "--video", "clip.mp4", "--width", "0", "--height", "32"
    )
    assert (spec.width, spec.height) == (32, 32)
    assert told[1].endswith("scaled to 32x32")


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--video", "gone.mp4"], "gone.mp4"),
        (["--video", "clip.mp4", "--strength", "1.5"], "expected a finite number > 0 and <= 1"),
        (["--video", "clip.mp4", "--strength", "x"], "expected a finite number > 0 and <= 1"),
        (["--video", "clip.mp4", "--sigma", "-1"], "expected a finite number >= 0 and <= 1"),
        (["--video", "clip.mp4", "--strength", "0"], "expected a finite number > 0 and <= 1"),
        (["--video", "clip.mp4", "--sigma", "0"], "expected a noise level > 0 and <= 1"),
        (["--video", "clip.mp4", "--sigma", "0.8", "--strength", "0.5"], "give one of them"),
        (["--video", "clip.mp4", "--strength", "0.01"], "video.strength: 0.01 leaves none"),
        (["--strength", "0.5"], "give one with --video"),
        (["--sigma", "0.5"], "give one with --video"),
        (["--width", "33"], "expected a multiple of 16"),
        (["--width", "0"], "leaves the size to a picture"),
        (["--image", "cat.png"], "micro-i2v"),
        (["--last-image", "cat.png"], "micro-flf2v"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_and_queues_nothing(capsys, store, command, arguments, words):
    assert main([command, "micro", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err.splitlines()[-1]
    assert store.runs(limit=1) == []


def test_a_plan_says_what_is_done_with_a_clip(capsys):
    assert main(["plan", "micro", "--video", "clip.mp4", "--strength", "0.6"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[:3] == NOTES
    (row,) = [line for line in out.splitlines() if line.startswith("encode")]
    assert row.split() == ["encode", "to", "compute", "?", "cpu", "clip.mp4,", "into", "latents"]
    assert main(["plan", "micro", "--video", "clip.mp4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == NOTES
    assert (told["total_steps"], told["stages"][1]["about"]) == (12, "clip.mp4, into latents")


def test_a_sweep_looks_at_everything_before_it_queues_anything(capsys, store):
    over = ["sweep", "micro", "--over", "video.strength=0.4,0.6", "--detach"]
    assert main([*over, "--video", "gone.mp4"]) == 2
    assert "gone.mp4" in capsys.readouterr().err
    assert store.runs(limit=1) == []
    assert main([*over, "--video", "clip.mp4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"] == [
        *NOTES[:2],
        "strength 0.4 at shift 3: 8 of 20 steps, from sigma 0.67",
        STRENGTH,
    ]
    specs = [decode_spec(run.spec_json) for run in store.runs(limit=5)]
    assert {spec.video.strength for spec in specs} == {0.4, 0.6}
    assert len({spec.video.digest for spec in specs} - {""}) == 1
    assert main([*over, "--video", "clip.mp4", "--strength", "0.5"]) == 2
    assert "both set and varied" in capsys.readouterr().err


def test_a_sweep_over_strengths_needs_a_video(capsys, store):
    assert main(["sweep", "micro", "--over", "video.strength=0.4,0.6", "--detach"]) == 2
    err = capsys.readouterr().err
    assert "video.strength says how much of a video is made anew; give one with --video" in err
    assert store.runs(limit=1) == []


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_strength_that_is_set_needs_a_video(command, capsys, store):
    assert main([command, "micro", "--set", "video.strength=0.4"]) == 2
    err = capsys.readouterr().err
    assert "video.strength says how much of a video is made anew; give one with --video" in err
    assert store.runs(limit=1) == []


def test_a_picture_with_the_prompt_of_its_preset_is_told():
    own = load_preset("micro-i2v", ["image.path=cat.png"])
    (told,) = prompt_of_preset(own, "micro-i2v", None)
    assert told == (
        "the prompt still is the preset's, whatever the picture shows: "
        f'"{own.prompt}"; --prompt says another'
    )
    assert not prompt_of_preset(own, "micro-i2v", own.prompt)
    assert not prompt_of_preset(own, "", None)
    assert not prompt_of_preset(override(own, ["prompt=a star"]), "micro-i2v", None)
    assert not prompt_of_preset(load_preset("micro"), "micro", None)
    (told,) = prompt_of_preset(load_preset("micro", ["video.path=cat.mp4"]), "micro", None)
    assert "whatever the video shows" in told


def test_a_sweep_over_clips_is_named_by_them(capsys, store):
    Path("other.mp4").write_bytes(Path("clip.mp4").read_bytes() + b"\0")
    over = "video.path=clip.mp4,other.mp4"
    assert (
        main(["sweep", "micro", "--over", over, "--output", "of-{video.path}.mp4", "--detach"]) == 0
    )
    names = {Path(run.output).name for run in store.runs(limit=5)}
    assert names == {"of-clip.mp4", "of-other.mp4"}


def test_a_branch_keeps_its_clip_but_at_the_noise(capsys, store):
    assert main(["run", "micro", "--video", "clip.mp4", "--detach"]) == 0
    run_id = capsys.readouterr().out.strip()
    Path("other.mp4").write_bytes(Path("clip.mp4").read_bytes() + b"\0")
    assert main(["branch", run_id, "--at", "3", "--video", "other.mp4", "--detach"]) == 2
    assert "branch at step 0 to change it" in capsys.readouterr().err
    spec, told = queued(capsys, store, "branch", run_id, "--at", "0", "--video", "other.mp4")
    assert spec.video.path == str(Path("other.mp4").absolute())
    assert told[0].startswith("video: other.mp4, ")


def test_a_clip_that_is_gone_and_was_never_encoded_is_told_before_anything_is_queued(capsys, store):
    assert main(["run", "micro", "--video", "clip.mp4", "--detach"]) == 0
    run_id = capsys.readouterr().out.strip()
    Path("clip.mp4").unlink()
    assert main(["branch", run_id, "--at", "0", "--set", "seed=3"]) == 2
    err = capsys.readouterr().err
    assert "clip.mp4 is not there, and what was encoded of it is not stored" in err
    assert len(store.runs(limit=5)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["micro", "--continue", "k3f"], "such as micro-i2v"),
        (["micro-i2v", "--continue", "k3f", "--image", "cat.png"], "leave out --image"),
        (["micro-i2v", "--continue", "nothing"], "no run"),
    ],
)
def test_what_does_not_go_on_from_a_run(capsys, store, arguments, words):
    assert main(["run", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert store.runs(limit=1) == []


def test_a_run_goes_on_from_the_last_frame_of_another(capsys, store, monkeypatch):
    before = store.enqueue(encode_spec(load_preset("micro")), preset="micro", output="/v.mp4")
    Image.new("RGB", (64, 64), "red").save("v-last.png")
    monkeypatch.setattr(
        "engine.inputs.last_frame.last_frame", lambda store, run_id: Path("v-last.png")
    )
    monkeypatch.setattr("engine.client.check", lambda store, spec: None)
    spec, told = queued(capsys, store, "run", "micro-i2v", "--continue", before[:6])
    assert spec.image.path == str(Path("v-last.png").absolute())
    assert told[-1] == "image: v-last.png, 64x64"
    assert store.runs(limit=1)[0].note == f"goes on from the last frame of {before}"


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((96, 64), "scaled to 96x64"),
        ((64, 64), "scaled to 96x64, 32 columns cut at the sides"),
        ((64, 48), "scaled to 64x48"),  # whose proportions are as published
    ],
)
def test_what_becomes_of_a_picture_is_told(store, size, told):
    Image.new("RGB", (90, 60), "red").save("cat.png")
    settings = {"image.path": "cat.png", "width": size[0], "height": size[1], "max_area": 4096}
    _, notes = looked_at(store, load_preset("micro", ["task=i2v"], values=settings))
    assert notes == (f"image: cat.png, 90x60; {told}",)


def test_a_picture_is_told_with_the_size_that_the_video_gets(capsys, store):
    Image.new("RGB", (90, 60), "red").save("cat.png")
    spec = load_preset(
        "micro",
        ["task=i2v"],
        values={"image.path": "cat.png", "width": 0, "height": 0, "max_area": 4096},
    )
    spec, told = looked_at(store, spec)
    assert told == ("image: cat.png, 90x60; the video gets 64x48",)
    assert (spec.width, spec.height) == (64, 48)


def test_a_plan_says_whose_prompt_it_is_too(capsys, store):
    Image.new("RGB", (64, 64), "red").save("cat.png")
    told = [
        main(["plan", "micro-i2v", "--image", "cat.png", *prompt])
        for prompt in ([], ["--prompt", "a star"])
    ]
    assert told == [0, 0]
    own = load_preset("micro-i2v").prompt
    assert capsys.readouterr().err.count(f'whatever the picture shows: "{own}"') == 1
