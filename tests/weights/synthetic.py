"""Published file sets as sparse files: true names, shapes and dtypes, gigabytes of holes that take no space.

Names and shapes are written down here from the published code, and for the layouts of diffusers and transformers
taken from their own modules, so that nothing is read from what the tests are about. A tensor table gives the dtype
as the format spells it, and the shape as torch has it.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gguf

Shapes = dict[str, tuple[int, ...]]
Table = dict[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape
Peer = tuple[Shapes, dict[str, Any]]  # and its config.json

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1, "I64": 8}
_STORAGES = {"F32": "Float", "F16": "Half", "BF16": "BFloat16"}


# ---------------------------------------------------------------------------------------------- formats


def num_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of one tensor; dtype may name a GGUF block type."""
    if dtype in _ITEM_BYTES:
        return math.prod(shape) * _ITEM_BYTES[dtype]
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
    return math.prod(shape) // weights * size


def write_safetensors(
    path: Path,
    tensors: Table,
    *,
    metadata: dict[str, str] | None = None,
    data: Mapping[str, bytes] = {},
) -> Path:
    """A safetensors file as its own package lays it out: widest dtype first, then by name. `data` gives the bytes
    of some tensors, all others are zeros that take no space."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    starts, end = {}, 0
    for name, (dtype, shape) in sorted(tensors.items(), key=_widest_first):
        starts[name] = end
        end += num_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (starts[name], end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, values in data.items():
            file.seek(8 + len(text) + starts[name])
            file.write(values)
        file.truncate(8 + len(text) + end)
    return path


def write_sharded(
    folder: Path,
    tensors: Table,
    *,
    num_shards: int = 0,
    shard_bytes: int = 10**10,
    stem: str = "diffusion_pytorch_model",
    data: Mapping[str, bytes] = {},
) -> Path:
    """Shards as Hugging Face's libraries cut them, each filled up to `shard_bytes` in the order of the table, or
    `num_shards` of them; the path of their index. Where one is enough, it has no number and there is no index."""
    sizes = {name: num_bytes(*tensor) for name, tensor in tensors.items()}
    if num_shards:
        shard_bytes = -(-sum(sizes.values()) // num_shards)
    shards: list[Table] = [{}]
    filled = 0
    for name, size in sizes.items():
        full = filled + size > shard_bytes and (not num_shards or len(shards) < num_shards)
        if shards[-1] and full:
            shards.append({})
            filled = 0
        shards[-1][name] = tensors[name]
        filled += size
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"{stem}{part}.safetensors"
        given = {name: data[name] for name in shard if name in data}
        write_safetensors(folder / file, shard, metadata={"format": "pt"}, data=given)
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) == 1:
        return folder / f"{stem}.safetensors"
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    path = folder / f"{stem}.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return path


def write_pth(path: Path, tensors: Table, *, data: Mapping[str, bytes] = {}) -> Path:
    """What torch.save makes of an ordered dict of tensors: a ZIP64 archive of stored members, every storage a hole
    unless `data` has its bytes. A hole's checksum is not computed; torch reads none."""
    members: dict[str, bytes | int] = {
        "data.pkl": _state_dict_pickle(tensors),
        "byteorder": b"little",
    }
    for key, (name, (dtype, shape)) in enumerate(tensors.items()):
        members[f"data/{key}"] = data.get(name, num_bytes(dtype, shape))
    members["version"] = b"3\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = b""
    with path.open("wb") as file:
        for member, content in members.items():
            name = f"{path.stem}/{member}".encode()
            size = content if isinstance(content, int) else len(content)
            crc = 0 if isinstance(content, int) else zlib.crc32(content)
            start = file.tell()
            sizes = struct.pack("<HHQQ", 1, 16, size, size)
            gap = -(start + 30 + len(name) + len(sizes) + 4) % 64  # torch aligns what it maps
            extra = sizes + struct.pack("<HH", 0x4246, gap) + b"Z" * gap
            common = struct.pack(
                "<HHHHHIIIHH", 45, 0, 0, 0, 0, crc, 2**32 - 1, 2**32 - 1, len(name), len(extra)
            )
            file.write(b"PK\3\4" + common + name + extra)
            if isinstance(content, bytes):
                file.write(content)
            file.seek(start + 30 + len(name) + len(extra) + size)
            place = struct.pack("<HHQQQ", 1, 24, size, size, start)
            common = common[:-2] + struct.pack("<HHHHII", len(place), 0, 0, 0, 0, 2**32 - 1)
            directory += b"PK\1\2" + struct.pack("<H", 45) + common + name + place
        start, count = file.tell(), len(members)
        file.write(directory)
        end = (44, 45, 45, 0, 0, count, count, len(directory), start)
        file.write(b"PK\6\6" + struct.pack("<QHHIIQQQQ", *end))
        file.write(b"PK\6\7" + struct.pack("<IQI", 0, start + len(directory), 1))
        file.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *[2**16 - 1] * 2, *[2**32 - 1] * 2, 0))
    return path


def write_gguf(
    path: Path,
    tensors: Table,
    *,
    architecture: str = "wan",
    metadata: Mapping[str, object] = {},
    vocabulary: int = 0,
    data: Mapping[str, bytes] = {},
) -> Path:
    """GGUF version 3. Values of `metadata`: text, bool, int, float, or a list of texts, ints or floats.
    vocabulary: pieces of a tokenizer to put in, as a UMT5 file has 256,384."""
    values = {"general.architecture": architecture, **metadata}
    if vocabulary:
        values |= {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [f"piece{number}" for number in range(vocabulary)],
            "tokenizer.ggml.scores": [float(-number) for number in range(vocabulary)],
            "tokenizer.ggml.token_type": [1] * vocabulary,
        }
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    head += b"".join(_gguf_text(key) + _gguf_typed(value) for key, value in values.items())
    starts, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        starts[name] = end
        kind = gguf.GGMLQuantizationType[dtype]
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += _gguf_text(name) + axes + struct.pack("<IQ", kind, end)
        end += -(-num_bytes(dtype, shape) // 32) * 32
    head += bytes(-len(head) % 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        for name, content in data.items():
            file.seek(len(head) + starts[name])
            file.write(content)
        file.truncate(len(head) + end)
    return path


def _widest_first(item: tuple[str, tuple[str, tuple[int, ...]]]) -> tuple[int, str]:
    name, (dtype, _) = item
    order = ("I64", "F32", "BF16", "F16", "F8_E4M3", "I8", "U8")
    return order.index(dtype), name


def _state_dict_pickle(tensors: Table) -> bytes:
    """The program of `data.pkl`: an ordered dict of calls that make tensors of storages, which are named."""

    def push(value: object) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    ordered = b"ccollections\nOrderedDict\n)R"
    code = b"\x80\2" + ordered + b"("
    for key, (name, (dtype, shape)) in enumerate(tensors.items()):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        storage = b"(" + push("storage") + f"ctorch\n{_STORAGES[dtype]}Storage\n".encode()
        storage += push(str(key)) + push("cpu") + push(math.prod(shape)) + b"tQ"
        call = b"(" + storage + push(0) + push(shape) + push(strides) + b"\x89" + ordered + b"tR"
        code += push(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + call
    return code + b"u."


def _gguf_text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _gguf_typed(value: object) -> bytes:
    """The number of the type, then the value."""
    kinds = gguf.GGUFValueType
    if isinstance(value, str):
        return struct.pack("<I", kinds.STRING) + _gguf_text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", kinds.BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", kinds.UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", kinds.FLOAT32, value)
    assert isinstance(value, list)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", kinds.ARRAY, kinds.STRING, len(value)) + b"".join(
            map(_gguf_text, value)
        )
    code, kind = ("i", kinds.INT32) if isinstance(value[0], int) else ("f", kinds.FLOAT32)
    return struct.pack(f"<IIQ{len(value)}{code}", kinds.ARRAY, kind, len(value), *value)


# ------------------------------------------------------------------------------------- published names


@dataclass(frozen=True)
class DiT:
    """A transformer's size. vace: the blocks that have a control block beside them."""

    dim: int = 5120
    ffn: int = 13824
    layers: int = 40
    kind: str = "t2v"
    in_dim: int = 16
    out_dim: int = 16
    image: bool = False
    emb_pos: bool = False
    vace: tuple[int, ...] = ()


DITS = {
    "wan2.1-t2v-1.3b": DiT(1536, 8960, 30),
    "wan2.1-t2v-14b": DiT(),
    "wan2.1-i2v-14b-480p": DiT(kind="i2v", in_dim=36, image=True),
    "wan2.1-i2v-14b-720p": DiT(kind="i2v", in_dim=36, image=True),
    "wan2.1-flf2v-14b": DiT(kind="flf2v", in_dim=36, image=True, emb_pos=True),
    "wan2.1-vace-1.3b": DiT(1536, 8960, 30, kind="vace", vace=tuple(range(0, 30, 2))),
    "wan2.1-vace-14b": DiT(kind="vace", vace=tuple(range(0, 40, 5))),
    "wan2.2-t2v-a14b": DiT(),
    "wan2.2-i2v-a14b": DiT(kind="i2v", in_dim=36),
    "wan2.2-ti2v-5b": DiT(3072, 14336, 30, kind="ti2v", in_dim=48, out_dim=48),
}

# Name and axes, as `_shapes` reads them: a star is a weight with its bias, braces are several names.
_DIT_TOP = """patch_embedding*=d,in,1,2,2 text_embedding.0*=d,4096 text_embedding.2*=d,d time_embedding.0*=d,256
    time_embedding.2*=d,d time_projection.1*=6d,d"""
_SELF = "modulation=1,6,d self_attn.{q,k,v,o}*=d,d self_attn.{norm_q,norm_k}.weight=d norm3*=d"
_CROSS = "cross_attn.{q,k,v,o}*=d,d cross_attn.{norm_q,norm_k}.weight=d"
_CROSS_IMAGE = "cross_attn.{k_img,v_img}*=d,d cross_attn.norm_k_img.weight=d"
_FFN = "ffn.0*=f,d ffn.2*=d,f"
_IMAGE = "img_emb.proj.0*=1280 img_emb.proj.1*=1280,1280 img_emb.proj.3*=d,1280 img_emb.proj.4*=d"
_UMT5_BLOCK = """norm1.weight=4096 attn.{q,k,v,o}.weight=4096,4096 norm2.weight=4096
    ffn.{gate.0,fc1}.weight=10240,4096 ffn.fc2.weight=4096,10240 pos_embedding.embedding.weight=32,64"""
_CLIP_TOP = """cls_embedding=1,1,1280 pos_embedding=1,257,1280 head=1280,1024 patch_embedding.weight=1280,3,14,14
    {pre_norm,post_norm}*=1280"""
_CLIP_BLOCK = """{norm1,norm2}*=1280 attn.to_qkv*=3840,1280 attn.proj*=1280,1280 mlp.0*=5120,1280
    mlp.2*=1280,5120"""
_TEXT_TOP = """token_embedding.weight=250002,1024 type_embedding.weight=1,1024 pos_embedding.weight=514,1024
    norm*=1024 head.{0,2}.weight=1024,1024"""
_TEXT_BLOCK = "attn.{q,k,v,o}*=1024,1024 {norm1,norm2}*=1024 ffn.0*=4096,1024 ffn.2*=1024,4096"
_RESIDUAL = (
    "residual.0.gamma=i,1,1,1 residual.2*=o,i,3,3,3 residual.3.gamma=o,1,1,1 residual.6*=o,o,3,3,3"
)
_ATTENTION = "norm.gamma=i,1,1 to_qkv*=3i,i,1,1 proj*=i,i,1,1"
_LLAMA = {
    "norm1": "attn_norm", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v", "attn.o": "attn_o",
    "pos_embedding.embedding": "attn_rel_b", "norm2": "ffn_norm", "ffn.gate.0": "ffn_gate",
    "ffn.fc1": "ffn_up", "ffn.fc2": "ffn_down",
}  # fmt: skip


def _shapes(text: str, prefix: str = "", **axes: int) -> Shapes:
    shapes: Shapes = {}
    for item in text.split():
        template, _, words = item.rpartition("=")
        shape = tuple(axes[word] if word in axes else int(word) for word in words.split(","))
        head, _, rest = template.partition("{")
        inner, _, tail = rest.partition("}")
        for choice in inner.split(","):
            name = prefix + head + choice + tail
            if name.endswith("*"):
                shapes |= {f"{name[:-1]}.weight": shape, f"{name[:-1]}.bias": shape[:1]}
            else:
                shapes[name] = shape
    return shapes


def dit(size: DiT) -> Shapes:
    """The published module's state dict, in its order, by which it was cut into shards."""
    axes = {
        "d": size.dim,
        "6d": 6 * size.dim,
        "f": size.ffn,
        "in": size.in_dim,
        "out": 4 * size.out_dim,
    }
    block = f"{_SELF} {_CROSS} {_CROSS_IMAGE if size.image else ''} {_FFN}"
    shapes = _shapes(_DIT_TOP, **axes)
    for number in range(size.layers):
        shapes |= _shapes(block, f"blocks.{number}.", **axes)
    shapes |= _shapes("head.modulation=1,2,d head.head*=out,d", **axes)
    if size.emb_pos:
        shapes["img_emb.emb_pos"] = (1, 514, 1280)
    if size.image:
        shapes |= _shapes(_IMAGE, **axes)
    for number in range(len(size.vace)):
        ends = "before_proj*=d,d after_proj*=d,d" if number == 0 else "after_proj*=d,d"
        shapes |= _shapes(f"{_SELF} {_CROSS} {_FFN} {ends}", f"vace_blocks.{number}.", **axes)
    return shapes | (_shapes("vace_patch_embedding*=d,96,1,2,2", **axes) if size.vace else {})


def umt5() -> Shapes:
    shapes: Shapes = {"token_embedding.weight": (256_384, 4096)}
    for number in range(24):
        shapes |= _shapes(_UMT5_BLOCK, f"blocks.{number}.")
    return shapes | {"norm.weight": (4096,)}


def umt5_llama() -> Shapes:
    """The same under llama.cpp's names."""
    names = {"token_embedding": "token_embd", "norm": "enc.output_norm"}
    for number in range(24):
        names |= {
            f"blocks.{number}.{n}": f"enc.blk.{number}.{theirs}" for n, theirs in _LLAMA.items()
        }
    return {f"{names[name[:-7]]}.weight": shape for name, shape in umt5().items()}


def vae() -> Shapes:
    """Wan 2.1's: flat lists of layers."""
    shapes: Shapes = {}
    for stage, (first, last) in enumerate(((96, 96), (96, 192), (192, 384), (384, 384))):
        at = [f"encoder.downsamples.{3 * stage + layer}." for layer in range(3)]
        shapes |= _residual(at[0], first, last) | _residual(at[1], last, last)
        if stage < 3:
            shapes |= _resample(at[2], last, last, last if stage else 0)
    for stage, (first, last) in enumerate(((384, 384), (192, 384), (192, 192), (96, 96))):
        at = [f"decoder.upsamples.{4 * stage + layer}." for layer in range(4)]
        shapes |= (
            _residual(at[0], first, last)
            | _residual(at[1], last, last)
            | _residual(at[2], last, last)
        )
        if stage < 3:
            shapes |= _resample(at[3], last, last // 2, 2 * last if stage < 2 else 0)
    return shapes | _vae_ends(channels=3, latents=16, encoder=(96, 384), decoder=(384, 96))


def vae22() -> Shapes:
    """Wan 2.2's: nested lists of layers."""
    shapes: Shapes = {}
    for stage, (first, last) in enumerate(((160, 160), (160, 320), (320, 640), (640, 640))):
        at = [f"encoder.downsamples.{stage}.downsamples.{layer}." for layer in range(3)]
        shapes |= _residual(at[0], first, last) | _residual(at[1], last, last)
        if stage < 3:
            shapes |= _resample(at[2], last, last, last if stage else 0)
    for stage, (first, last) in enumerate(((1024, 1024), (1024, 1024), (1024, 512), (512, 256))):
        at = [f"decoder.upsamples.{stage}.upsamples.{layer}." for layer in range(4)]
        shapes |= (
            _residual(at[0], first, last)
            | _residual(at[1], last, last)
            | _residual(at[2], last, last)
        )
        if stage < 3:
            shapes |= _resample(at[3], last, last, 2 * last if stage < 2 else 0)
    return shapes | _vae_ends(channels=12, latents=48, encoder=(160, 640), decoder=(1024, 256))


def clip_visual() -> Shapes:
    """The vision tower under its original names, without the prefix that the whole CLIP has."""
    shapes = _shapes(_CLIP_TOP)
    for number in range(32):
        shapes |= _shapes(_CLIP_BLOCK, f"transformer.{number}.")
    return shapes


def clip() -> Shapes:
    """The whole of it: the tower, XLM-RoBERTa-large as the text half, and the scale between them."""
    text = _shapes(_TEXT_TOP, "textual.")
    for number in range(24):
        text |= _shapes(_TEXT_BLOCK, f"textual.blocks.{number}.")
    return prefixed("visual.", clip_visual()) | text | {"log_scale": ()}


def _residual(at: str, first: int, last: int) -> Shapes:
    shapes = _shapes(_RESIDUAL, at, i=first, o=last)
    return shapes | (_shapes("shortcut*=o,i,1,1,1", at, i=first, o=last) if first != last else {})


def _resample(at: str, columns: int, rows: int, time_rows: int) -> Shapes:
    shapes = _shapes("resample.1*=o,i,3,3", at, i=columns, o=rows)
    return shapes | (
        _shapes("time_conv*=o,i,3,1,1", at, i=columns, o=time_rows) if time_rows else {}
    )


def _vae_ends(
    *, channels: int, latents: int, encoder: tuple[int, int], decoder: tuple[int, int]
) -> Shapes:
    """What lies around the stages. encoder, decoder: widths of the first and of the last convolution."""
    shapes = _shapes("conv1*=i,i,1,1,1", i=2 * latents) | _shapes("conv2*=i,i,1,1,1", i=latents)
    for half, (first, last), middle, ends in (
        ("encoder.", encoder, encoder[1], (channels, 2 * latents)),
        ("decoder.", decoder, decoder[0], (latents, channels)),
    ):
        shapes |= _shapes("conv1*=o,i,3,3,3", half, i=ends[0], o=first)
        shapes |= _residual(f"{half}middle.0.", middle, middle) | _residual(
            f"{half}middle.2.", middle, middle
        )
        shapes |= _shapes(_ATTENTION, f"{half}middle.1.", **{"i": middle, "3i": 3 * middle})
        shapes |= _shapes("head.0.gamma=i,1,1,1 head.2*=o,i,3,3,3", half, i=last, o=ends[1])
    return shapes


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def typed(shapes: Shapes, dtype: str) -> Table:
    return {name: (dtype, shape) for name, shape in shapes.items()}


@cache
def peer_module(kind: str, **sizes: object) -> Peer:
    """(names and shapes as `save_pretrained` writes them, config.json) of a module of diffusers or transformers,
    made on the meta device."""
    import diffusers
    import torch
    import transformers

    with torch.device("meta"):
        if hasattr(diffusers, kind):
            module = getattr(diffusers, kind)(**sizes)
            config = {key: value for key, value in module.config.items() if key[0] != "_"}
            config["_class_name"] = kind
        else:
            of_kind = getattr(transformers, kind)
            module = of_kind(of_kind.config_class(**sizes))
            config = {**module.config.to_diff_dict(), "architectures": [kind]}
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    tensors = module.state_dict().items()
    return {name: tuple(tensor.shape) for name, tensor in tensors if name not in tied}, config


def peer_umt5() -> Peer:
    return peer_module(
        "UMT5EncoderModel", vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64
    )  # fmt: skip


def peer_clip() -> Peer:
    """With its projection: under that module's names the published files are, also those without it."""
    return peer_module(
        "CLIPVisionModelWithProjection", hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
        num_attention_heads=16, patch_size=14, projection_dim=1024, hidden_act="gelu",
    )  # fmt: skip


def peer_dit(size: DiT) -> Peer:
    sizes: dict[str, object] = {
        "num_attention_heads": size.dim // 128, "in_channels": size.in_dim, "out_channels": size.out_dim,
        "ffn_dim": size.ffn, "num_layers": size.layers,
    }  # fmt: skip
    if size.image:
        sizes |= {"image_dim": 1280, "added_kv_proj_dim": size.dim}
    if size.emb_pos:
        sizes["pos_embed_seq_len"] = 514
    if size.vace:
        return peer_module(
            "WanVACETransformer3DModel", **sizes, vace_layers=size.vace, vace_in_channels=96
        )
    return peer_module("WanTransformer3DModel", **sizes)


def peer_vae(*, second: bool) -> Peer:
    if not second:
        return peer_module("AutoencoderKLWan")
    return peer_module(
        "AutoencoderKLWan", base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12,
        out_channels=12, patch_size=2, scale_factor_temporal=4, scale_factor_spatial=16,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- published sets

# The repositories of Wan-AI, by what they hold; diffusers' version of each has "-Diffusers" after its name.
REPOSITORIES = {
    "Wan2.1-T2V-1.3B": "wan2.1-t2v-1.3b", "Wan2.1-T2V-14B": "wan2.1-t2v-14b",
    "Wan2.1-I2V-14B-480P": "wan2.1-i2v-14b-480p", "Wan2.1-I2V-14B-720P": "wan2.1-i2v-14b-720p",
    "Wan2.1-FLF2V-14B-720P": "wan2.1-flf2v-14b", "Wan2.1-VACE-1.3B": "wan2.1-vace-1.3b",
    "Wan2.1-VACE-14B": "wan2.1-vace-14b", "Wan2.2-T2V-A14B": "wan2.2-t2v-a14b",
    "Wan2.2-I2V-A14B": "wan2.2-i2v-a14b", "Wan2.2-TI2V-5B": "wan2.2-ti2v-5b",
}  # fmt: skip
_UNIGRAM = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "Unigram", "unk_id": 2, "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]},
}  # fmt: skip


def repository(name: str, folder: Path) -> dict[str, Path]:
    """The files of a repository of Wan-AI in `folder / name`: the path of each component; those of a model of two
    experts are `denoiser` (high noise) and `denoiser_2`."""
    if name.endswith("-Diffusers"):
        return _diffusers_repository(name, folder / name)
    folder, variant = folder / name, REPOSITORIES[name]
    size, is_22 = DITS[variant], variant.startswith("wan2.2")
    places = {"denoiser": folder}
    if variant.endswith("a14b"):
        places = {"denoiser": folder / "high_noise_model", "denoiser_2": folder / "low_noise_model"}
    paths = {}
    for component, place in places.items():
        # what reproduces the published shards to the byte
        limit = 10**10 if is_22 else 9_900_000_000
        paths[component] = write_sharded(place, typed(dit(size), "F32"), shard_bytes=limit)
        config = {
            "_class_name": "VaceWanModel" if size.vace else "WanModel", "_diffusers_version": "0.30.0",
            "dim": size.dim, "eps": 1e-06, "ffn_dim": size.ffn, "freq_dim": 256, "in_dim": size.in_dim,
            "model_type": size.kind, "num_heads": size.dim // 128, "num_layers": size.layers,
            "out_dim": size.out_dim, "text_len": 512,
        }  # fmt: skip
        if size.vace:
            config |= {"vace_layers": size.vace, "vace_in_dim": 96}
        (place / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    encoder = folder / "models_t5_umt5-xxl-enc-bf16.pth"
    paths["text_encoder"] = write_pth(encoder, typed(umt5(), "BF16"))
    of_22 = variant == "wan2.2-ti2v-5b"
    decoder = folder / ("Wan2.2_VAE.pth" if of_22 else "Wan2.1_VAE.pth")
    paths["vae"] = write_pth(decoder, typed(vae22() if of_22 else vae(), "F32"))
    if size.image:
        tower = folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
        paths["image_encoder"] = write_pth(tower, typed(clip(), "F32"))
    return paths | {"tokenizer": _tokenizer(folder / "google" / "umt5-xxl")}


def _diffusers_repository(name: str, folder: Path) -> dict[str, Path]:
    variant = REPOSITORIES[name.removesuffix("-Diffusers")]
    size = DITS[variant]
    parts = {"transformer": (peer_dit(size), "denoiser", "diffusion_pytorch_model", 10**10)}
    if variant.endswith("a14b"):
        parts["transformer_2"] = (peer_dit(size), "denoiser_2", "diffusion_pytorch_model", 10**10)
    is_ti2v = variant == "wan2.2-ti2v-5b"
    parts["vae"] = (peer_vae(second=is_ti2v), "vae", "diffusion_pytorch_model", 10**10)
    parts["text_encoder"] = (peer_umt5(), "text_encoder", "model", 5 * 10**9)
    if size.image:
        shapes, config = peer_clip()
        shapes = {key: shape for key, shape in shapes.items() if key != "visual_projection.weight"}
        config = {**config, "architectures": ["CLIPVisionModel"]}
        parts["image_encoder"] = ((shapes, config), "image_encoder", "model", 5 * 10**9)
    task = "VACE" if size.vace else "ImageToVideo" if size.in_dim == 36 else ""
    index: dict[str, Any] = {"_class_name": f"Wan{task}Pipeline", "_diffusers_version": "0.35.0"}
    paths = {"tokenizer": _tokenizer(folder / "tokenizer")}
    for part, ((shapes, config), component, stem, limit) in parts.items():
        write_sharded(folder / part, typed(shapes, "F32"), shard_bytes=limit, stem=stem)
        (folder / part / "config.json").write_text(json.dumps(config, indent=2))
        kind = config.get("_class_name")
        index[part] = ["diffusers", kind] if kind else ["transformers", *config["architectures"]]
        paths[component] = folder / part
    if variant.endswith("a14b"):
        index["boundary_ratio"] = 0.9 if "i2v" in variant else 0.875
    if is_ti2v:
        index["expand_timesteps"] = True
    index["tokenizer"] = ["transformers", "T5TokenizerFast"]
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return paths


def _tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(_UNIGRAM))
    return folder / "tokenizer.json"


@dataclass(frozen=True)
class File:
    """A published single file: what it holds, which model that is, and its tensors."""

    component: str
    variant: str
    tensors: Callable[[], Table]
    metadata: dict[str, str] | None = None
    vocabulary: int = 0


def single_file(name: str, folder: Path) -> Path:
    """One of `FILES`, in `folder`; the name may have a folder in it."""
    file = FILES[name]
    if name.endswith(".gguf"):
        architecture = "wan" if file.component == "denoiser" else "t5encoder"
        return write_gguf(
            folder / name, file.tensors(), architecture=architecture,
            metadata={"general.quantization_version": 2}, vocabulary=file.vocabulary,
        )  # fmt: skip
    return write_safetensors(folder / name, file.tensors(), metadata=file.metadata)


def squeezed(
    shapes: Shapes,
    dtype: str,
    rest: str,
    *,
    scales: Sequence[str] = (),
    by_row: bool = False,
    marker: int | None = None,
    blocks_only: bool = False,
) -> Table:
    """The matrices of linear layers as `dtype`, each with its scales beside it; everything else as `rest`.
    marker: elements of `scaled_fp8`."""
    table: Table = {}
    for name, shape in shapes.items():
        is_matrix = (
            len(shape) == 2 and re.search(r"shared|embedding\.w|attention_bias", name) is None
        )
        if not is_matrix or (blocks_only and "blocks." not in name):
            table[name] = (rest, shape)
            continue
        table[name] = (dtype, shape)
        for scale in scales:
            table[name.removesuffix("weight") + scale] = ("F32", (shape[0], 1) if by_row else ())
    return table if marker is None else table | {"scaled_fp8": (dtype, (marker,))}


def _patch_in_fp32(shapes: Shapes) -> Table:
    return typed(shapes, "F16") | typed(
        {"patch_embedding.weight": shapes["patch_embedding.weight"]}, "F32"
    )


def _with_pieces(table: Table) -> Table:
    return {**table, "spiece_model": ("U8", (4_548_313,))}


def _clip_vision_h() -> Table:
    """With the buffer that older releases of transformers wrote, which the published size says is in it."""
    return {
        **typed(peer_clip()[0], "F16"),
        "vision_model.embeddings.position_ids": ("I64", (1, 257)),
    }


def _vace_module(variant: str) -> Table:
    shapes = dit(DITS[variant])
    return typed(
        {name: shape for name, shape in shapes.items() if name.startswith("vace_")}, "BF16"
    )


def _all_in_one() -> Table:
    """A ComfyUI checkpoint of everything, as its `CheckpointSave` names the parts."""
    whole = prefixed("model.diffusion_model.", dit(DITS["wan2.1-t2v-1.3b"])) | prefixed(
        "vae.", vae()
    )
    return typed(whole | prefixed("text_encoders.umt5xxl.transformer.", peer_umt5()[0]), "F16")


def _q4_k_m(shapes: Shapes) -> Table:
    """A mix of blocks; what is small, has not two axes, or is not in a block of the model is not quantised."""
    table = {}
    for name, shape in shapes.items():
        if len(shape) != 2 or not name.startswith("blocks."):
            dtype = "F32" if len(shape) == 1 else "F16"
        elif name.endswith(("_attn.v.weight", "ffn.2.weight")):
            dtype = "Q6_K" if int(name.split(".")[1]) % 2 else "Q5_K"
        else:
            dtype = "Q4_K"
        table[name] = (dtype, shape)
    return table


def _q8_0(shapes: Shapes) -> Table:
    kept = re.compile("norm|rel_b")
    return {name: ("F32" if kept.search(name) else "Q8_0", shape) for name, shape in shapes.items()}


# By family: how the name of a module is written, and the endings of the tensors that each has.
LORAS = {
    "original": "diffusion_model.{name} down=.lora_A.weight up=.lora_B.weight",
    "lightx2v": "diffusion_model.{name} down=.lora_down.weight up=.lora_up.weight alpha=.alpha bias=.diff_b",
    "kohya": "lora_unet_{under} down=.lora_down.weight up=.lora_up.weight alpha=.alpha",
    "wan-fun": "lora_unet__{under} down=.lora_down.weight up=.lora_up.weight alpha=.alpha",
    "diffusers": "transformer.{theirs} down=.lora_A.weight up=.lora_B.weight",
    "diffusers-second": "transformer_2.{theirs} down=.lora_A.weight up=.lora_B.weight",
    "peft": "base_model.model.{name} down=.lora_A.weight up=.lora_B.weight",
    "diffsynth": "pipe.dit.{name} down=.lora_A.default.weight up=.lora_B.default.weight",
    "unianimate": "{name} down=.lora_A.default.weight up=.lora_B.default.weight",
    "lycoris": "lycoris_{mixed} down=.lora_down.weight up=.lora_up.weight alpha=.alpha",
    "differences": "diffusion_model.{name} full=.diff bias=.diff_b",
    "dotted": "diffusion_model.{name} down=.lora.down.weight up=.lora.up.weight",
    "underscored": "diffusion_model.{name} down=_lora.down.weight up=_lora.up.weight",
    "linear-layer": "diffusion_model.{name} down=.lora_linear_layer.down.weight up=.lora_linear_layer.up.weight",
    "bare": "{name} down=.lora_A up=.lora_B",
    "loha": "diffusion_model.{name} up=.hada_w1_a down=.hada_w1_b up=.hada_w2_a down=.hada_w2_b alpha=.alpha",
    "lokr": "diffusion_model.{name} one=.lokr_w1 full=.lokr_w2 alpha=.alpha",
    "dora": "diffusion_model.{name} down=.lora_down.weight up=.lora_up.weight alpha=.alpha rows=.dora_scale",
}


def lora(family: str, *, rank: int = 4) -> Table:
    """Every linear layer of the blocks of the 1.3B model."""
    template, *tensors = LORAS[family].split()
    table: Table = {}
    for weight, shape in dit(DITS["wan2.1-t2v-1.3b"]).items():
        if len(shape) != 2 or not weight.startswith("blocks."):
            continue
        name, (rows, columns) = weight.removesuffix(".weight"), shape
        mixed = name.replace("ffn.0", "ffn.net.0.proj").replace("ffn.2", "ffn.net.2")
        theirs = re.sub(r"_attn\.([qkv])$", r"_attn.to_\1", mixed)
        theirs = re.sub(r"_attn\.o$", "_attn.to_out.0", theirs)
        theirs = theirs.replace("self_attn", "attn1").replace("cross_attn", "attn2")
        under, mixed = name.replace(".", "_"), mixed.replace(".", "_")
        module = template.format(name=name, under=under, theirs=theirs, mixed=mixed)
        kinds: Shapes = {
            "down": (rank, columns), "up": (rows, rank), "alpha": (), "full": shape, "bias": (rows,),
            "rows": (rows, 1), "one": (1, 1),
        }  # fmt: skip
        for kind, _, ending in (tensor.partition("=") for tensor in tensors):
            table[module + ending] = ("F16", kinds[kind])
    return table


def _dit_file(variant: str, dtype: str = "", prefix: str = "", **how: Any) -> File:
    """dtype: of the whole; without one, fp16 with the patch embedding in fp32. how: as `squeezed` takes it."""
    shapes = prefixed(prefix, dit(DITS[variant]))
    if how:
        return File("denoiser", variant, lambda: squeezed(shapes, dtype, **how))
    return File(
        "denoiser", variant, lambda: typed(shapes, dtype) if dtype else _patch_in_fp32(shapes)
    )


def _umt5_file(make: Callable[[], Table], vocabulary: int = 0) -> File:
    return File("text_encoder", "umt5-xxl", make, vocabulary=vocabulary)


def _vae_file(
    shapes: Shapes, dtype: str, *, variant: str = "wan2.1-vae", is_pt: bool = False
) -> File:
    return File("vae", variant, lambda: typed(shapes, dtype), {"format": "pt"} if is_pt else None)


def _module_file(variant: str) -> File:
    return File("denoiser", "wan2.1-vace (module)", lambda: _vace_module(variant))


_T2V, _I2V, _A14B = "wan2.1-t2v-14b", "wan2.1-i2v-14b-480p", "wan2.2-i2v-a14b"
_SMALL, _CLIP, _F8 = "wan2.1-t2v-1.3b", "clip-vit-h-14", "F8_E4M3"
_SCALE = ("scale_weight",)
_ALL = {"rest": "F16", "marker": 0}
_BLOCKS = {"rest": "BF16", "blocks_only": True}
_ROWS = {**_BLOCKS, "scales": ("weight_scale",), "by_row": True}

# fmt: off
FILES: dict[str, File] = {
    # Comfy-Org
    "wan2.1_t2v_1.3B_fp16.safetensors": _dit_file(_SMALL),
    "wan2.1_t2v_14B_bf16.safetensors": _dit_file(_T2V, "BF16"),
    "wan2.1_t2v_14B_fp8_scaled.safetensors": _dit_file(_T2V, _F8, **_ALL, scales=_SCALE),
    "wan2.1_i2v_480p_14B_fp16.safetensors": _dit_file(_I2V),
    "wan2.1_i2v_720p_14B_bf16.safetensors": _dit_file("wan2.1-i2v-14b-720p", "BF16"),
    "wan2.1_flf2v_720p_14B_fp16.safetensors": _dit_file("wan2.1-flf2v-14b"),
    "wan2.1_vace_1.3B_fp16.safetensors": _dit_file("wan2.1-vace-1.3b", "F16"),
    "wan2.1_vace_14B_fp16.safetensors": _dit_file("wan2.1-vace-14b", "F16"),
    "wan2.2_t2v_low_noise_14B_fp16.safetensors": _dit_file("wan2.2-t2v-a14b", "F16"),
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors":
        _dit_file(_A14B, _F8, **_ALL, scales=(*_SCALE, "scale_input")),
    "wan2.2_ti2v_5B_fp16.safetensors": _dit_file("wan2.2-ti2v-5b", "F16"),
    "umt5_xxl_fp16.safetensors": _umt5_file(lambda: _with_pieces(typed(peer_umt5()[0], "F16"))),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors":
        _umt5_file(lambda: _with_pieces(squeezed(peer_umt5()[0], _F8, **_ALL, scales=_SCALE))),
    "wan_2.1_vae.safetensors": _vae_file(vae(), "BF16"),
    "wan2.2_vae.safetensors": _vae_file(vae22(), "F16", variant="wan2.2-vae"),
    "clip_vision_h.safetensors": File("image_encoder", _CLIP, _clip_vision_h),
    "checkpoints/wan2.1_t2v_1.3B.safetensors": _dit_file(_SMALL, "F16", "model.diffusion_model."),
    "checkpoints/wan2.1_t2v_1.3B_all_in_one.safetensors": File("unknown", "", _all_in_one),  # several are none
    # Kijai
    "Wan2_1-T2V-14B_fp8_e4m3fn.safetensors": _dit_file(_T2V, _F8, **_BLOCKS),
    "Wan2_1-T2V-1_3B_fp32.safetensors": _dit_file(_SMALL, "F32"),
    "Wan2_2-I2V-A14B-HIGH_fp8_e4m3fn_scaled_KJ.safetensors":
        _dit_file(_A14B, _F8, **_BLOCKS, scales=_SCALE, marker=0),
    "Wan2_1-VACE_module_1_3B_bf16.safetensors": _module_file("wan2.1-vace-1.3b"),
    "Wan2_1-VACE_module_14B_bf16.safetensors": _module_file("wan2.1-vace-14b"),
    "Wan2_1_VAE_bf16.safetensors": _vae_file(vae(), "BF16", is_pt=True),
    "Wan2_1_VAE_fp32.safetensors": _vae_file(prefixed("model.", vae()), "F32"),
    "umt5-xxl-enc-bf16.safetensors": _umt5_file(lambda: typed(umt5(), "BF16")),
    "umt5-xxl-enc-fp8_e4m3fn.safetensors": _umt5_file(lambda: squeezed(umt5(), _F8, "BF16")),
    "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors":
        File("image_encoder", _CLIP, lambda: typed(prefixed("visual.", clip_visual()), "F16")),
    # LightX2V
    "wan2.1_t2v_14b_int8_lightx2v_4step.safetensors": _dit_file(_T2V, "I8", **_ROWS),
    "wan2.1_i2v_480p_scaled_fp8_e4m3_lightx2v_4step.safetensors": _dit_file(_I2V, _F8, **_ROWS),
    "wan2.1_t2v_14b_scaled_fp8_e4m3_lightx2v_4step_comfyui.safetensors":
        _dit_file(_T2V, _F8, **_BLOCKS, scales=_SCALE, marker=2),
    # city96
    "wan2.1-t2v-14b-Q4_K_M.gguf": File("denoiser", _T2V, lambda: _q4_k_m(dit(DITS[_T2V]))),
    "umt5-xxl-encoder-Q8_0.gguf": _umt5_file(lambda: _q8_0(umt5_llama()), vocabulary=256_384),
    # trainers
    **{f"loras/{family}.safetensors": File("lora", "", partial(lora, family)) for family in LORAS},
}
# fmt: on
