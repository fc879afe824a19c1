"""Names and shapes of every component under the published original names, by its sizes. Torch-free.

What a file should hold follows from a few numbers, and those are read off the file itself: `dit_shape` and its
siblings go from tensors to sizes, `dit` and its siblings back. Sources: Wan 2.1 (`wan/modules/model.py`, `vae.py`,
`t5.py`, `clip.py`), Wan 2.1 VACE (`vace_model.py`), Wan 2.2 (`vae2_2.py`), TAEHV (`taehv.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

Shape = tuple[int, ...]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTShape:
    """Sizes of a diffusion transformer: those of `WanDiTConfig` that its tensors tell, under the same names, and what
    else they tell. image_branch: CLIP tokens enter its cross-attention; emb_pos: two images. vace_layers: how many
    blocks the VACE branch has."""

    dim: int
    ffn_dim: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    image_branch: bool = False
    image_dim: int = 1280
    emb_pos: bool = False
    vace_layers: int = 0
    vace_in_dim: int = 96

    @property
    def model_type(self) -> str:
        return "flf2v" if self.emb_pos else "i2v" if self.image_branch else "t2v"


@dataclass(frozen=True, slots=True, kw_only=True)
class UMT5Shape:
    """Sizes of the text encoder; inner: of all attention heads together. The defaults are UMT5-XXL."""

    vocab: int = 256384
    dim: int = 4096
    ffn: int = 10240
    layers: int = 24
    heads: int = 64
    buckets: int = 32
    inner: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CLIPShape:
    """Sizes of the vision tower of CLIP; tokens: patches and the class token. The defaults are ViT-H/14."""

    width: int = 1280
    layers: int = 32
    mlp: int = 5120
    patch: int = 14
    tokens: int = 257


_1_3B = DiTShape(dim=1536, ffn_dim=8960, num_layers=30)
_14B = DiTShape(dim=5120, ffn_dim=13824, num_layers=40)

# In the order of preference where two have one shape: the 2.2 experts are the 2.1 model's twins.
PUBLISHED: dict[str, DiTShape] = {
    "wan2.1-t2v-1.3b": _1_3B,
    "wan2.1-t2v-14b": _14B,
    "wan2.1-i2v-14b": replace(_14B, in_dim=36, image_branch=True),
    "wan2.1-flf2v-14b": replace(_14B, in_dim=36, image_branch=True, emb_pos=True),
    "wan2.1-vace-1.3b": replace(_1_3B, vace_layers=15),
    "wan2.1-vace-14b": replace(_14B, vace_layers=8),
    "wan2.2-t2v-a14b": _14B,
    "wan2.2-i2v-a14b": replace(_14B, in_dim=36),
    "wan2.2-ti2v-5b": DiTShape(dim=3072, ffn_dim=14336, num_layers=30, in_dim=48, out_dim=48),
}


@lru_cache(maxsize=16)
def dit(shape: DiTShape) -> Mapping[str, Shape]:
    """Names and shapes of a diffusion transformer: 15 + 27 a block, more with an image branch or VACE."""
    d = shape.dim
    wanted = _linear("text_embedding.0", shape.text_dim, d) | _linear("text_embedding.2", d, d)
    wanted |= _linear("time_embedding.0", shape.freq_dim, d) | _linear("time_embedding.2", d, d)
    wanted |= _linear("time_projection.1", d, 6 * d)
    wanted |= {
        "patch_embedding.weight": (d, shape.in_dim, *shape.patch_size),
        "patch_embedding.bias": (d,),
    }
    patch = shape.patch_size[0] * shape.patch_size[1] * shape.patch_size[2]
    wanted |= _linear("head.head", d, patch * shape.out_dim) | {"head.modulation": (1, 2, d)}
    if shape.image_branch:
        c = shape.image_dim
        wanted |= _norm("img_emb.proj.0", c) | _linear("img_emb.proj.1", c, c)
        wanted |= _linear("img_emb.proj.3", c, d) | _norm("img_emb.proj.4", d)
    if shape.emb_pos:
        wanted["img_emb.emb_pos"] = (1, 514, shape.image_dim)
    for i in range(shape.num_layers):
        wanted |= _dit_block(f"blocks.{i}", shape)
    if shape.vace_layers:
        name = "vace_patch_embedding"
        wanted |= {
            f"{name}.weight": (d, shape.vace_in_dim, *shape.patch_size),
            f"{name}.bias": (d,),
        }
        wanted |= _linear("vace_blocks.0.before_proj", d, d)
    for i in range(shape.vace_layers):
        wanted |= _dit_block(f"vace_blocks.{i}", shape) | _linear(
            f"vace_blocks.{i}.after_proj", d, d
        )
    return wanted


def dit_shape(shapes: Shapes) -> DiTShape:
    """The sizes of a diffusion transformer. Raises ValueError naming the tensor that should tell one."""
    dim, in_dim, *patch = _of(shapes, "patch_embedding.weight", 5, "a Wan DiT")
    (head, _) = _of(shapes, "head.head.weight", 2, "a Wan DiT")
    image, vace = "img_emb.proj.1.weight", "vace_patch_embedding.weight"
    per_patch = patch[0] * patch[1] * patch[2]
    if head % per_patch:
        raise ValueError(
            f"not a Wan DiT: head.head.weight has {head} rows, which the patches {patch} of "
            "patch_embedding.weight do not divide"
        )
    return DiTShape(
        dim=dim,
        ffn_dim=_of(shapes, "blocks.0.ffn.0.weight", 2, "a Wan DiT")[0],
        num_layers=_count(shapes, "blocks"),
        in_dim=in_dim,
        out_dim=head // per_patch,
        text_dim=_of(shapes, "text_embedding.0.weight", 2, "a Wan DiT")[1],
        freq_dim=_of(shapes, "time_embedding.0.weight", 2, "a Wan DiT")[1],
        patch_size=(patch[0], patch[1], patch[2]),
        image_branch=any(name.startswith("img_emb.") for name in shapes),
        image_dim=_of(shapes, image, 2, "a Wan DiT")[0] if image in shapes else 1280,
        emb_pos="img_emb.emb_pos" in shapes,
        vace_layers=_count(shapes, "vace_blocks"),
        vace_in_dim=_of(shapes, vace, 5, "a Wan DiT")[1] if vace in shapes else 96,
    )


def umt5(shape: UMT5Shape) -> dict[str, Shape]:
    """Names and shapes of the text encoder: 10 a layer and two; no biases anywhere."""
    wanted: dict[str, Shape] = {
        "token_embedding.weight": (shape.vocab, shape.dim),
        "norm.weight": (shape.dim,),
    }
    for i in range(shape.layers):
        block = f"blocks.{i}"
        wanted |= {f"{block}.norm1.weight": (shape.dim,), f"{block}.norm2.weight": (shape.dim,)}
        wanted |= {f"{block}.attn.{name}.weight": (shape.inner, shape.dim) for name in "qkv"}
        wanted[f"{block}.attn.o.weight"] = (shape.dim, shape.inner)
        wanted[f"{block}.pos_embedding.embedding.weight"] = (shape.buckets, shape.heads)
        wanted |= {
            f"{block}.ffn.{name}.weight": (shape.ffn, shape.dim) for name in ("gate.0", "fc1")
        }
        wanted[f"{block}.ffn.fc2.weight"] = (shape.dim, shape.ffn)
    return wanted


def umt5_shape(shapes: Shapes) -> UMT5Shape:
    """The sizes of a UMT5 encoder. Raises ValueError naming the tensor that should tell one."""
    vocab, dim = _of(shapes, "token_embedding.weight", 2, "a UMT5 encoder")
    buckets, heads = _of(shapes, "blocks.0.pos_embedding.embedding.weight", 2, "a UMT5 encoder")
    return UMT5Shape(
        vocab=vocab,
        dim=dim,
        ffn=_of(shapes, "blocks.0.ffn.gate.0.weight", 2, "a UMT5 encoder")[0],
        layers=_count(shapes, "blocks"),
        heads=heads,
        buckets=buckets,
        inner=_of(shapes, "blocks.0.attn.q.weight", 2, "a UMT5 encoder")[0],
    )


def clip(shape: CLIPShape) -> dict[str, Shape]:
    """Names and shapes of the vision tower, as far as image to video could use it: without the projection."""
    w = shape.width
    wanted: dict[str, Shape] = {
        "visual.cls_embedding": (1, 1, w),
        "visual.pos_embedding": (1, shape.tokens, w),
        "visual.patch_embedding.weight": (w, 3, shape.patch, shape.patch),
    }
    wanted |= _norm("visual.pre_norm", w) | _norm("visual.post_norm", w)
    for i in range(shape.layers):
        layer = f"visual.transformer.{i}"
        wanted |= _norm(f"{layer}.norm1", w) | _norm(f"{layer}.norm2", w)
        wanted |= _linear(f"{layer}.attn.to_qkv", w, 3 * w) | _linear(f"{layer}.attn.proj", w, w)
        wanted |= _linear(f"{layer}.mlp.0", w, shape.mlp) | _linear(f"{layer}.mlp.2", shape.mlp, w)
    return wanted


def clip_shape(shapes: Shapes) -> CLIPShape:
    """The sizes of a vision tower. Raises ValueError naming the tensor that should tell one."""
    width, _, patch, _ = _of(shapes, "visual.patch_embedding.weight", 4, "a CLIP vision tower")
    positions = "visual.pos_embedding"
    # Hugging Face has no leading axis here
    num_axes = 2 if len(shapes.get(positions, ())) == 2 else 3
    return CLIPShape(
        width=width,
        layers=_count(shapes, "visual.transformer", at=2),
        mlp=_of(shapes, "visual.transformer.0.mlp.0.weight", 2, "a CLIP vision tower")[0],
        patch=patch,
        tokens=_of(shapes, positions, num_axes, "a CLIP vision tower")[-2],
    )


def vae(dim: int = 96) -> dict[str, Shape]:
    """Names and shapes of the Wan 2.1 VAE; the defaults are the published one: 194 tensors, in flat lists."""
    wanted = _vae_ends(dim, 4 * dim, 4 * dim, dim, 16, pixels=3)
    widths = (dim, dim, 2 * dim, 4 * dim, 4 * dim)
    index = 0
    for stage, (before, after) in enumerate(pairwise(widths)):
        for first in (before, after):
            wanted |= _residual(f"encoder.downsamples.{index}", first, after)
            index += 1
        if stage < 3:
            name = f"encoder.downsamples.{index}"
            wanted |= _conv(f"{name}.resample.1", after, after, 3, 3)
            wanted |= _conv(f"{name}.time_conv", after, after, 3, 1, 1) if stage else {}
            index += 1
    index = 0
    # every stage but the first starts from what the resampling before it left: half the channels
    for stage, (before, after) in enumerate(((4, 4), (2, 4), (2, 2), (1, 1))):
        for first in (before, after, after):
            wanted |= _residual(f"decoder.upsamples.{index}", first * dim, after * dim)
            index += 1
        if stage < 3:
            name, width = f"decoder.upsamples.{index}", after * dim
            wanted |= _conv(f"{name}.resample.1", width, width // 2, 3, 3)
            wanted |= _conv(f"{name}.time_conv", width, 2 * width, 3, 1, 1) if stage < 2 else {}
            index += 1
    return wanted


def vae22() -> dict[str, Shape]:
    """Names and shapes of the Wan 2.2 VAE: 196 tensors, in nested lists; resampling keeps the channels."""
    wanted = _vae_ends(160, 640, 1024, 256, 48, pixels=12)
    for stage, (before, after) in enumerate(((160, 160), (160, 320), (320, 640), (640, 640))):
        name = f"encoder.downsamples.{stage}.downsamples"
        wanted |= _residual(f"{name}.0", before, after) | _residual(f"{name}.1", after, after)
        wanted |= _conv(f"{name}.2.resample.1", after, after, 3, 3) if stage < 3 else {}
        wanted |= _conv(f"{name}.2.time_conv", after, after, 3, 1, 1) if stage in (1, 2) else {}
    for stage, (before, after) in enumerate(((1024, 1024), (1024, 1024), (1024, 512), (512, 256))):
        name = f"decoder.upsamples.{stage}.upsamples"
        for index, first in enumerate((before, after, after)):
            wanted |= _residual(f"{name}.{index}", first, after)
        wanted |= _conv(f"{name}.3.resample.1", after, after, 3, 3) if stage < 3 else {}
        wanted |= _conv(f"{name}.3.time_conv", after, 2 * after, 3, 1, 1) if stage < 2 else {}
    return wanted


def is_taehv(names: Collection[str]) -> bool:
    """Whether a VAE is a TAEHV, tiny, of any model's latents."""
    return "encoder.4.conv.0.weight" in names


def taehv() -> dict[str, Shape]:
    """Names and shapes of the TAEHV for the latents of Wan 2.1: 128 tensors, by their layers' positions."""
    wanted = _conv("encoder.0", 3, 64, 3, 3) | _conv("encoder.17", 64, 16, 3, 3)
    wanted |= _conv("decoder.1", 16, 256, 3, 3) | _conv("decoder.22", 64, 3, 3, 3)
    for first, stride in ((2, 2), (7, 2), (12, 1)):
        wanted[f"encoder.{first}.conv.weight"] = (64, 64 * stride, 1, 1)
        wanted[f"encoder.{first + 1}.weight"] = (64, 64, 3, 3)
        wanted |= _memory_blocks("encoder", first + 2, 64)
    for first, stride, dim, after in ((3, 1, 256, 128), (9, 2, 128, 64), (15, 2, 64, 64)):
        wanted |= _memory_blocks("decoder", first, dim)
        wanted[f"decoder.{first + 4}.conv.weight"] = (stride * dim, dim, 1, 1)
        wanted[f"decoder.{first + 5}.weight"] = (after, dim, 3, 3)
    return wanted


def _memory_blocks(side: str, first: int, dim: int) -> dict[str, Shape]:
    wanted: dict[str, Shape] = {}
    for index in range(first, first + 3):
        wanted |= _conv(f"{side}.{index}.conv.0", 2 * dim, dim, 3, 3)
        wanted |= _conv(f"{side}.{index}.conv.2", dim, dim, 3, 3)
        wanted |= _conv(f"{side}.{index}.conv.4", dim, dim, 3, 3)
    return wanted


def vae_dim(shapes: Shapes) -> int:
    """The width of a Wan 2.1 VAE at the pixels, 96 as published. Raises ValueError for any other VAE."""
    if "decoder.upsamples.0.upsamples.0.residual.2.weight" in shapes:
        raise ValueError("the VAE of Wan 2.2; expected that of Wan 2.1, with 16 latent channels")
    dim = _of(shapes, "encoder.conv1.weight", 5, "a Wan VAE")[0]
    z_dim = _of(shapes, "conv2.weight", 5, "a Wan VAE")[0]
    if z_dim != 16:
        raise ValueError(f"a VAE with {z_dim} latent channels, expected the 16 of Wan 2.1")
    return dim


def _vae_ends(
    enc: int, enc_middle: int, dec_middle: int, dec: int, z_dim: int, *, pixels: int
) -> dict[str, Shape]:
    """What comes before and after the two halves' stages; enc, dec: widths at the pixels."""
    wanted = _conv("encoder.conv1", pixels, enc, 3, 3, 3) | _conv(
        "decoder.conv1", z_dim, dec_middle, 3, 3, 3
    )
    wanted |= _conv("conv1", 2 * z_dim, 2 * z_dim, 1, 1, 1) | _conv("conv2", z_dim, z_dim, 1, 1, 1)
    for half, width in (("encoder", enc_middle), ("decoder", dec_middle)):
        middle = f"{half}.middle"
        wanted |= _residual(f"{middle}.0", width, width) | _residual(f"{middle}.2", width, width)
        wanted[f"{middle}.1.norm.gamma"] = (width, 1, 1)
        wanted |= _conv(f"{middle}.1.to_qkv", width, 3 * width, 1, 1)
        wanted |= _conv(f"{middle}.1.proj", width, width, 1, 1)
    for half, width, out in (("encoder", enc_middle, 2 * z_dim), ("decoder", dec, pixels)):
        wanted[f"{half}.head.0.gamma"] = (width, 1, 1, 1)
        wanted |= _conv(f"{half}.head.2", width, out, 3, 3, 3)
    return wanted


def _residual(name: str, before: int, after: int) -> dict[str, Shape]:
    wanted: dict[str, Shape] = {
        f"{name}.residual.0.gamma": (before, 1, 1, 1),
        f"{name}.residual.3.gamma": (after, 1, 1, 1),
    }
    wanted |= _conv(f"{name}.residual.2", before, after, 3, 3, 3)
    wanted |= _conv(f"{name}.residual.6", after, after, 3, 3, 3)
    return wanted | (_conv(f"{name}.shortcut", before, after, 1, 1, 1) if before != after else {})


def _conv(name: str, before: int, after: int, *kernel: int) -> dict[str, Shape]:
    return {f"{name}.weight": (after, before, *kernel), f"{name}.bias": (after,)}


def _linear(name: str, before: int, after: int) -> dict[str, Shape]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _dit_block(name: str, shape: DiTShape) -> dict[str, Shape]:
    d, f = shape.dim, shape.ffn_dim
    wanted: dict[str, Shape] = {f"{name}.modulation": (1, 6, d)} | _norm(f"{name}.norm3", d)
    for attention in ("self_attn", "cross_attn"):
        for part in "qkvo":
            wanted |= _linear(f"{name}.{attention}.{part}", d, d)
        wanted |= {f"{name}.{attention}.norm_{part}.weight": (d,) for part in "qk"}
    # the VACE blocks of the published models carry no image branch of their own
    if shape.image_branch and not name.startswith("vace"):
        for part in ("k_img", "v_img"):
            wanted |= _linear(f"{name}.cross_attn.{part}", d, d)
        wanted[f"{name}.cross_attn.norm_k_img.weight"] = (d,)
    return wanted | _linear(f"{name}.ffn.0", d, f) | _linear(f"{name}.ffn.2", f, d)


def _of(shapes: Shapes, name: str, num_axes: int, what: str) -> Shape:
    """The shape of a tensor; raises ValueError where it is not there, is empty or has other axes."""
    if name not in shapes:
        raise ValueError(f"not {what}: it has no tensor {name}")
    shape = tuple(shapes[name])
    if len(shape) != num_axes or 0 in shape:
        raise ValueError(
            f"not {what}: {name} has the shape {list(shape)}, expected {num_axes} axes, none empty"
        )
    return shape


def _count(shapes: Shapes, prefix: str, at: int = 1) -> int:
    """How many blocks there are: one more than the highest number after `prefix`."""
    start = f"{prefix}."
    numbers = {name.split(".", at + 1)[at] for name in shapes if name.startswith(start)}
    return max(
        (int(number) + 1 for number in numbers if number.isdecimal() and len(number) < 4), default=0
    )
