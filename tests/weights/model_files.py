"""Model files with the published names, shapes and dtypes, written sparse: gigabytes that take no space.

A test may take tensors out, or write them as another dtype; what it writes has zeros for numbers.
"""

from __future__ import annotations

import json
import math
import struct
from functools import cache
from pathlib import Path

from engine.checkpoints.formats.table import ITEM_BITS
from engine.checkpoints.known import expected

Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape


def t2v_1_3b(dtype: str = "BF16") -> Tensors:
    return _dit(1536, 8960, 30, dtype)


def t2v_14b(dtype: str = "F32") -> Tensors:
    return _dit(5120, 13824, 40, dtype)


def t2v_narrower(dtype: str = "BF16") -> Tensors:
    """As deep as the 14B, as wide as the 5B: 10 GB, a quarter of one in each block."""
    return _dit(3072, 8192, 40, dtype)


def vae(dtype: str = "F32") -> Tensors:
    return {name: (dtype, shape) for name, shape in _vae_shapes()}


def taehv(dtype: str = "F16") -> Tensors:
    """The smallest that has a name: 22 MB."""
    return {name: (dtype, shape) for name, shape in expected.taehv().items()}


def in_nvfp4(tensors: Tensors) -> tuple[Tensors, dict[str, str]]:
    """ComfyUI's: the matrices of the blocks in 4 bits, and the metadata that says so."""
    packed: Tensors = {}
    layers = {}
    for name, (dtype, shape) in tensors.items():
        if "blocks." not in name or len(shape) != 2:
            packed[name] = dtype, shape
            continue
        rows, columns = shape
        layer = name.removesuffix(".weight")
        layers[layer] = {"format": "nvfp4"}
        packed[name] = "U8", (rows, columns // 2)
        tiles = -(-rows // 128) * 128, -(-columns // 64) * 4
        packed |= {f"{name}_scale": ("F8_E4M3", tiles), f"{name}_scale_2": ("F32", ())}
    return packed, {"_quantization_metadata": json.dumps({"layers": layers})}


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # so that all numbers are aligned as torch's are
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def write_sharded(folder: Path, tensors: Tensors, *, num_shards: int) -> Path:
    """The shards, the index, which is returned, and an original `config.json`."""
    stem, names = "diffusion_pytorch_model", list(tensors)
    files = [
        f"{stem}-{number:05}-of-{num_shards:05}.safetensors" for number in range(1, num_shards + 1)
    ]
    weight_map = {}
    for number, file in enumerate(files):
        shard = names[number::num_shards]
        write_safetensors(folder / file, {name: tensors[name] for name in shard})
        weight_map |= dict.fromkeys(shard, file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"model_type": "t2v", "dim": 5120}))
    return index


def write_umt5_vocabulary(path: Path) -> Path:
    """A GGUF file with as many tokens and scores as the UMT5 encoder's, and one tensor of two numbers."""

    def text(content: bytes) -> bytes:
        return struct.pack("<Q", len(content)) + content

    tokens = b"".join(text(b"x" * (n % 12)) for n in range(256_384))
    keys = [
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 256_384) + tokens,
        text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 256_384) + bytes(4 * 256_384),
        text(b"general.name") + struct.pack("<I", 8) + text(b"umt5-xxl"),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys)
    head += text(b"w") + struct.pack("<IQIQ", 1, 2, 0, 0)
    path.write_bytes(head + bytes(-len(head) % 32 + 8))
    return path


def _dit(d: int, f: int, num_layers: int, dtype: str) -> Tensors:
    """wan/modules/model.py of the published code, as its state dict has it."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (d, 16, 1, 2, 2), "patch_embedding.bias": (d,),
        "text_embedding.0.weight": (d, 4096), "text_embedding.0.bias": (d,),
        "text_embedding.2.weight": (d, d), "text_embedding.2.bias": (d,),
        "time_embedding.0.weight": (d, 256), "time_embedding.0.bias": (d,),
        "time_embedding.2.weight": (d, d), "time_embedding.2.bias": (d,),
        "time_projection.1.weight": (6 * d, d), "time_projection.1.bias": (6 * d,),
        "head.modulation": (1, 2, d), "head.head.weight": (64, d), "head.head.bias": (64,),
    }  # fmt: skip
    for i in range(num_layers):
        block = f"blocks.{i}"
        shapes[f"{block}.modulation"] = (1, 6, d)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                shapes[f"{block}.{attention}.{part}.weight"] = (d, d)
                shapes[f"{block}.{attention}.{part}.bias"] = (d,)
            shapes |= {f"{block}.{attention}.norm_{part}.weight": (d,) for part in "qk"}
        shapes |= {f"{block}.norm3.weight": (d,), f"{block}.norm3.bias": (d,)}
        shapes |= {f"{block}.ffn.0.weight": (f, d), f"{block}.ffn.0.bias": (f,)}
        shapes |= {f"{block}.ffn.2.weight": (d, f), f"{block}.ffn.2.bias": (d,)}
    return {name: (dtype, shape) for name, shape in shapes.items()}


@cache
def _vae_shapes() -> tuple[tuple[str, tuple[int, ...]], ...]:
    import torch

    from engine.models.vae.wanvae import WanVAE, WanVAEConfig

    with torch.device("meta"):
        model = WanVAE(WanVAEConfig())
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())
