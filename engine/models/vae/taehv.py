"""TAEHV, a tiny video autoencoder, as trained for the latents of Wan 2.1, with the published parameter names.

It encodes and decodes what a denoiser works on, normalised latents, at a small part of the VAE's cost and close to it.
All layers see frames of one time, but for blocks that also see their input of the time before: so a clip is processed
in chunks of any length, the same as whole, and a chunk leaves behind one frame for each such block.

Source of the architecture: github.com/madebyollin/taehv, `taehv.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.models.vae.layers import History
from engine.models.vae.wanvae import Part

LATENT_CHANNELS = 16
_WIDTH = 64
# the decoder's at its four sizes, the smallest first
_WIDTHS = (256, 128, 64, 64)
# Latents mean little beyond three standard deviations: there they are bent.
_BOUND = 3
# Frames of the video that a latent frame stands for. Of the first one only the last is shown.
_FRAMES = 4


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / _BOUND) * _BOUND


class _MemoryBlock(nn.Module):
    """Sees its input and that of the time before."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * dim, dim), nn.ReLU(), _conv(dim, dim), nn.ReLU(), _conv(dim, dim)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class _Pool(nn.Module):
    """Makes one frame of every `stride`."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x.unflatten(0, (-1, self.stride)).flatten(1, 2))
        return found


class _Grow(nn.Module):
    """Makes `stride` frames of every one."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.dim, self.stride = dim, stride
        self.conv = nn.Conv2d(dim, stride * dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x).unflatten(1, (self.stride, self.dim)).flatten(0, 1)
        return found

    def last(self, x: Tensor) -> Tensor:
        """The last of them alone."""
        return F.conv2d(x, self.conv.weight[-self.dim :])


class TAEHV(nn.Module):
    """For inference."""

    def __init__(self) -> None:
        super().__init__()
        encoder: list[nn.Module] = [_conv(3, _WIDTH), nn.ReLU()]
        for stride in (2, 2, 1):
            encoder += [_Pool(_WIDTH, stride), _conv(_WIDTH, _WIDTH, stride=2, bias=False)]
            encoder += [_MemoryBlock(_WIDTH) for _ in range(3)]
        # the positions in the lists are the published names
        self.encoder = nn.Sequential(*encoder, _conv(_WIDTH, LATENT_CHANNELS))
        decoder: list[nn.Module] = [_Bounded(), _conv(LATENT_CHANNELS, _WIDTHS[0]), nn.ReLU()]
        for stride, dim, dim_out in zip((1, 2, 2), _WIDTHS, _WIDTHS[1:], strict=False):
            decoder += [_MemoryBlock(dim) for _ in range(3)]
            decoder += [nn.Upsample(scale_factor=2), _Grow(dim, stride)]
            decoder += [_conv(dim, dim_out, bias=False)]
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), _conv(_WIDTHS[-1], 3))

    @torch.no_grad()
    def encode_parts(self, part: Part, shape: Sequence[int], *, chunk_frames: int = 1) -> Tensor:
        """The normalised latents of a video, as of `WanVAE.encode_parts`, whole frames at a time.

        Its last frame counts once more for each that is missing to a whole number of latents.
        """
        batch, channels, num_frames, height, width = shape
        if channels != 3 or num_frames % 4 != 1 or height % 8 or width % 8:
            raise ValueError(
                f"video has shape {tuple(shape)}; expected [B,3,4n+1,H,W] with H and W multiples of 8"
            )
        size = 1 + (num_frames - 1) // _FRAMES, height // 8, width // 8
        latents = torch.empty((batch, LATENT_CHANNELS, *size), device=self._device)
        history: History = {}
        for frames in _chunks(size[0], chunk_frames):
            start, stop = _FRAMES * frames.start, min(_FRAMES * frames.stop, num_frames)
            video = part(start, stop).to(self._device, self._dtype).add(1).div(2)
            video = F.pad(video, (0, 0, 0, 0, 0, _FRAMES * frames.stop - stop), "replicate")
            found = _through(self.encoder, video.movedim(1, 2), history)
            latents[:, :, frames] = found.movedim(2, 1).float()
        return latents

    def decode_chunks(
        self,
        latents: Tensor,
        *,
        chunk_frames: int = 1,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
    ) -> Iterator[Tensor]:
        """The video of normalised latents, as of `WanVAE.decode_chunks`, whole frames at a time."""
        if latents.dim() != 5 or latents.shape[1] != LATENT_CHANNELS:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}; expected [B,{LATENT_CHANNELS},T,h,w]"
            )
        return self._decoded(latents, list(_chunks(latents.shape[2], chunk_frames)), on_chunk)

    def _decoded(
        self, latents: Tensor, chunks: Sequence[slice], on_chunk: Callable[[int, int], None]
    ) -> Iterator[Tensor]:
        history: History = {}
        numbers = count(1)
        for frames in chunks:
            # no name for the chunk: it would be held until the next one is made
            yield self._decoded_chunk(
                latents[:, :, frames], history, lambda: on_chunk(next(numbers), len(chunks))
            )

    @torch.no_grad()
    def _decoded_chunk(
        self, latents: Tensor, history: History, on_chunk: Callable[[], None]
    ) -> Tensor:
        skipped = 0 if history else _FRAMES - 1
        video = _through(self.decoder, self._frames(latents), history)[:, skipped:]
        chunk = video.movedim(2, 1).float().clamp_(0, 1).mul_(2).sub_(1).contiguous()
        on_chunk()
        return chunk

    @torch.no_grad()
    def thumbnails(self, latents: Tensor, *, chunk_frames: int = 4) -> Tensor:
        """What normalised latents [B,16,T,h,w] look like at their own size: fp32 [B,3,T,h,w] in [-1,1], of the frames
        that a latent stands for the last. A fiftieth of the work of decoding them."""
        layers = [layer for layer in self.decoder if not isinstance(layer, nn.Upsample)]
        history: History = {}
        found = [
            _through(layers, self._frames(latents[:, :, frames]), history, all_frames=False)
            for frames in _chunks(latents.shape[2], chunk_frames)
        ]
        return torch.cat(found, 1).movedim(2, 1).float().clamp_(0, 1).mul_(2).sub_(1)

    def _frames(self, latents: Tensor) -> Tensor:
        return latents.to(self._device, self._dtype).movedim(2, 1)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _conv(dim: int, dim_out: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(dim, dim_out, 3, padding=1, **options)  # type: ignore[arg-type]


def _through(
    layers: Iterable[nn.Module], x: Tensor, history: History, *, all_frames: bool = True
) -> Tensor:
    """Frames [B,T,C,H,W] through the layers, after those that `history` knows. all_frames: else a layer that makes
    several frames of one makes the last of them."""
    batch = x.shape[0]
    x = x.flatten(0, 1)
    for layer in layers:
        if isinstance(layer, _MemoryBlock):
            x = layer(x, _before(layer, x.unflatten(0, (batch, -1)), history))
        elif isinstance(layer, _Grow) and not all_frames:
            x = layer.last(x)
        else:
            x = layer(x)
    return x.unflatten(0, (batch, -1))


def _before(layer: nn.Module, frames: Tensor, history: History) -> Tensor:
    """Each frame's predecessor, [B*T,C,H,W]; the clip's first has none, and sees zeros."""
    last = history.get(layer)
    last = torch.zeros_like(frames[:, 0]) if last is None else last
    history[layer] = frames[:, -1].clone()
    return torch.cat([last[:, None], frames[:, :-1]], 1).flatten(0, 1)


def _chunks(num_frames: int, chunk_frames: int) -> Iterator[slice]:
    length = chunk_frames or num_frames
    return (slice(i, min(i + length, num_frames)) for i in range(0, num_frames, length))
