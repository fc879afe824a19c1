"""Pairs of models, ours and diffusers', with the same random weights; and the distance between results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.vae.wanvae import WanVAE, WanVAEConfig
from tests.oracles.later import diffusers
from tests.oracles.naming import dit_name, vae_name


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 distance, in float64."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm())


def randomise(module: nn.Module, seed: int) -> None:
    """Weights that no term of the model can hide behind: norms off 1, biases and modulation off 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm = "gamma" in name or ("norm" in name and name.endswith("weight"))
            noise = torch.randn(parameter.shape, generator=generator)
            if is_norm:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * noise)
            elif name.endswith(("modulation", "emb_pos")):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def dit_pair(config: WanDiTConfig, seed: int = 0) -> tuple[WanDiT, diffusers.WanTransformer3DModel]:
    ours = WanDiT(config).eval().requires_grad_(False)
    randomise(ours, seed)
    has_image = config.model_type != "t2v"
    theirs = diffusers.WanTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        cross_attn_norm=config.cross_attn_norm,
        eps=1e-6,  # the published one, whatever our config says
        image_dim=config.image_dim if has_image else None,
        added_kv_proj_dim=config.dim if has_image else None,
        pos_embed_seq_len=514 if config.model_type == "flf2v" else None,
    ).eval()
    theirs.load_state_dict({dit_name(n): t for n, t in ours.state_dict().items()}, strict=True)
    return ours, theirs


def vae_pair(config: WanVAEConfig, seed: int = 0) -> tuple[WanVAE, diffusers.AutoencoderKLWan]:
    ours = WanVAE(config).eval().requires_grad_(False)
    randomise(ours, seed)
    theirs = diffusers.AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    ).eval()
    theirs.load_state_dict({vae_name(n): t for n, t in ours.state_dict().items()}, strict=True)
    return ours.channels_last(), theirs


def latent_statistics(vae: diffusers.AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents as diffusers knows them, [1,16,1,1,1] each."""
    mean, std = (torch.tensor(v) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
