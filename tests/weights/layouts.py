"""The micro model in every published layout, written by other programs' own tools, never by our converter.

Each function fills a folder and gives the path of each component that the layout has. Numbers are those of the
shipped bf16 weights, some stored wider; nothing is lost.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tests.oracles.later import transformers
from tests.oracles.loaded import load
from tests.oracles.peers import Peer, make_peer

MICRO = Path(__file__).parents[2] / "engine" / "micro" / "weights"
Tensors = dict[str, torch.Tensor]

# the names of llama.cpp's encoders, and what they stand for in the original
_LLAMA_BLOCK = {
    "attn_norm": "norm1", "attn_q": "attn.q", "attn_k": "attn.k", "attn_v": "attn.v", "attn_o": "attn.o",
    "attn_rel_b": "pos_embedding.embedding", "ffn_norm": "norm2", "ffn_gate": "ffn.gate.0", "ffn_up": "ffn.fc1",
    "ffn_down": "ffn.fc2",
}  # fmt: skip


@cache
def peer() -> Peer:
    return make_peer(load("micro"))


def weights(name: str) -> Tensors:
    return load_file(MICRO / f"{name}.safetensors")


def diffusers_folder(folder: Path) -> dict[str, Path]:
    """`save_pretrained` of diffusers and transformers, the transformer in shards."""
    models = peer()
    models.transformer.to(torch.bfloat16).save_pretrained(
        folder / "transformer", max_shard_size="1MB"
    )
    models.vae.to(torch.bfloat16).save_pretrained(folder / "vae")
    models.text_encoder.to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    _tokenizer(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1
    return {
        "denoiser": folder / "transformer",
        "vae": folder / "vae",
        "text_encoder": folder / "text_encoder",
        "tokenizer": folder / "tokenizer",
    }


def huggingface_umt5_folder(folder: Path) -> dict[str, Path]:
    """The encoder alone, in shards and in fp32, with its tokenizer beside it."""
    peer().text_encoder.float().save_pretrained(folder, max_shard_size="400KB")
    return {"text_encoder": folder, "tokenizer": _tokenizer(folder)}


def original_folder(folder: Path) -> dict[str, Path]:
    """As Wan-AI publishes: safetensors and config.json for the transformer in fp32, `.pth` for the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    dit = {name: tensor.float() for name, tensor in weights("dit").items()}
    save_file(dit, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    shutil.copy(MICRO / "config.json", folder)
    torch.save(weights("text_encoder"), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save({name: t.float() for name, t in weights("vae").items()}, folder / "Wan2.1_VAE.pth")
    return {
        "denoiser": folder / "diffusion_pytorch_model.safetensors",
        "text_encoder": folder / "models_t5_umt5-xxl-enc-bf16.pth",
        "vae": folder / "Wan2.1_VAE.pth",
        "tokenizer": _tokenizer(folder / "google" / "umt5-xxl"),
    }


def comfyui_folder(folder: Path) -> dict[str, Path]:
    """Single files: a prefix before the transformer's names, its patch embedding in fp32; the encoder under Hugging
    Face's names with the tokenizer's bytes in it. The micro widths are unpublished, so config.json is needed."""
    folder.mkdir(parents=True, exist_ok=True)
    dit = {f"model.diffusion_model.{name}": tensor for name, tensor in weights("dit").items()}
    patch = "model.diffusion_model.patch_embedding.weight"
    save_file(dit | {patch: dit[patch].float()}, folder / "wan2.1_t2v_fp16.safetensors")
    shutil.copy(MICRO / "config.json", folder)
    encoder = {
        name: tensor.to(torch.bfloat16).clone()
        for name, tensor in peer().text_encoder.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    spiece = torch.frombuffer(bytearray(b"pieces"), dtype=torch.uint8)
    save_file(encoder | {"spiece_model": spiece}, folder / "umt5_xxl_fp16.safetensors")
    save_file(weights("vae"), folder / "wan_2.1_vae.safetensors")
    return {
        "denoiser": folder / "wan2.1_t2v_fp16.safetensors",
        "text_encoder": folder / "umt5_xxl_fp16.safetensors",
        "vae": folder / "wan_2.1_vae.safetensors",
    }


def kijai_folder(folder: Path) -> dict[str, Path]:
    """Original names in safetensors; the VAE's with a prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights("text_encoder"), folder / "umt5-xxl-enc-bf16.safetensors")
    vae = {f"model.{name}": tensor for name, tensor in weights("vae").items()}
    save_file(vae, folder / "Wan2_1_VAE_bf16.safetensors")
    return {
        "text_encoder": folder / "umt5-xxl-enc-bf16.safetensors",
        "vae": folder / "Wan2_1_VAE_bf16.safetensors",
    }


def tiny_clip_folder(folder: Path) -> dict[str, Path]:
    """A vision tower of two layers with random numbers, saved by transformers; the micro model has none."""
    config = transformers.CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    transformers.CLIPVisionModel(config).to(torch.bfloat16).save_pretrained(folder)
    return {"image_encoder": folder}


def gguf_folder(folder: Path) -> dict[str, Path]:
    """The gguf package's own writer: the transformer in BF16 and F32, the encoder under llama.cpp's names."""
    folder.mkdir(parents=True, exist_ok=True)
    dit = folder / "wan2.1-t2v-BF16.gguf"
    _write_gguf(dit, "wan", weights("dit"), config=(MICRO / "config.json").read_text())
    names = {"token_embedding.weight": "token_embd.weight", "norm.weight": "enc.output_norm.weight"}
    original = weights("text_encoder")
    for number in range(2):
        for theirs, ours in _LLAMA_BLOCK.items():
            names[f"blocks.{number}.{ours}.weight"] = f"enc.blk.{number}.{theirs}.weight"
    assert names.keys() == original.keys()
    encoder = folder / "umt5-xxl-encoder-F32.gguf"
    _write_gguf(encoder, "t5encoder", {names[name]: t.float() for name, t in original.items()})
    return {"denoiser": dit, "text_encoder": encoder}


def _write_gguf(path: Path, architecture: str, tensors: Tensors, *, config: str = "") -> None:
    writer = gguf.GGUFWriter(path, architecture)
    if config:
        writer.add_string("config", config)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 or tensor.dtype == torch.float32:
            writer.add_tensor(name, tensor.float().numpy())
        else:
            bits = tensor.view(torch.int16).numpy().view(np.uint8)
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(MICRO / "tokenizer.json", folder))
