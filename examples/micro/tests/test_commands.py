"""The recipe's command line, from a VAE of nothing to a measured export, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from examples.micro.commands import main
from examples.micro.tests import tiny
from examples.micro.training.checkpoint import load_checkpoint


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_has_help() -> None:
    overview = invoke("--help").output
    commands = ("all", "train-vae", "encode", "train-dit", "evaluate", "export", "tiny-decoder")
    for command in commands:
        assert f"  {command} " in overview
        result = invoke(command, "--help")
        assert result.exit_code == 0
        assert "--" in result.output


@pytest.mark.usefixtures("tiny_crops")
def test_from_nothing_to_a_measured_export(folder: Path) -> None:
    vae = ("train-vae", "--dim", 2, "--device", "cpu", "--check-clips", 1)
    assert invoke(*vae, "--steps", 1).exit_code == 0
    assert invoke(*vae, "--steps", 2, "--resume").exit_code == 0
    assert load_checkpoint(folder / "vae.pt", "vae")["progress"]["step"] == 2
    finetune = ("--init", "vae.pt", "--freeze-encoder", "--steps", 1, "--out", "finetuned.pt")
    assert invoke(*vae, *finetune).exit_code == 0
    finetuned = load_checkpoint(folder / "finetuned.pt", "vae")
    assert [entry["phase"] for entry in finetuned["history"]] == ["curriculum", "decoder"]

    tiny.write_latents(folder / "latents")
    result = invoke(
        "train-dit", "--steps", 1, "--seconds", 0, "--dim", 32, "--layers", 1, "--batch", 4,
        "--text-warmup-seconds", 0.05, "--check-prompts", 1, "--no-compile", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0
    assert "development after 4 samples" in result.stderr
    assert (folder / "dit.png").is_file()

    assert invoke("export", "--vae", "finetuned.pt", "--out", "weights").exit_code == 0
    measure = ("evaluate", "--weights", "weights", "--clips", 2, "--prompts", 2)
    result = invoke(*measure, "--json", "figures.json", "--beyond-failure")
    assert result.exit_code == 1
    assert "FAIL round trip: shape" in result.stdout
    assert "held-out prompts" in result.stderr
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    assert len(figures["gates"]) == 12
    assert (folder / "sheets" / "held-out.png").is_file()

    assert invoke("export", "--out", "weights", "--gates", "figures.json").exit_code == 0
    card = (folder / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| prompts: motion |" in card


def test_freezing_needs_something_to_freeze(folder: Path) -> None:
    with pytest.raises(ValueError, match="decoder phase needs trained weights"):
        invoke("train-vae", "--freeze-encoder", "--steps", 1, "--device", "cpu")
    assert not (folder / "vae.pt").exists()
