"""The Wan 2.1 causal video autoencoder, with the published parameter names.

Every temporal convolution looks only backwards, so a clip is processed in chunks of any length: each
convolution keeps the last frames it saw in an explicit `History`, and chunked and whole-clip results
are the same up to rounding. Activations are kept channels-last (`channels_last_3d`), which is what the
CPU's and the GPU's convolution kernels want and what makes the normalisation one pass.

Source of the architecture: Wan 2.1, `wan/modules/vae.py` (arXiv:2503.20314).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor, nn

from engine.models.vae.layers import (
    AttentionBlock,
    CausalConv3d,
    Downsample,
    History,
    ResidualBlock,
    RMSNorm,
    Upsample,
    silu,
)
from engine.models.vae.tiles import Tile, chunks_of, tiles_of, video_frames, video_shape

LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


Part = Callable[[int, int], Tensor]
"""(first frame, frame after the last) -> those frames of a video, [B,3,t,H,W] in [-1,1], of any float dtype, on any
device."""


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
        self.num_fine = len(layers) - config.num_res_blocks
        self.middle = _middle(dims[-1])
        self.head = _head(dims[-1], config.z_dim * 2)

    def fine(self, x: Tensor, history: History | None = None) -> Tensor:
        """Video -> features of the latents' size. What a position becomes depends on what is near it alone."""
        x = self.conv1(x, history)
        for layer in self.downsamples[: self.num_fine]:
            x = layer(x, history)
        return x

    def coarse(self, x: Tensor, history: History | None = None) -> Tensor:
        """The rest, all of the latents' size; its attention sees whole frames."""
        for layer in (*self.downsamples[self.num_fine :], *self.middle):
            x = layer(x, history)
        return self.head["2"](silu(self.head["0"](x)), history)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        return self.coarse(self.fine(x, history), history)


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
        self.num_coarse = config.num_res_blocks + 1
        self.head = _head(dims[-1], 3)

    def coarse(self, x: Tensor, history: History | None = None) -> Tensor:
        """Latents -> features of their size; its attention sees whole frames."""
        x = self.conv1(x, history)
        for layer in (*self.middle, *self.upsamples[: self.num_coarse]):
            x = layer(x, history)
        return x

    def fine(self, x: Tensor, history: History | None = None) -> Tensor:
        """The rest, up to the video. What a position becomes depends on what is near it alone."""
        for layer in self.upsamples[self.num_coarse :]:
            x = layer(x, history)
        return self.head["2"](silu(self.head["0"](x)), history)

    def forward(self, x: Tensor, history: History | None = None) -> Tensor:
        return self.fine(self.coarse(x, history), history)


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
        return self._moments(self.encoder(self._laid(video), history))

    def _moments(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.conv1(encoded).chunk(2, dim=1)
        return mean, logvar

    def decode_raw(self, latents: Tensor, history: History | None = None) -> Tensor:
        """Un-normalised latents [B,z,T,h,w] -> video [B,3,4T-3,8h,8w] ([B,3,4T,8h,8w] for a later chunk),
        not clamped."""
        return self.decoder(self.conv2(self._laid(latents)), history)

    @torch.no_grad()
    def encode(
        self, video: Tensor, *, chunk_frames: int = 1, tile_size: int = 0, tile_overlap: int = 64
    ) -> Tensor:
        """The normalised mean of the latents of a video.

        video: [B,3,T,H,W], any float dtype, on any device, in [-1,1]; T = 4n+1, H and W multiples of 8. Otherwise as
        `encode_parts`.
        """
        return self.encode_parts(
            lambda start, stop: video[:, :, start:stop],
            tuple(video.shape),
            chunk_frames=chunk_frames,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
        )

    @torch.no_grad()
    def encode_parts(
        self,
        part: Part,
        shape: Sequence[int],
        *,
        chunk_frames: int = 1,
        tile_size: int = 0,
        tile_overlap: int = 64,
    ) -> Tensor:
        """The normalised mean of the latents of a video of which `part` gives some frames at a time.

        shape: of the whole video, [B,3,T,H,W]; T = 4n+1, H and W multiples of 8. part: called in the order of time,
        with tiles once more for each of them.
        chunk_frames: latent frames per chunk, 0 for the whole clip; memory grows with it, results do not
        change beyond rounding. tile_size, tile_overlap: in pixels, multiples of 8; 0 encodes whole frames. What needs
        the most memory then sees one tile at a time. Each position is of a tile that sees half the overlap around it:
        with EXACT_OVERLAP or more the results are those of whole frames up to rounding, with less they are close.
        Returns fp32 [B,z,1+(T-1)/4,H/8,W/8] on the model's device. Raises ValueError on a shape that does not fit.
        """
        batch, channels, num_frames, height, width = shape
        if channels != 3 or num_frames % 4 != 1 or height % 8 or width % 8:
            raise ValueError(
                f"video has shape {tuple(shape)}; expected [B,3,4n+1,H,W] with H and W multiples of 8"
            )
        size = 1 + (num_frames - 1) // 4, height // 8, width // 8
        tiles = tiles_of(*size[1:], tile_size, tile_overlap)
        chunks = list(chunks_of(size[0], chunk_frames))
        features = self._features_of_tiles(part, (batch, *size), tiles, chunks) if tiles else None
        mean, std = self._statistics(self.conv1.weight.device)
        latents = torch.zeros((batch, self.config.z_dim, *size), device=mean.device)
        history: History = {}
        for frames in chunks:
            if features is None:
                moments = self.encode_moments(part(*video_frames(frames)), history)
            else:
                moments = self._moments(
                    self.encoder.coarse(self._laid(features[:, :, frames]), history)
                )
            latents[:, :, frames] = (moments[0].float() - mean) / std
        return latents

    def _features_of_tiles(
        self, part: Part, shape: Sequence[int], tiles: Sequence[Tile], chunks: Sequence[slice]
    ) -> Tensor:
        """What `Encoder.fine` makes of a video, on the CPU, [B,C,F,h,w] of a shape [B,F,h,w]."""
        batch, *size = shape
        features = self._empty_features((batch, self.config.dim * self.config.dim_mult[-2], *size))
        for tile in tiles:
            history: History = {}
            for frames in chunks:
                video = self._laid(part(*video_frames(frames))[..., *tile.window(8)])
                found = self.encoder.fine(video, history)
                features[:, :, frames, *tile.kept(1)] = found[..., *tile.inner(1)]
        return features

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
        video = torch.empty(video_shape(latents), device=latents.device)
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

        latents: [B,z,T,h,w], any float dtype, finite. chunk_frames, tile_size, tile_overlap: as in `encode_parts`.
        on_chunk: called after every chunk with how many of how many are done; with tiles every chunk of whole frames
        counts, and then every chunk of every tile; may raise to stop.
        Yields fp32 [B,3,t,8h,8w] in [-1,1], which is the caller's: t = 4 * chunk_frames (3 less in the first chunk,
        maybe fewer in the last). Held are one chunk of whole frames, and of the chunks before it the `History`: two
        frames of each convolution's input. With tiles it is one tile's, but one tile after another is decoded to its
        end: the whole video is held on the CPU, and no chunk comes before the last tile is done.
        Raises ValueError on a shape that does not fit, at once.
        """
        if latents.dim() != 5 or latents.shape[1] != self.config.z_dim:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; expected [B,{self.config.z_dim},T,h,w]"
            )
        tiles = tiles_of(latents.shape[3], latents.shape[4], tile_size, tile_overlap)
        chunks = list(chunks_of(latents.shape[2], chunk_frames))
        total, numbers = len(chunks) * (1 + len(tiles)), count(1)

        def on_each() -> None:
            on_chunk(next(numbers), total)

        if tiles:
            return self._decoded_tiles(latents, tiles, chunks, on_each)
        return self._decoded(latents, chunks, on_each)

    def _decoded(
        self, latents: Tensor, chunks: Sequence[slice], on_chunk: Callable[[], None]
    ) -> Iterator[Tensor]:
        latents = self._unnormalised(latents)
        history: History = {}
        for frames in chunks:
            # no name for the chunk: it would be held until the next one is made
            yield self._decoded_chunk(latents[:, :, frames], history, on_chunk)

    @torch.no_grad()
    def _decoded_chunk(
        self, latents: Tensor, history: History, on_chunk: Callable[[], None]
    ) -> Tensor:
        """Un-normalised latents [B,z,T,h,w] of a chunk -> its frames."""
        chunk = self.decode_raw(latents, history).float().clamp_(-1, 1).contiguous()
        on_chunk()
        return chunk

    def _decoded_tiles(
        self,
        latents: Tensor,
        tiles: Sequence[Tile],
        chunks: Sequence[slice],
        on_chunk: Callable[[], None],
    ) -> Iterator[Tensor]:
        video = self._video_of_tiles(latents, tiles, chunks, on_chunk)
        for frames in chunks:
            start, stop = video_frames(frames)
            yield video[:, :, start:stop].contiguous()

    @torch.no_grad()
    def _video_of_tiles(
        self,
        latents: Tensor,
        tiles: Sequence[Tile],
        chunks: Sequence[slice],
        on_chunk: Callable[[], None],
    ) -> Tensor:
        """Normalised latents -> their video, on the CPU."""
        features = self._features_of_latents(latents, chunks, on_chunk)
        video = torch.empty(video_shape(latents))
        for tile in tiles:
            history: History = {}
            for frames in chunks:
                found = self.decoder.fine(
                    self._laid(features[:, :, frames, *tile.window(1)]), history
                )
                found = found[..., *tile.inner(8)].float().clamp_(-1, 1)
                video[:, :, slice(*video_frames(frames)), *tile.kept(8)] = found
                del found  # or it would be held while the next one is made
                on_chunk()
        return video

    def _features_of_latents(
        self, latents: Tensor, chunks: Sequence[slice], on_chunk: Callable[[], None]
    ) -> Tensor:
        """What `Decoder.coarse` makes of normalised latents [B,z,T,h,w], on the CPU, [B,C,T,h,w]."""
        batch, _, *size = latents.shape
        latents = self._unnormalised(latents)
        features = self._empty_features((batch, self.config.dim * self.config.dim_mult[-1], *size))
        history: History = {}
        for frames in chunks:
            part = self.conv2(self._laid(latents[:, :, frames]))
            features[:, :, frames] = self.decoder.coarse(part, history)
            on_chunk()
        return features

    def _laid(self, x: Tensor) -> Tensor:
        """As the convolutions want it."""
        weight = self.conv1.weight
        return x.to(weight.device, weight.dtype, memory_format=torch.channels_last_3d)

    def _empty_features(self, shape: Sequence[int]) -> Tensor:
        return torch.empty(
            tuple(shape), dtype=self.conv1.weight.dtype, memory_format=torch.channels_last_3d
        )

    def _unnormalised(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents.device)
        return latents.float() * std + mean

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        def column(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, device=device).view(1, -1, 1, 1, 1)

        return column(self.config.latents_mean), column(self.config.latents_std)
