"""Every kind of output has a name of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from engine.output.paths import default_output, folder_problem, output_paths, output_problem
from presets.spec.output import OutputSpec


def test_everything_lies_beside_the_video() -> None:
    assert output_paths(Path("/a/clip.mp4"), ["latents", "frames", "video"]) == {
        "video": Path("/a/clip.mp4"),
        "frames": Path("/a/clip-frames"),
        "latents": Path("/a/clip.safetensors"),
    }


def test_default_names_fit_what_is_written() -> None:
    assert default_output(OutputSpec(kinds=("video", "latents"))) == "modiff-{run}.mp4"
    assert default_output(OutputSpec(kinds=("video",), format="ffv1")) == "modiff-{run}.mkv"
    assert default_output(OutputSpec(kinds=("frames",))) == "modiff-{run}"
    assert default_output(OutputSpec(kinds=("frames", "latents"))) == "modiff-{run}.safetensors"


def test_frames_alone_take_the_path_itself() -> None:
    assert output_paths(Path("/a/shots"), ["frames"]) == {"frames": Path("/a/shots")}


def test_a_folder_that_takes_files_is_left_as_it_was(tmp_path: Path) -> None:
    assert folder_problem(tmp_path / "clip.mp4") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("gone/clip.mp4", "file/clip.mp4"):
        assert folder_problem(tmp_path / name).startswith(f"there is no folder {tmp_path}/")


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root can write")
def test_rights_alone_do_not_make_a_folder_that_takes_files() -> None:
    assert folder_problem(Path("/proc/clip.mp4")).startswith("the folder /proc cannot be written (")


def test_a_name_that_the_file_system_does_not_take_is_told_before_the_run(tmp_path):
    fits = tmp_path / f"{'n' * 251}.mp4"
    assert output_problem(fits, ["video"]) == ""
    for path, kinds in (
        (tmp_path / f"{'n' * 252}.mp4", ["video"]),
        (tmp_path / f"{'气球' * 50}.mp4", ["video"]),
        (tmp_path / f"{'n' * 249}.mp4", ["video", "frames"]),
        (tmp_path / f"{'n' * 244}.mp4", ["video", "latents"]),
        (tmp_path / f"{'n' * 242}{{run}}.mp4", ["video"]),
        (tmp_path / ("n" * 300) / "a.mp4", ["video"]),
    ):
        assert "is too long for the file system" in output_problem(path, kinds)
    assert "is too long for the file system" in folder_problem(tmp_path / ("n" * 300))
    assert "is a folder" in output_problem(tmp_path, ["video"])


def test_a_folder_whose_name_is_no_unicode_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    assert "is not valid Unicode (UTF-8)" in output_problem(folder / "clip.mp4", ["video"])
