"""The configuration files that other programs expect beside weights, and the shapes they expect."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from engine.checkpoints.known import expected
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.layout import Layout
from engine.checkpoints.source import Source
from engine.models.diffusion.config import WanDiTConfig
from engine.models.vae.wanvae import WanVAEConfig

# Hugging Face's CLIP keeps without leading axes what the original has with them.
_SQUEEZED = ("visual.cls_embedding", "visual.pos_embedding")


def shape_in(naming: str, original: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an original tensor in another naming."""
    is_squeezed = naming == "huggingface" and original in _SQUEEZED
    if original in _SQUEEZED:
        bare = tuple(length for length in shape if length != 1)
        return bare if is_squeezed else (1,) * (3 - len(bare)) + bare
    return shape


def configuration(layout: str, source: Source, held: Layout) -> dict[str, Any]:
    """The `config.json` of a component in a layout: original for a DiT by itself, else diffusers' or
    transformers'. Raises CheckpointError as `dit_config` does."""
    shapes = {name: entry.shape for name, entry in held.entries.items()}
    if held.component == "denoiser":
        config = dit_config(source, held)
        return _diffusers_dit(config) if layout == "diffusers" else _original_dit(config)
    if held.component == "vae":
        return _diffusers_vae(WanVAEConfig(dim=expected.vae_dim(shapes)))
    if held.component == "text_encoder":
        return _transformers_umt5(expected.umt5_shape(shapes))
    return _transformers_clip(expected.clip_shape(shapes))


def _original_dit(config: WanDiTConfig) -> dict[str, Any]:
    return {"_class_name": "WanModel"} | asdict(config)


def _diffusers_dit(config: WanDiTConfig) -> dict[str, Any]:
    has_image = config.model_type != "t2v"
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": list(config.patch_size),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_dim,
        "out_channels": config.out_dim,
        "text_dim": config.text_dim,
        "freq_dim": config.freq_dim,
        "ffn_dim": config.ffn_dim,
        "num_layers": config.num_layers,
        "cross_attn_norm": config.cross_attn_norm,
        "qk_norm": "rms_norm_across_heads",
        "eps": config.eps,
        "image_dim": config.image_dim if has_image else None,
        "added_kv_proj_dim": config.dim if has_image else None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": 514 if config.model_type == "flf2v" else None,
    }


def _diffusers_vae(config: WanVAEConfig) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": config.dim,
        "z_dim": config.z_dim,
        "dim_mult": list(config.dim_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.temporal_downsample),  # spelt so by diffusers
        "dropout": 0.0,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
    }


def _transformers_umt5(shape: expected.UMT5Shape) -> dict[str, Any]:
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "vocab_size": shape.vocab,
        "d_model": shape.dim,
        "d_kv": shape.inner // shape.heads,
        "d_ff": shape.ffn,
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "relative_attention_num_buckets": shape.buckets,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def _transformers_clip(shape: expected.CLIPShape) -> dict[str, Any]:
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // 80,
        "image_size": math.isqrt(shape.tokens - 1) * shape.patch,
        "patch_size": shape.patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
