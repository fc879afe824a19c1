"""The layers of the Wan 2.1 autoencoder, with the published parameter names.

Every temporal convolution looks only backwards, and keeps the last frames it saw in an explicit `History`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

History = dict[nn.Module, Tensor]
"""The last input frames of each causal convolution; an empty dict before a clip's first chunk."""


class RMSNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma over the channel axis (axis 1), with fp32 statistics."""

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gamma.flatten().to(x.dtype)
        # eps only guards 0/0: the published norm has a floor of 1e-12 on |x| instead
        return F.rms_norm(x.movedim(1, -1), weight.shape, weight, 1e-30).movedim(-1, 1)


def silu(x: Tensor) -> Tensor:
    """In place where no gradient needs what was there."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def _conv3d(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution `conv`; in fp32 on the CPU always by oneDNN.

    For a batch of one on one thread PyTorch picks a kernel of its own for smaller inputs, which re-lays the
    weights at every call: the micro model's decoding takes seven times as long with it.
    """
    assert not isinstance(conv.padding, str)
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    if not is_plain or not torch.backends.mkldnn.is_available():
        return F.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)
    return torch.mkldnn_convolution(  # type: ignore[attr-defined]
        x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )


class CausalConv3d(nn.Conv3d):
    """A convolution over (time, height, width) that sees the present and the two frames before it."""

    def __init__(self, dim_in: int, dim_out: int, kernel: tuple[int, int, int]) -> None:
        super().__init__(dim_in, dim_out, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        """x [B,C,T,H,W] -> [B,C_out,T,H,W]; reads and replaces this layer's entry of `history`."""
        past = None if history is None else history.get(self)
        if past is None and x.shape[2] == 1:
            return self._first_frame(x, history)
        if past is None:
            past = self._no_past(x)
        padded = torch.cat([past, x], dim=2)
        if history is not None:
            # a clone, or the view would keep the whole chunk alive until the next one
            history[self] = padded[:, :, 1 - self.kernel_size[0] :].clone()
        return _conv3d(self, padded)

    def _first_frame(self, x: Tensor, history: History | None) -> Tensor:
        """The past is all zeros, so the kernel's last slice does the whole work, at a third of the cost."""
        if history is not None:
            history[self] = torch.cat([self._no_past(x)[:, :, 1:], x], dim=2)
        frame = F.conv2d(x.squeeze(2), self.weight[:, :, -1], self.bias, padding=self.padding[1:])
        return frame.unsqueeze(2)

    def _no_past(self, x: Tensor) -> Tensor:
        past = x.new_zeros(x.shape[0], x.shape[1], self.kernel_size[0] - 1, *x.shape[3:])
        return past.contiguous(memory_format=torch.channels_last_3d)


class ResidualBlock(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        # the keys are the positions in the published Sequential (1 and 4 SiLU, 5 dropout)
        self.residual = nn.ModuleDict(
            {
                "0": RMSNorm(dim_in, 3),
                "2": CausalConv3d(dim_in, dim_out, (3, 3, 3)),
                "3": RMSNorm(dim_out, 3),
                "6": CausalConv3d(dim_out, dim_out, (3, 3, 3)),
            }
        )
        self.shortcut = nn.Conv3d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, history: History | None) -> Tensor:
        y = silu(self.residual["0"](x))
        y = self.residual["2"](y, history)
        y = silu(self.residual["3"](y))
        y = self.residual["6"](y, history)
        return y + self.shortcut(x)


class AttentionBlock(nn.Module):
    """Single-head self-attention over the positions of each frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, dim * 3, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, history: History | None) -> Tensor:
        del history  # frames do not see each other here
        frames, _, _, height, width = x.shape[0] * x.shape[2], *x.shape[1:3], *x.shape[3:]
        y = rearrange(x, "b c t h w -> (b t) c h w")
        y = rearrange(self.norm(y), "n c h w -> n (h w) c")
        qkv = F.linear(y, self.to_qkv.weight.flatten(1), self.to_qkv.bias)
        q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        y = F.linear(y, self.proj.weight.flatten(1), self.proj.bias)
        y = y.view(frames // x.shape[2], x.shape[2], height, width, -1).movedim(-1, 1)
        return x + y


class Downsample(nn.Module):
    """Halves height and width, and time too where `temporal` (frame 0 stays a frame of its own)."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(dim, dim, 3, stride=2)})
        self.time_conv = nn.Conv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History | None) -> Tensor:
        x = _per_frame(self.resample["1"], x, lambda frames: F.pad(frames, (0, 1, 0, 1)))
        if self.time_conv is None:
            return x
        last = None if history is None else history.get(self.time_conv)
        if history is not None:
            history[self.time_conv] = x[:, :, -1:].clone()
        if last is not None:
            return _conv3d(self.time_conv, torch.cat([last, x], dim=2))
        if x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], _conv3d(self.time_conv, x)], dim=2)


class Upsample(nn.Module):
    """Doubles height and width, and time too where `temporal` (frame 0 stays a single frame)."""

    def __init__(self, dim: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(dim, dim // 2, 3, padding=1)})
        self.time_conv = CausalConv3d(dim, dim * 2, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History | None) -> Tensor:
        if self.time_conv is not None:
            x = self._double_time(self.time_conv, x, history)
        return _per_frame(
            self.resample["1"],
            x,
            lambda frames: F.interpolate(frames, scale_factor=2.0, mode="nearest-exact"),
        )

    @staticmethod
    def _double_time(time_conv: CausalConv3d, x: Tensor, history: History | None) -> Tensor:
        first = x[:, :, :0]
        if history is None or time_conv not in history:
            # the clip's frame 0 is neither doubled nor part of the convolution's past
            first, x = x[:, :, :1], x[:, :, 1:]
            if x.shape[2] == 0:
                if history is not None:
                    history[time_conv] = torch.zeros_like(first).repeat(1, 1, 2, 1, 1)
                return first
        pairs = time_conv(x, history)
        pairs = rearrange(pairs, "b (two c) t h w -> b c (t two) h w", two=2)
        return torch.cat([first, pairs], dim=2)


def _per_frame(conv: nn.Module, x: Tensor, before: object) -> Tensor:
    """Applies `before` and a 2-D convolution to every frame; in channels-last both reshapes are views."""
    frames = rearrange(x, "b c t h w -> (b t) c h w")
    return rearrange(conv(before(frames)), "(b t) c h w -> b c t h w", b=x.shape[0])  # type: ignore[operator]
