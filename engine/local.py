"""Components that run in this process, built from safetensors files with the published original names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.checkpoints.fingerprint import fingerprint
from engine.checkpoints.header import TensorInfo, read_header
from engine.checkpoints.locate import locate
from engine.checkpoints.weights import fill
from engine.dtypes import torch_device, torch_dtype
from engine.errors import CheckpointError, ComponentError
from engine.models.attention import Attention, get_attention
from engine.models.diffusion.wandit import Conditioning, WanDiT, WanDiTConfig, keeps_fp32
from engine.models.vae.wanvae import WanVAE, WanVAEConfig
from engine.prompt import load_tokenizer
from engine.registry import files, tokenizer_of
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

    @property
    def latent_channels(self) -> int:
        return self.model.config.out_dim

    def fingerprint(self) -> str:
        return fingerprint(self.files)

    @torch.no_grad()
    def prepare(self, contexts: Sequence[Tensor]) -> Conditioning:
        # rows of zeros are what the published pipeline pads prompts with
        batch = torch.nn.utils.rnn.pad_sequence(list(contexts), batch_first=True)
        return self.model.prepare(batch.to(self.device))

    @torch.no_grad()
    def velocity(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return self.model(latents, timestep, conditioning)


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
    shapes = {name: info.shape for name, info in read_header(path).items()}
    try:
        config = t5.config_from_shapes(shapes)
        tokenize = load_tokenizer(
            locate("tokenizer", tokenizer_of(spec.checkpoint, spec.tokenizer))
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with torch.device("meta"):
        model = t5.build(config)
    fill(
        model,
        path,
        device=torch_device(spec.device),
        dtype=torch_dtype(spec.dtype),
        rename=t5.to_huggingface_name,
        ignore=("encoder.embed_tokens.weight",),
    )
    return LocalTextEncoder(files("text_encoder", spec), t5.UMT5(model, tokenize))


def load_denoiser(spec: DenoiserSpec) -> LocalDenoiser:
    path = locate("denoiser", spec.checkpoint)
    config = dit_config(path, read_header(path))
    if config.model_type != "t2v":
        raise ComponentError(
            f"{path}: an image-to-video model ({config.model_type}); this task needs a t2v one"
        )
    try:
        attention = get_attention(spec.attention)
    except ValueError as error:
        raise ComponentError(f"components.denoiser.attention: {error}") from None
    with torch.device("meta"):
        model = WanDiT(config, attention=attention)
    device, dtype = torch_device(spec.device), torch_dtype(spec.dtype)
    _try_attention(spec.attention, attention, config.head_dim, device, dtype)
    fill(model, path, device=device, dtype=dtype, keeps_fp32=keeps_fp32)
    return LocalDenoiser(files("denoiser", spec), model.eval(), device)


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
    with torch.device("meta"):
        model = WanVAE(vae_config(path, read_header(path)))
    device = torch_device(spec.device)
    fill(model, path, device=device, dtype=torch_dtype(spec.dtype))
    return LocalVAE(
        files("vae", spec),
        model.channels_last().eval(),
        device,
        spec.chunk_frames,
        spec.tile_size,
        spec.tile_overlap,
    )


def dit_config(path: Path, header: Mapping[str, TensorInfo]) -> WanDiTConfig:
    """The configuration of a DiT file: its `config.json` where one lies beside it, else from its shapes.

    Raises CheckpointError where it is not a Wan DiT or config.json is damaged.
    """
    file = path.with_name("config.json")
    if file.is_file():
        config = _published_config(file)
        if config is not None:
            return config
    try:
        dim, in_dim, *patch = header["patch_embedding.weight"].shape
        patch_size = (patch[0], patch[1], patch[2])
        return WanDiTConfig(
            model_type="t2v" if "img_emb.proj.0.weight" not in header
            else "flf2v" if "img_emb.emb_pos" in header else "i2v",
            patch_size=patch_size,
            in_dim=in_dim,
            dim=dim,
            ffn_dim=header["blocks.0.ffn.0.weight"].shape[0],
            freq_dim=header["time_embedding.0.weight"].shape[1],
            text_dim=header["text_embedding.0.weight"].shape[1],
            out_dim=header["head.head.weight"].shape[0] // (patch[0] * patch[1] * patch[2]),
            num_heads=dim // 128,  # every published model has heads of 128
            num_layers=len({name.split(".")[1] for name in header if name.startswith("blocks.")}),
        )  # fmt: skip
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: not a Wan DiT with the published names ({error})") from None


def _published_config(file: Path) -> WanDiTConfig | None:
    """What a config.json says; None where it is not the published kind but some other program's."""
    known = {field.name for field in fields(WanDiTConfig)}
    try:
        table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not {"dim", "ffn_dim", "num_heads", "num_layers"} <= table.keys():
            return None
        values = {name: value for name, value in table.items() if name in known}
        if "patch_size" in values:
            values["patch_size"] = tuple(values["patch_size"])
        return WanDiTConfig(**values)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError, OSError) as error:
        raise CheckpointError(f"{file}: not the configuration of a Wan DiT ({error})") from None


def vae_config(path: Path, header: Mapping[str, TensorInfo]) -> WanVAEConfig:
    """The configuration of a VAE file, from its shapes. Raises CheckpointError where it is not a Wan VAE."""
    try:
        dim = header["encoder.conv1.weight"].shape[0]
        z_dim = header["conv2.weight"].shape[0]
        return WanVAEConfig(dim=dim, z_dim=z_dim)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: not a Wan VAE with the published names (no tensor {error.args[0]})"
        ) from None
    except ValueError:
        raise CheckpointError(
            f"{path}: a VAE with {z_dim} latent channels, expected the 16 of Wan 2.1"
        ) from None
