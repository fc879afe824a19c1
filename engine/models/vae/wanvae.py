"""The Wan 2.1 causal video autoencoder, with the published parameter names.

Every temporal convolution looks only backwards, so a clip is processed in chunks of any length: each
convolution keeps the last frames it saw in an explicit `History`, and chunked and whole-clip results
are the same up to rounding. Activations are kept channels-last (`channels_last_3d`), which is what the
CPU's and the GPU's convolution kernels want and what makes the normalisation one pass.

Source of the architecture: Wan 2.1, `wan/modules/vae.py` (arXiv:2503.20314).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip

History = dict[nn.Module, Tensor]
"""The last input frames of each causal convolution; an empty dict before a clip's first chunk."""


@dataclass(frozen=True, kw_only=True)
class WanVAEConfig:
    """Shape of the autoencoder; the defaults are the published Wan 2.1 VAE.

    `latents_mean` and `latents_std` normalise the latents channel by channel, `z_dim` numbers each.
    """

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = LATENTS_MEAN
    latents_std: tuple[float, ...] = LATENTS_STD

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries, expected one less "
                f"than dim_mult ({len(self.dim_mult)})"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries, expected z_dim = {self.z_dim}"
                )


class RMSNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma over the channel axis (axis 1), with fp32 statistics."""

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gamma.flatten().to(x.dtype)
        # eps only guards 0/0: the published norm has a floor of 1e-12 on |x| instead
        return F.rms_norm(x.movedim(1, -1), weight.shape, weight, 1e-30).movedim(-1, 1)


def _silu(x: Tensor) -> Tensor:
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
        y = _silu(self.residual["0"](x))
        y = self.residual["2"](y, history)
        y = _silu(self.residual["3"](y))
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


def _head(dim: int, dim_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": RMSNorm(dim, 3), "2": CausalConv3d(dim, dim_out, (3, 3, 3))})


def _middle(dim: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(dim, dim), AttentionBlock(dim), ResidualBlock(dim, dim)])


class Encoder(nn.Module):
    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        dims = [config.dim * m for m in (1, *config.dim_mult)]
        self.conv1 = CausalConv3d(3, dims[0], (3, 3, 3))
        layers: list[nn.Module] = []
        for i, (dim_in, dim_out) in enumerate(pairwise(dims)):
            inputs = [dim_in] + [dim_out] * (config.num_res_blocks - 1)
            layers += [ResidualBlock(width, dim_out) for width in inputs]
            if i < len(config.temporal_downsample):
                layers.append(Downsample(dim_out, config.temporal_downsample[i]))
        self.downsamples = nn.ModuleList(layers)
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], config.z_dim * 2)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        x = self.conv1(x, history)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, history)
        return self.head["2"](_silu(self.head["0"](x)), history)


class Decoder(nn.Module):
    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        dims = [config.dim * m for m in (config.dim_mult[-1], *reversed(config.dim_mult))]
        temporal = tuple(reversed(config.temporal_downsample))
        self.conv1 = CausalConv3d(config.z_dim, dims[0], (3, 3, 3))
        self.middle = _middle(dims[0])
        layers: list[nn.Module] = []
        for i, (dim_in, dim_out) in enumerate(pairwise(dims)):
            # the upsampling before halved the channels
            inputs = [dim_in if i == 0 else dim_in // 2] + [dim_out] * config.num_res_blocks
            layers += [ResidualBlock(width, dim_out) for width in inputs]
            if i < len(temporal):
                layers.append(Upsample(dim_out, temporal[i]))
        self.upsamples = nn.ModuleList(layers)
        self.head = _head(dims[-1], 3)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        x = self.conv1(x, history)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, history)
        return self.head["2"](_silu(self.head["0"](x)), history)


class WanVAE(nn.Module):
    """The autoencoder. `encode` and `decode` are for inference; `encode_moments` and `decode_raw` are
    their differentiable whole-clip kernels, for training."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(config.z_dim * 2, config.z_dim * 2, 1)
        self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def channels_last(self) -> WanVAE:
        """Lays the convolution weights out channels-last, in place; numbers do not change."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            elif isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode_moments(
        self, video: Tensor, history: History | None = None
    ) -> tuple[Tensor, Tensor]:
        """video [B,3,T,H,W] in [-1,1] -> mean and log-variance, each [B,z,1+(T-1)/4,H/8,W/8], before
        normalisation. With a `history` the video is the next chunk of a clip."""
        video = video.to(self.conv1.weight.dtype, memory_format=torch.channels_last_3d)
        mean, logvar = self.conv1(self.encoder(video, history)).chunk(2, dim=1)
        return mean, logvar

    def decode_raw(self, latents: Tensor, history: History | None = None) -> Tensor:
        """Un-normalised latents [B,z,T,h,w] -> video [B,3,4T-3,8h,8w] ([B,3,4T,8h,8w] for a later chunk),
        not clamped."""
        latents = latents.to(self.conv2.weight.dtype, memory_format=torch.channels_last_3d)
        return self.decoder(self.conv2(latents), history)

    @torch.no_grad()
    def encode(
        self, video: Tensor, *, chunk_frames: int = 1, tile_size: int = 0, tile_overlap: int = 64
    ) -> Tensor:
        """The normalised mean of the latents of a video.

        video: [B,3,T,H,W], any float dtype, in [-1,1]; T = 4n+1, H and W multiples of 8.
        chunk_frames: latent frames per chunk, 0 for the whole clip; memory grows with it, results do not
        change beyond rounding. tile_size, tile_overlap: in pixels, multiples of 8; 0 encodes whole frames.
        Tiles are cross-faded over their overlaps, so a tiled result is close to, not equal to, a whole one.
        Returns fp32 [B,z,1+(T-1)/4,H/8,W/8]. Raises ValueError on a shape that does not fit.
        """
        _, channels, num_frames, height, width = video.shape
        if channels != 3 or num_frames % 4 != 1 or height % 8 or width % 8:
            raise ValueError(
                f"video has shape {tuple(video.shape)}; expected [B,3,4n+1,H,W] with H and W multiples of 8"
            )
        tiles = _tiles(height // 8, width // 8, tile_size, tile_overlap, scale=1)
        mean, std = self._statistics(video.device)
        shape = (
            video.shape[0],
            self.config.z_dim,
            1 + (num_frames - 1) // 4,
            height // 8,
            width // 8,
        )
        latents = torch.zeros(shape, device=video.device)
        for tile in tiles:
            history: History = {}
            start = 0
            for frames in _chunks(shape[2], chunk_frames):
                stop = 4 * frames.stop - 3
                part, _ = self.encode_moments(video[:, :, start:stop, *tile.window(8)], history)
                tile.add(latents[:, :, frames], (part.float() - mean) / std)
                start = stop
        return latents

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        *,
        chunk_frames: int = 1,
        tile_size: int = 0,
        tile_overlap: int = 64,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
    ) -> Tensor:
        """The video of normalised latents: fp32 [B,3,4T-3,8h,8w] in [-1,1], all of it at once.

        Otherwise as `decode_chunks`.
        """
        chunks = self.decode_chunks(
            latents,
            chunk_frames=chunk_frames,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            on_chunk=on_chunk,
        )
        batch, _, num_frames, height, width = latents.shape
        shape = (batch, 3, 4 * num_frames - 3, height * 8, width * 8)
        video = torch.empty(shape, device=latents.device)
        start = 0
        for chunk in chunks:
            video[:, :, start : start + chunk.shape[2]] = chunk
            start += chunk.shape[2]
        return video

    def decode_chunks(
        self,
        latents: Tensor,
        *,
        chunk_frames: int = 1,
        tile_size: int = 0,
        tile_overlap: int = 64,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Tensor]:
        """The video of normalised latents, chunk by chunk in the order of time.

        latents: [B,z,T,h,w], any float dtype, finite. chunk_frames, tile_size, tile_overlap: as in `encode`.
        on_chunk: called after every chunk of every tile with how many of how many are done; may raise to stop.
        Yields fp32 [B,3,t,8h,8w] in [-1,1], which is the caller's: t = 4 * chunk_frames (3 less in the first chunk,
        maybe fewer in the last). Held are one chunk of whole frames, the working memory of one tile, and the
        `History` of every tile: two frames of each convolution's input, for all tiles together those of whole
        frames and of the overlaps once more.
        Raises ValueError on a shape that does not fit, at once.
        """
        if latents.dim() != 5 or latents.shape[1] != self.config.z_dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; expected [B,{self.config.z_dim},T,h,w]"
            )
        tiles = _tiles(latents.shape[3], latents.shape[4], tile_size, tile_overlap, scale=8)
        chunks = list(_chunks(latents.shape[2], chunk_frames))
        return self._decoded(latents, tiles, chunks, on_chunk)

    def _decoded(
        self,
        latents: Tensor,
        tiles: Sequence[_Tile],
        chunks: Sequence[slice],
        on_chunk: Callable[[int, int], None],
    ) -> Iterator[Tensor]:
        mean, std = self._statistics(latents.device)
        latents = latents.float() * std + mean
        histories: list[History] = [{} for _ in tiles]
        numbers, total = count(1), len(tiles) * len(chunks)
        for frames in chunks:
            # no name for the chunk: it would be held until the next one is made
            yield self._decoded_chunk(
                latents[:, :, frames], tiles, histories, lambda: on_chunk(next(numbers), total)
            )

    @torch.no_grad()
    def _decoded_chunk(
        self,
        latents: Tensor,
        tiles: Sequence[_Tile],
        histories: Sequence[History],
        on_tile: Callable[[], None],
    ) -> Tensor:
        """Un-normalised latents [B,z,T,h,w] of a chunk -> its frames; each tile goes on from its own history."""
        batch, _, num_frames, height, width = latents.shape
        num_frames = 4 * num_frames - (0 if histories[0] else 3)  # a clip's first frame is alone
        chunk = torch.zeros((batch, 3, num_frames, height * 8, width * 8), device=latents.device)
        for tile, history in zip(tiles, histories, strict=True):
            part = self.decode_raw(latents[..., *tile.window(1)], history)
            tile.add(chunk, part.float().clamp_(-1, 1))
            del part  # or it would be held while the next tile is decoded
            on_tile()
        return chunk

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        def column(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1, 1)

        return column(self.config.latents_mean), column(self.config.latents_std)


def _chunks(num_frames: int, chunk_frames: int) -> Iterator[slice]:
    if chunk_frames < 0:
        raise ValueError(f"chunk_frames is {chunk_frames}, expected 0 (whole clip) or more")
    length = chunk_frames or num_frames
    return (slice(i, min(i + length, num_frames)) for i in range(0, num_frames, length))


@dataclass(frozen=True)
class _Tile:
    """A window of the latent grid, and its share (1 at most) of every row and column it writes to."""

    top: int
    left: int
    height: int
    width: int
    rows: Tensor
    columns: Tensor

    def window(self, scale: int) -> tuple[slice, slice]:
        return (
            slice(self.top * scale, (self.top + self.height) * scale),
            slice(self.left * scale, (self.left + self.width) * scale),
        )

    def add(self, whole: Tensor, part: Tensor) -> None:
        """Adds this tile's share of `part` to its window of `whole`."""
        target = whole[..., *self.window(len(self.rows) // self.height)]
        shares = self.rows[:, None] * self.columns
        if bool((shares == 1).all()):
            target.copy_(part)
        else:
            target.addcmul_(part, shares.to(part.device))


def _tiles(height: int, width: int, size: int, overlap: int, *, scale: int) -> list[_Tile]:
    """Equal windows over a latent grid; `size` and `overlap` in pixels, shares for `scale` output
    cells per latent. The shares of all windows add up to one everywhere."""
    if size == 0:
        return [_Tile(0, 0, height, width, torch.ones(height * scale), torch.ones(width * scale))]
    if size % 8 or overlap % 8 or not 0 <= overlap < size:
        raise ValueError(
            f"tile_size {size} and tile_overlap {overlap} must be multiples of 8 pixels with the "
            "overlap smaller than the tile"
        )
    tall, wide = min(size // 8, height), min(size // 8, width)
    return [
        _Tile(top, left, tall, wide, rows, columns)
        for top, rows in _spans(height, tall, overlap // 8, scale)
        for left, columns in _spans(width, wide, overlap // 8, scale)
    ]


def _spans(size: int, tile: int, overlap: int, scale: int) -> list[tuple[int, Tensor]]:
    """Starts and shares of the windows along one axis; the last window ends at the border."""
    count = 1 if tile >= size else math.ceil((size - overlap) / (tile - overlap))
    starts = [min(i * (tile - overlap), size - tile) for i in range(count)]
    shares = torch.zeros(count, size * scale)
    for i, start in enumerate(starts):
        shares[i, start * scale : (start + tile) * scale] = 1.0
        if i > 0:
            shared = (starts[i - 1] + tile - start) * scale
            ramp = (torch.arange(shared) + 1.0) / (shared + 1)
            shares[i, start * scale : start * scale + shared] = ramp
            shares[:i] *= 1 - shares[i]
    return [
        (start, shares[i, start * scale : (start + tile) * scale]) for i, start in enumerate(starts)
    ]
