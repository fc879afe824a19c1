"""The networks of the micro model: their sizes, how they are built, and how fresh weights start.

The networks are the engine's own; only sizes and initialisation are chosen here. Text runs on the real tokens of
every prompt; rows past a prompt's end are zeroed, as the published pipeline does.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import Block, WanDiT
from engine.models.image_encoders.clip import CLIP
from engine.models.image_encoders.config import CLIPConfig
from engine.models.text_encoders import t5
from engine.models.vae.wanvae import WanVAE, WanVAEConfig

MAX_TOKENS = 23  # the longest sentence of the grammar has 21 tokens with its </s>
TEXT_DIM = 128
IMAGE_DIM = 80
GIVEN_CHANNELS = 20  # masks of four frames, and their latents


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """Size of the UMT5 encoder."""

    vocab_size: int = 138
    dim: int = TEXT_DIM
    ffn_dim: int = 256
    num_heads: int = 4
    num_layers: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTShape:
    """Size of the diffusion transformer."""

    dim: int = 128
    ffn_dim: int = 512
    num_heads: int = 4
    num_layers: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEShape:
    """Width of the VAE."""

    dim: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CLIPShape:
    """Size of the image encoder; one attention head, since heads of CLIP ViT-H have 80 channels."""

    width: int = IMAGE_DIM
    layers: int = 4
    mlp: int = 320


def dit_config(shape: DiTShape) -> WanDiTConfig:
    """The published configuration of a transformer of this size."""
    return WanDiTConfig(text_dim=TEXT_DIM, **asdict(shape))


def picture_config(shape: DiTShape, model_type: str) -> WanDiTConfig:
    """That of its image-to-video sibling."""
    config = dit_config(shape)
    return replace(
        config, model_type=model_type, in_dim=config.in_dim + GIVEN_CHANNELS, image_dim=IMAGE_DIM
    )


def build_dit(shape: DiTShape) -> WanDiT:
    """A transformer with Xavier blocks and a zero head, so that it starts by predicting nothing."""
    dit = WanDiT(dit_config(shape))
    for module in dit.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(dit.head.head.weight)
    nn.init.zeros_(dit.head.head.bias)
    return dit


def build_picture_dit(dit: WanDiT, shape: DiTShape) -> WanDiT:
    """The image-to-video sibling of a trained text-to-video transformer: the same function of text and latents until
    it is trained, with an image branch, and channels for given frames that do nothing yet."""
    sibling = WanDiT(picture_config(shape, "i2v"))
    for block in sibling.blocks:
        assert isinstance(block, Block)
        layer = block.cross_attn
        nn.init.xavier_uniform_(layer.k_img.weight)
        for tensor in (layer.k_img.bias, layer.v_img.weight, layer.v_img.bias):
            nn.init.zeros_(tensor)
    with torch.no_grad():
        weights = sibling.state_dict()
        for name, tensor in dit.state_dict().items():
            if name == "patch_embedding.weight":
                weights[name].zero_()[:, : tensor.shape[1]] = tensor
            else:
                weights[name].copy_(tensor)
    return sibling


def build_image_encoder(shape: CLIPShape) -> CLIP:
    """A CLIP vision tower as transformers begins them: small normal weights."""
    encoder = CLIP(CLIPConfig(**asdict(shape)))
    for name, parameter in encoder.named_parameters():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel() if "embedding" not in name else shape.width
            nn.init.normal_(parameter, std=fan_in**-0.5)
    return encoder


def build_text_encoder(shape: TextShape) -> t5.UMT5Encoder:
    """A UMT5 encoder as T5's are begun (transformers, `UMT5PreTrainedModel`), with unit-variance embeddings."""
    config = t5.UMT5Config(
        vocab=shape.vocab_size,
        dim=shape.dim,
        ffn=shape.ffn_dim,
        layers=shape.num_layers,
        heads=shape.num_heads,
        buckets=32,
        inner=shape.dim,
    )
    encoder = t5.build(config).requires_grad_()
    nn.init.normal_(encoder.token_embedding.weight)
    for block in encoder.blocks:
        assert isinstance(block, t5.Block)
        # there is no scale at the scores: it is in q
        width = shape.dim // shape.num_heads
        nn.init.normal_(block.attn.q.weight, std=(shape.dim * width) ** -0.5)
        nn.init.normal_(block.ffn.fc2.weight, std=shape.ffn_dim**-0.5)
        others = (block.attn.k, block.attn.v, block.attn.o, block.ffn.gate[0], block.ffn.fc1)
        for module in (*others, block.pos_embedding.embedding):
            nn.init.normal_(module.weight, std=shape.dim**-0.5)  # type: ignore[arg-type]
    return encoder


def encode_text(encoder: t5.UMT5Encoder, ids: Tensor, lengths: Tensor) -> Tensor:
    """Token ids [B, L] of `lengths` [B] real tokens -> context [B, L, dim], zero past the end."""
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    hidden: Tensor = encoder(ids, mask)
    return hidden * mask.unsqueeze(-1).to(hidden.dtype)


def build_vae(shape: VAEShape) -> WanVAE:
    """A VAE that starts as an image VAE repeated over time (see `inflate`)."""
    vae = WanVAE(WanVAEConfig(dim=shape.dim)).channels_last()
    inflate(vae)
    return vae


@torch.no_grad()
def inflate(vae: WanVAE) -> None:
    """Makes every temporal kernel look at the current frame only.

    Trained on single images, the VAE is then already a working, if stuttering, video VAE.
    """
    for name, module in vae.named_modules():
        if not isinstance(module, nn.Conv3d) or module.kernel_size[0] != 3:
            continue
        if name.endswith("time_conv"):
            channels = module.weight.shape[1]
            copies = module.weight.shape[0] // channels
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
            module.weight[:, :, 2, 0, 0] = torch.eye(channels).repeat(copies, 1)
        else:
            module.weight[:, :, :2] = 0
            module.weight[:, :, 2] *= math.sqrt(3.0)
