"""The shape of a Wan diffusion transformer, and what of it stays in fp32. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass

MODEL_TYPES = ("t2v", "i2v", "flf2v")
_SIZES = (
    "text_len", "in_dim", "dim", "ffn_dim", "freq_dim", "text_dim", "out_dim", "num_heads", "num_layers", "image_dim",
)  # fmt: skip
_FP32_PREFIXES = (
    "time_embedding.",
    "time_projection.",
    "head.",
    "img_emb.emb_pos",
    "img_emb.proj.0.",
    "img_emb.proj.4.",
)


@dataclass(frozen=True, kw_only=True)
class WanDiTConfig:
    """Shape of the transformer, fields named as in the published config; the defaults are t2v-1.3B.

    `image_dim` is the width of the image encoder's tokens (i2v and flf2v only).
    """

    model_type: str = "t2v"
    patch_size: tuple[int, int, int] = (1, 2, 2)
    text_len: int = 512
    in_dim: int = 16
    dim: int = 1536
    ffn_dim: int = 8960
    freq_dim: int = 256
    text_dim: int = 4096
    out_dim: int = 16
    num_heads: int = 12
    num_layers: int = 30
    qk_norm: bool = True
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int = 1280

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
        for name in ("qk_norm", "cross_attn_norm"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected true or false")
        is_patch = type(self.patch_size) is tuple and len(self.patch_size) == 3
        if not is_patch or any(type(n) is not int or n < 1 for n in self.patch_size):
            raise ValueError(f"patch_size is {self.patch_size!r}, expected three whole numbers")
        if type(self.eps) not in (float, int) or not 0 < self.eps < math.inf:
            raise ValueError(f"eps is {self.eps!r}, expected a number above zero")
        if self.model_type not in MODEL_TYPES:
            raise ValueError(
                f"model_type is {self.model_type!r}, expected one of {', '.join(MODEL_TYPES)}"
            )
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"dim {self.dim} must be num_heads {self.num_heads} times an even head dimension"
            )
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim is {self.freq_dim}, expected an even number")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def num_given_channels(self) -> int:
        """Channels beside the noisy latents: masks and latents of given frames."""
        return self.in_dim - self.out_dim

    @property
    def has_image_branch(self) -> bool:
        return self.model_type != "t2v"


def conditions_of(model_type: str, in_dim: int, out_dim: int) -> tuple[str, ...]:
    """The names of what a transformer of these sizes is conditioned on."""
    image = ("image",) if model_type != "t2v" else ()
    return ("text", *image, *(("latents",) if in_dim > out_dim else ()))


def keeps_fp32(name: str) -> bool:
    """Whether the published code computes with this parameter in fp32 whatever the model's dtype."""
    return name.startswith(_FP32_PREFIXES) or name.endswith("modulation") or ".norm" in name
