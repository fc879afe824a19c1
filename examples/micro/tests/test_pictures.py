"""The recipe of image to video, from the shipped text-to-video model to a measured export, tiny."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.micro.grammar import is_heldout
from examples.micro.commands import main
from examples.micro.measures.meter import judge, read_clip
from examples.micro.measures.sampling import load_exported
from examples.micro.model.architecture import DiTShape, build_picture_dit
from examples.micro.pictures import given_frames
from examples.micro.pictures.evaluate import heldout_pictures
from examples.micro.pictures.given_frames import given_video
from examples.micro.pictures.train import LAST
from examples.micro.training.checkpoint import load_checkpoint

WEIGHTS = locate("denoiser", BUILTIN_MICRO).parent


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, ["pictures", *(str(each) for each in arguments)], catch_exceptions=False
    )


def test_from_the_shipped_model_to_a_measured_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(given_frames, "CLIPS_PER_SHARD", 4)
    monkeypatch.setattr(given_frames, "CLIPS_PER_PASS", 4)
    assert invoke("train-clip", "--steps", 1, "--seconds", 0).exit_code == 0
    assert invoke("encode", "--shards", 1).exit_code == 0
    train = ("train", "--seconds", 0, "--batch", 2, "--no-compile")
    assert invoke(*train, "--steps", 1).exit_code == 0
    assert invoke(*train, "--steps", 2, "--resume").exit_code == 0
    assert load_checkpoint(tmp_path / "i2v.pt", "i2v")["progress"]["step"] == 2

    out = tmp_path / "weights"
    out.mkdir()
    for name in ("text_encoder.safetensors", "tokenizer.json", "vae.safetensors"):
        (out / name).symlink_to(WEIGHTS / name)
    assert invoke("export", "--out", out).exit_code == 0
    one, two = (load_file(out / name / "dit.safetensors") for name in ("i2v", "flf2v"))
    positions = two.pop("img_emb.emb_pos")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    learnt = load_checkpoint(tmp_path / "i2v.pt", "i2v")["ema"][LAST].bfloat16()
    assert torch.equal(positions, torch.cat([torch.zeros_like(learnt), learnt], dim=1))

    result = invoke("evaluate", "--weights", out, "--count", 1, "--json", "figures.json")
    assert "i2v: PSNR of the first frame" in result.stdout
    assert "flf2v: PSNR of the last frame" in result.stdout
    assert (tmp_path / "sheets" / "flf2v.png").is_file()


@torch.no_grad()
def test_the_sibling_begins_as_the_text_to_video_model() -> None:
    model = load_exported(WEIGHTS)
    sibling = build_picture_dit(model.dit, DiTShape()).eval()
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 2, 4, 4, generator=generator)
    text = model.text_encoder.encode("a large red circle")[None]
    given = {
        "image": torch.randn(1, 257, 80, generator=generator),
        "latents": torch.randn(1, 20, 2, 4, 4, generator=generator),
    }
    timestep = torch.tensor([500.0])
    expected = model.dit(latents, timestep, model.dit.prepare({"text": text}))
    actual = sibling(latents, timestep, sibling.prepare({"text": text, **given}))
    assert (actual - expected).abs().max() < 1e-4


def test_pictures_are_held_out_and_their_clips_can_be_read() -> None:
    pictures = heldout_pictures(4)
    assert len(pictures.wanted) == len(pictures.truth) == 4
    for attributes, clip in zip(pictures.wanted, pictures.truth, strict=True):
        assert is_heldout(attributes)
        assert judge(attributes, read_clip(clip)).all_four


def test_what_is_given_of_a_video() -> None:
    video = torch.rand(1, 3, 9, 4, 4) + 1
    for has_last in (False, True):
        given = given_video(video, has_last=has_last)
        kept = [frame for frame in range(9) if given[:, :, frame].any()]
        assert kept == ([0, 8] if has_last else [0])
        assert all(torch.equal(given[:, :, frame], video[:, :, frame]) for frame in kept)


def test_drawn_pictures_are_those_that_are_shipped(tmp_path: Path) -> None:
    assert invoke("draw", "--out", tmp_path).exit_code == 0
    shipped = Path(__file__).parents[2] / "pictures"
    names = sorted(path.name for path in shipped.glob("*.png"))
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    from engine.inputs.pictures.reading import read_picture

    for name in names:
        assert read_picture(tmp_path / name).digest == read_picture(shipped / name).digest
