"""Image to video, first and last frame to video, and video to video, against diffusers' own pipelines.

fp32, at a small size with sides that differ; the latents to 1e-4 after every step, as in test_pipeline_parity. Pictures
have the size of the video, at which diffusers and the published code agree on what the VAE is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from engine.checkpoints.names import from_original
from engine.components.choice import settle
from engine.inputs.settle import settle as settle_inputs
from engine.models.diffusion.config import WanDiTConfig
from engine.models.image_encoders.clip import CLIP, MEAN, STD, CLIPConfig
from engine.output.media import write_video
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.index.index import open_index
from store.paths import prepare
from tests.oracles.later import diffusers, transformers
from tests.oracles.loaded import denoised, load
from tests.oracles.parity import dit_pair, randomise
from tests.oracles.peers import make_peer

WIDTH, HEIGHT, FRAMES = 48, 32, 9
SIZES = {"dim": 128, "ffn_dim": 256, "num_heads": 4, "num_layers": 2, "text_dim": 128}
PICTURES = {"i2v": ("image",), "flf2v": ("image", "last_image")}


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def image_encoder(folder: Path) -> transformers.CLIPVisionModel:
    """transformers' tower, with random weights that lie in `folder` too."""
    ours = CLIP(CLIPConfig(width=80, layers=3, mlp=160)).eval().requires_grad_(False)
    randomise(ours, 5)
    weights = {name: tensor.contiguous() for name, tensor in ours.state_dict().items()}
    save_file(weights, folder / "clip.safetensors")
    config = transformers.CLIPVisionConfig(
        hidden_size=80, intermediate_size=160, num_hidden_layers=3, num_attention_heads=1,
        image_size=224, patch_size=14, hidden_act="gelu", layer_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.CLIPVisionModel(config).eval()
    named = {}
    for name, tensor in weights.items():
        names = from_original("image_encoder", "huggingface", name)
        axes = tensor.reshape(theirs_shape(theirs, names[0], tensor)) if len(names) == 1 else tensor
        parts = axes.chunk(len(names)) if len(names) > 1 else (axes,)
        named |= {
            theirs_name(part_name): part for part_name, part in zip(names, parts, strict=True)
        }
    theirs.load_state_dict(named, strict=True)
    return theirs


def theirs_name(name: str) -> str:
    # in memory transformers has the tower without the prefix that its files have
    return name.removeprefix("vision_model.")


def theirs_shape(theirs: transformers.CLIPVisionModel, name: str, tensor: Tensor) -> torch.Size:
    return theirs.state_dict()[theirs_name(name)].shape


def seen(image: Image.Image) -> Tensor:
    """A picture as the published code hands it to CLIP, `wan/modules/clip.py`."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    square = torch.nn.functional.interpolate(
        pixels, (224, 224), mode="bicubic", align_corners=False
    )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (square * 0.5 + 0.5 - mean) / std


@pytest.mark.parametrize("task", ["i2v", "flf2v"])
@torch.no_grad()
def test_every_step(task: str, tmp_path: Path) -> None:
    config = WanDiTConfig(model_type=task, in_dim=36, image_dim=80, **SIZES)
    ours, transformer = dit_pair(config, seed=3)
    save_file(ours.state_dict(), tmp_path / "dit.safetensors")
    told = {"_class_name": "WanModel", "model_type": task, "in_dim": 36, **SIZES}
    (tmp_path / "config.json").write_text(json.dumps(told))
    encoder = image_encoder(tmp_path)
    images = {name: picture(seed) for seed, name in enumerate(PICTURES[task])}
    for name, image in images.items():
        image.save(tmp_path / f"{name}.png")
    spec = load_preset(
        f"micro-{task}",
        [
            f"components.denoiser.checkpoint={tmp_path / 'dit.safetensors'}",
            f"components.image_encoder.checkpoint={tmp_path / 'clip.safetensors'}",
            *(f"{name}.path={tmp_path / name}.png" for name in images),
            f"width={WIDTH}", f"height={HEIGHT}", f"frames={FRAMES}", "seed=9",
            "scheduler.steps=5", "scheduler.grid=diffusers", "guidance.scale=3",
        ],
    )  # fmt: skip
    prepare(tmp_path)
    with open_index(tmp_path) as index:
        spec = settle_inputs(settle(spec), index, lambda key: False).spec

    theirs = reference(spec, transformer, encoder, images)
    steps = denoised(spec, tmp_path)
    assert len(steps) == len(theirs) == 5
    for number, (latents, expected) in enumerate(zip(steps, theirs, strict=True), start=1):
        assert expected.std() > 0.1
        assert (latents - expected).abs().max() <= 1e-4, f"step {number}"


@torch.no_grad()
def test_every_step_from_a_clip(tmp_path: Path) -> None:
    """From the noise level of a strength on, on the same grid, with an empty history."""
    frames = torch.from_numpy(
        np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    )
    write_video(tmp_path / "clip.mkv", frames, format="ffv1", fps=8, comment="")
    overrides = [
        f"video.path={tmp_path / 'clip.mkv'}", "video.strength=0.6", f"width={WIDTH}", f"height={HEIGHT}",
        f"frames={FRAMES}", "seed=9", "scheduler.steps=10", "scheduler.grid=diffusers",
    ]  # fmt: skip
    ours = load("micro")
    prepare(tmp_path)
    with open_index(tmp_path) as index:
        spec = settle_inputs(settle(load_preset("micro", overrides)), index, lambda key: False).spec
    peer = make_peer(ours)
    pipeline = diffusers.WanVideoToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=peer.vae, scheduler=solver(spec), transformer=peer.transformer
    )  # fmt: skip
    found, on_step = recorder(pipeline)
    pipeline(
        video=[Image.fromarray(frame.numpy()) for frame in frames], strength=0.6,
        prompt_embeds=peer.encode(spec.prompt), negative_prompt_embeds=peer.encode(spec.negative_prompt),
        height=HEIGHT, width=WIDTH, num_inference_steps=10, guidance_scale=spec.guidance.scale,
        generator=torch.Generator().manual_seed(spec.seed), output_type="latent",
        callback_on_step_end=on_step,
    )  # fmt: skip
    steps = denoised(spec, tmp_path)
    assert len(steps) == len(found) == 6
    for number, (latents, expected) in enumerate(zip(steps, found, strict=True), start=1):
        assert (latents - expected).abs().max() <= 1e-4, f"step {number}"


def solver(spec: RunSpec) -> diffusers.UniPCMultistepScheduler:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=spec.scheduler.shift
    )


def recorder(pipeline: diffusers.DiffusionPipeline) -> tuple[list[Tensor], Callable[..., dict]]:
    """(the latents after each step, what the pipeline is to call)."""
    pipeline.set_progress_bar_config(disable=True)
    found: list[Tensor] = []

    def on_step(_pipeline: object, _step: int, _timestep: object, values: dict) -> dict:
        found.append(values["latents"].clone())
        return values

    return found, on_step


def reference(
    spec: RunSpec,
    transformer: torch.nn.Module,
    encoder: transformers.CLIPVisionModel,
    images: dict[str, Image.Image],
) -> list[Tensor]:
    """The latents after each step of diffusers' pipeline; only what it would do to the prompts and to CLIP's picture is
    done for it, as published."""
    peer = make_peer(load("micro"))
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=peer.vae, scheduler=solver(spec), image_processor=None,
        image_encoder=None, transformer=transformer,
    )  # fmt: skip
    found, on_step = recorder(pipeline)
    tokens = encoder(
        torch.cat([seen(image) for image in images.values()]), output_hidden_states=True
    )
    # it takes no tokens beside a picture, and would give the encoder a cut one
    pipeline.encode_image = lambda pictures, device: tokens.hidden_states[-2]
    shape = (1, 16, 1 + (FRAMES - 1) // 4, HEIGHT // 8, WIDTH // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(spec.seed))
    pipeline(
        image=images["image"], last_image=images.get("last_image"),
        prompt_embeds=peer.encode(spec.prompt), negative_prompt_embeds=peer.encode(spec.negative_prompt),
        latents=noise, height=HEIGHT, width=WIDTH,
        num_frames=FRAMES, num_inference_steps=spec.scheduler.steps, guidance_scale=spec.guidance.scale,
        output_type="latent", callback_on_step_end=on_step,
    )  # fmt: skip
    return found
