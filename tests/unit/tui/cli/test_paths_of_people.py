"""Paths as people give them: too long, in folders that are closed or gone, with what a terminal would obey in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.checkpoints.places import list_file
from engine.process.version import installed_version
from tui.cli.main import main

ROOT = Path(__file__).resolve().parents[4]
LONG = "n" * 300


@pytest.fixture
def run_id(store, capsys):
    assert main(["run", "micro", "--detach", "--quiet"]) == 0
    run_id = capsys.readouterr().out.strip()
    with store.register_engine("enginepast", pid=os.getpid(), version=installed_version()):
        store.lease("enginepast")
        store.finish(run_id, "done")
        store.unregister_engine("enginepast")
    return run_id


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "micro", "--output", f"{LONG}.mp4"),
        ("run", "micro", "--output", f"{LONG}/a.mp4"),
        ("run", "micro", "--output", f"~/{LONG}.mp4"),
        ("run", "micro", "--set", f"output.path={LONG}.mp4"),
        ("run", "micro", "--set", f"components.vae.checkpoint={LONG}"),
        ("run", "micro", "--set", f"components.denoiser.checkpoint=/{LONG}/x.safetensors"),
        ("run", "micro", "--set", f"components.text_encoder.tokenizer={LONG}"),
        ("run", f"{LONG}.toml"),
        ("run", "micro", "--prompt", f"@{LONG}"),
        ("plan", "micro", "--set", f"components.vae.checkpoint={LONG}"),
        ("sweep", "micro", "--over", "seed=1,2", "--output", f"{LONG}-{{seed}}.mp4"),
        ("branch", "RUN", "--at", "3", "--output", f"{LONG}.mp4"),
        ("replay", "RUN", "--output", f"{LONG}.mp4"),
        ("compare", "RUN", "RUN", "--output", f"{LONG}.mp4"),
        ("show", f"{LONG}.mp4"),
        ("store", "export", "RUN", "--output", f"{LONG}.modiff"),
        ("store", "import", f"{LONG}.modiff"),
        ("models", "inspect", LONG),
        ("models", "inspect", f"{LONG}/x.safetensors"),
        ("models", "add", LONG),
        ("models", "remove", LONG),
        ("models", "verify", LONG),
        ("models", "where", LONG),
        ("models", "convert", LONG, "x.gguf", "--layout", "gguf"),
        ("presets", "show", f"{LONG}.toml"),
        ("presets", "validate", f"{LONG}.toml"),
        ("presets", "path", LONG),
        ("presets", "save", LONG, "--from", "micro"),
        ("presets", "save", "mine", "--from", f"{LONG}.toml"),
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_path_that_is_too_long_is_a_refusal_in_words(capsys, store, run_id, arguments):
    code = main([run_id if word == "RUN" else word for word in arguments])
    out, err = capsys.readouterr()
    assert code == 2, err
    assert "a defect of modiff" not in out + err


def test_a_place_of_models_that_is_too_long_is_no_place(capsys, store):
    list_file().parent.mkdir(parents=True, exist_ok=True)
    list_file().write_text(f'paths = ["/{LONG}"]\n')
    for command in (["models", "list"], ["models", "where"], ["run", "micro", "--detach", "-q"]):
        assert main(command) in (0, 1)
        out, err = capsys.readouterr()
        assert "a defect of modiff" not in out + err
    assert main(["models", "remove", f"/{LONG}"]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root enters every folder")
def test_a_folder_that_may_not_be_entered(capsys, store, tmp_path):
    (tmp_path / "closed").mkdir(0o000)
    assert main(["run", "micro", "--output", "closed/a.mp4"]) == 2
    assert main(["models", "inspect", "closed/x.safetensors"]) == 2
    assert "a defect of modiff" not in capsys.readouterr().err


def modiff(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A shell script in which `modiff` is the command."""
    alias = f'modiff() {{ "{sys.executable}" -P -m tui.cli "$@"; }}\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", alias + script], env=environment, cwd=folder, text=True, capture_output=True
    )


def test_a_folder_that_was_removed_is_told(store, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    told = "the current folder was removed"
    for command in ("run micro --detach", "models add .", "doctor"):
        assert main(command.split()) == 2, command
        assert told in capsys.readouterr().err, command
    assert main(["runs"]) == 0
    assert told not in capsys.readouterr().err
    # as a process, too, which begins there
    ended = modiff("mkdir away && cd away && rmdir ../away && modiff models add .", tmp_path)
    assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize("command", ["runs", "models list", "plan micro"])
def test_without_a_standard_output_nothing_is_a_defect(store, run_id, monkeypatch, capsys, command):
    for closed in (["stdout"], ["stdin", "stdout", "stderr"]):
        with monkeypatch.context() as patched:
            for name in closed:
                patched.setattr(sys, name, None)  # as Python has it where the terminal is closed
            code = main(command.split())
        out, err = capsys.readouterr()
        assert (code, out) == (0, ""), err
        assert "defect" not in err
        assert not err or "stderr" not in closed


def test_a_process_without_a_standard_output(store, run_id, tmp_path):
    ended = modiff("modiff runs >&-", tmp_path)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert "defect" not in ended.stderr
    ended = modiff("modiff runs <&- >&- 2>&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_ffmpeg_that_does_not_start_is_found_before_anything_is_queued(
    capsys, store, run_id, monkeypatch
):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nonexistent")
    for arguments in (
        ("run", "micro"),
        ("sweep", "micro", "--over", "seed=1,2"),
        ("branch", run_id, "--at", "3", "--set", "fps=9"),
    ):
        assert main([*arguments]) == 2
        assert "ffmpeg, which writes videos, is no program" in capsys.readouterr().err
    assert [run.id for run in store.runs(limit=10)] == [run_id]
    assert main(["run", "micro", "--detach", "--set", 'output.kinds=["latents"]']) == 0


def test_an_encoder_that_ffmpeg_lacks_is_found_before_anything_is_queued(
    capsys, store, run_id, tmp_path, monkeypatch
):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' V....D libx264  libx264 H.264'\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    for arguments in (
        ("run", "micro", "--output", "a.mkv"),
        ("sweep", "micro", "--over", "seed=1,2", "--set", "output.format=ffv1"),
        ("branch", run_id, "--at", "3", "--output", "a.mkv"),
    ):
        assert main([*arguments]) == 2
        assert "has no ffv1, which ffv1 needs; take another output.format (h264, webp)" in (
            capsys.readouterr().err
        )
    assert [run.id for run in store.runs(limit=10)] == [run_id]
    assert main(["run", "micro", "--detach", "--output", "a.mp4"]) == 0


ESCAPE = "\x1b]0;title\x07"


@pytest.mark.parametrize(
    "arguments",
    [
        (f"no{ESCAPE}",),
        ("run", f"--{ESCAPE}"),
        ("run", ESCAPE),
        ("run", "micro", "--output", f"/no{ESCAPE}/a.mp4"),
        ("run", "micro", "--seed", ESCAPE),
        ("show", ESCAPE),
        ("models", "inspect", ESCAPE),
        ("models", "convert", ESCAPE, "x.gguf", "--layout", "gguf"),
        ("presets", "show", ESCAPE),
        ("presets", "validate", ESCAPE),
        ("store", "import", ESCAPE),
    ],
    ids=repr,
)
def test_what_was_given_wrongly_is_told_without_what_a_terminal_would_obey(
    capsys, store, arguments
):
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_folder_of_presets_is_printed_for_programs_and_for_terminals(
    capsys, monkeypatch, tmp_path, is_terminal
):
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / f"a{ESCAPE}b"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    assert main(["presets", "path"]) == 0
    assert ("\x1b" in capsys.readouterr().out) != is_terminal
