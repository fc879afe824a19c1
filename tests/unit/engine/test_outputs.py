"""Every kind of output has a name of its own."""

from __future__ import annotations

from pathlib import Path

from engine.outputs import default_output, output_paths


def test_everything_lies_beside_the_video() -> None:
    assert output_paths(Path("/a/clip.mp4"), ["latents", "frames", "video"]) == {
        "video": Path("/a/clip.mp4"),
        "frames": Path("/a/clip-frames"),
        "latents": Path("/a/clip.safetensors"),
    }


def test_default_names_fit_what_is_written() -> None:
    assert default_output(["video", "latents"]) == "modiff-{run}.mp4"
    assert default_output(["frames"]) == "modiff-{run}"
    assert default_output(["frames", "latents"]) == "modiff-{run}.safetensors"


def test_frames_alone_take_the_path_itself() -> None:
    assert output_paths(Path("/a/shots"), ["frames"]) == {"frames": Path("/a/shots")}
