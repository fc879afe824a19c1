"""Components that run in this process, built from files of any published layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.checkpoints.fingerprint import fingerprint
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.known.expected import umt5_shape, vae_dim
from engine.checkpoints.layout import Layout, lay_out
from engine.checkpoints.load import Weights, fill
from engine.checkpoints.locate import locate
from engine.checkpoints.names import from_original
from engine.checkpoints.source import open_source
from engine.dtypes import torch_device, torch_dtype
from engine.errors import CheckpointError, ComponentError
from engine.models.attention import Attention, get_attention
from engine.models.diffusion.config import keeps_fp32
from engine.models.diffusion.wandit import Conditioning, WanDiT
from engine.models.vae.wanvae import WanVAE, WanVAEConfig
from engine.prompt import load_tokenizer
from engine.registry import files, tokenizer_file
from presets.spec import DenoiserSpec, TextEncoderSpec, VAESpec

if TYPE_CHECKING:
    from engine.models.text_encoders.t5 import UMT5


@dataclass(frozen=True)
class LocalTextEncoder:
    files: tuple[Path, ...]
    umt5: UMT5

    def fingerprint(self) -> str:
        return fingerprint(self.files)

    def encode(self, prompt: str) -> Tensor:
        return self.umt5.encode(prompt)


@dataclass(frozen=True)
class LocalDenoiser:
    files: tuple[Path, ...]
    model: WanDiT
    device: torch.device
    attention: Attention

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_dim

    def fingerprint(self) -> str:
        return fingerprint(self.files)

    @torch.no_grad()
    def prepare(self, contexts: Sequence[Tensor]) -> Conditioning:
        # rows of zeros are what the published pipeline pads prompts with
        batch = torch.nn.utils.rnn.pad_sequence(list(contexts), batch_first=True)
        return self.model.prepare({"text": batch.to(self.device)})

    @torch.no_grad()
    def velocity(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return self.model(latents, timestep, conditioning, attention=self.attention)


@dataclass(frozen=True)
class LocalVAE:
    files: tuple[Path, ...]
    model: WanVAE
    device: torch.device
    chunk_frames: int
    tile_size: int
    tile_overlap: int

    @property
    def latent_channels(self) -> int:
        return self.model.config.z_dim

    def fingerprint(self) -> str:
        return fingerprint(self.files)

    def encode(self, video: Tensor) -> Tensor:
        return self.model.encode(video.to(self.device), **self._memory_options())

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Tensor:
        return self.model.decode(
            latents.to(self.device), **self._memory_options(), on_chunk=on_chunk
        )

    def _memory_options(self) -> dict[str, int]:
        return {
            "chunk_frames": self.chunk_frames,
            "tile_size": self.tile_size,
            "tile_overlap": self.tile_overlap,
        }


def load_text_encoder(spec: TextEncoderSpec) -> LocalTextEncoder:
    # transformers takes two seconds to import: only who encodes pays for it
    from engine.models.text_encoders import t5

    path = locate("text_encoder", spec.checkpoint)
    layout = lay_out(open_source(path))
    try:
        shape = umt5_shape({name: entry.shape for name, entry in layout.entries.items()})
        tokenize = load_tokenizer(tokenizer_file(spec))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with torch.device("meta"):
        model = t5.build(t5.config(**asdict(shape)))
    with Weights(layout.entries) as weights:
        fill(
            model,
            weights,
            path=path,
            device=torch_device(spec.device),
            dtype=torch_dtype(spec.dtype),
            rename=lambda name: from_original("text_encoder", "huggingface", name)[0],
        )
    return LocalTextEncoder(files("text_encoder", spec), t5.UMT5(model, tokenize))


def load_denoiser(spec: DenoiserSpec) -> LocalDenoiser:
    path = locate("denoiser", spec.checkpoint)
    source = open_source(path)
    layout = lay_out(source)
    config = dit_config(source, layout)
    if config.model_type != "t2v":
        raise ComponentError(
            f"{path}: an image-to-video model ({config.model_type}); this task needs a t2v one"
        )
    try:
        attention = get_attention(spec.attention)
    except ValueError as error:
        raise ComponentError(f"components.denoiser.attention: {error}") from None
    with torch.device("meta"):
        model = WanDiT(config)
    device, dtype = torch_device(spec.device), torch_dtype(spec.dtype)
    _try_attention(spec.attention, attention, config.head_dim, device, dtype)
    with Weights(layout.entries) as weights:
        fill(model, weights, path=path, device=device, dtype=dtype, keeps_fp32=keeps_fp32)
    return LocalDenoiser(files("denoiser", spec), model.eval(), device, attention)


def _try_attention(
    name: str, attention: Attention, head_dim: int, device: torch.device, dtype: torch.dtype
) -> None:
    """One small call, so that a kernel that does not run here costs no load and no encoding."""
    q = torch.zeros(1, 1, 64, head_dim, device=device, dtype=dtype)
    try:
        attention(q, q, q)
    except (RuntimeError, ImportError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ComponentError(
            f"components.denoiser.attention: {name!r} does not work on {device} in {dtype} ({reason}); "
            "`modiff doctor` lists what does"
        ) from None


def load_vae(spec: VAESpec) -> LocalVAE:
    path = locate("vae", spec.checkpoint)
    layout = lay_out(open_source(path))
    with torch.device("meta"):
        model = WanVAE(vae_config(path, layout))
    device = torch_device(spec.device)
    with Weights(layout.entries) as weights:
        fill(model, weights, path=path, device=device, dtype=torch_dtype(spec.dtype))
    return LocalVAE(
        files("vae", spec),
        model.channels_last().eval(),
        device,
        spec.chunk_frames,
        spec.tile_size,
        spec.tile_overlap,
    )


def vae_config(path: Path, layout: Layout) -> WanVAEConfig:
    """The configuration of a VAE, from its shapes. Raises CheckpointError where it is not a Wan 2.1 VAE."""
    try:
        return WanVAEConfig(
            dim=vae_dim({name: entry.shape for name, entry in layout.entries.items()})
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
