"""Wan's diffusion transformer in this process, from files of any published layout. Torch comes in with `load`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from engine.checkpoints.held.holding import packed_matrices
from engine.checkpoints.known.configure import dit_config
from engine.checkpoints.known.recognise import recognise
from engine.checkpoints.locate import is_builtin, locate
from engine.checkpoints.opened import layout_at
from engine.components.memory import swapping
from engine.components.memory.halves import copies
from engine.components.memory.holding import holding_of
from engine.components.protocols import Conditions, Description
from engine.components.providers.files import absolute, checked_layout, description
from engine.errors import ComponentError
from engine.extensions.extension import Extension, active, needs_own_calls
from engine.fit.out_of_memory import is_out_of_memory
from engine.models.diffusion.config import conditions_of
from presets.spec.components import DenoiserSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from engine.checkpoints.known.expected import DiTShape
    from engine.checkpoints.library import Found
    from engine.graph import Plain
    from engine.models.attention import Attention
    from engine.models.diffusion.config import WanDiTConfig
    from engine.models.diffusion.wandit import Conditioning, WanDiT
    from engine.models.seams import At
    from store.index.index import Index

# the names of engine.models.attention.BACKENDS, repeated here because that module imports torch
ATTENTION_BACKENDS = ("plain", "sdpa", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "sage")

# of the positions that a model for a first and a last picture adds to the image encoder's tokens
TOKENS_A_PICTURE = 257

# Up to this many tokens both halves of the guidance go through the model in one batch: below it a call
# costs more in overhead than in arithmetic, above it the batch only doubles the working memory.
BATCHED_GUIDANCE_TOKENS = 2048


def describe(spec: DenoiserSpec, index: Index) -> Description:
    _check_attention(spec.attention)
    source, layout = checked_layout("denoiser", locate("denoiser", spec.checkpoint))
    config = dit_config(source, layout)
    files = source.files if source.config_file is None else (*source.files, source.config_file)
    facts: dict[str, Plain] = {
        "text_dim": config.text_dim,
        "latent_channels": config.out_dim,
        "patch_size": list(config.patch_size),
        "num_blocks": config.num_layers,
        "dim": config.dim,
        "model": "micro"
        if is_builtin(spec.checkpoint)
        else recognise(source, layout).variant or "",
    }
    return description(spec, index, layout, files, facts | facts_of_pictures(config))


def facts_of_pictures(sizes: WanDiTConfig | DiTShape) -> dict[str, Plain]:
    """What a model takes beside text: its task, and the sizes of the conditions that this adds."""
    takes = conditions_of(sizes.model_type, sizes.in_dim, sizes.out_dim)
    facts: dict[str, Plain] = {"takes": list(takes), "model_type": sizes.model_type}
    if "image" in takes:
        facts["image_dim"] = sizes.image_dim
    if sizes.model_type == "flf2v":
        facts["image_tokens"] = TOKENS_A_PICTURE
    if "latents" in takes:
        facts["given_channels"] = sizes.in_dim - sizes.out_dim
    return facts


def settle(spec: DenoiserSpec, scan: Callable[[], Sequence[Found]]) -> DenoiserSpec:
    """With absolute paths. Raises CheckpointError."""
    path = absolute(spec.checkpoint, lambda: locate("denoiser", spec.checkpoint, scan))
    return msgspec.structs.replace(spec, checkpoint=path)


def check_here(spec: DenoiserSpec) -> None:
    """Raises ComponentError where the attention backend, or quantised activations, do not run on a device of the
    spec."""
    from engine.dtypes import torch_device, torch_dtype

    source, layout = layout_at(locate("denoiser", spec.checkpoint))
    head_dim = dit_config(source, layout).head_dim
    for each in copies(spec):
        device = torch_device(each.device)
        _try_attention(spec.attention, head_dim, device, torch_dtype(spec.dtype))
        packed = packed_matrices(layout.entries, holding_of(spec), device.type).values()
        if spec.activations == "quantised" and not any(
            matrix.scheme.rounds_activations for matrix in packed
        ):
            raise ComponentError(
                f"got quantised, but {spec.quantise or 'these'} weights are not multiplied so on {device}; take plain, "
                "int8 weights or another device",
                key="components.denoiser.activations",
            )


def load(spec: DenoiserSpec, about: Description | None = None) -> WanDiT:
    """Raises ComponentError, CheckpointError."""
    import torch

    from engine.checkpoints.held.kept import kept
    from engine.checkpoints.held.packed import filling
    from engine.checkpoints.load import Weights
    from engine.dtypes import torch_device, torch_dtype
    from engine.models.diffusion.config import keeps_fp32
    from engine.models.diffusion.wandit import WanDiT

    path = locate("denoiser", spec.checkpoint)
    source, layout = layout_at(path)
    config = dit_config(source, layout)
    with torch.device("meta"):
        model = WanDiT(config)
    device, dtype = torch_device(spec.device), torch_dtype(spec.dtype)
    _try_attention(spec.attention, config.head_dim, device, dtype)  # before the weights are read
    entries, holding, in_use = kept(
        layout.entries, holding_of(spec), None if about is None else about.kept, device.type
    )
    with Weights(entries) as weights:
        of_file = filling(
            model,
            weights,
            holding,
            device.type,
            path=path,
            dtype=dtype,
            keeps_fp32=keeps_fp32,
        )
        work_bytes = None if about is None else about.work_bytes
        staying = swapping.staying(model, spec.resident_blocks, device, work_bytes)
        if len(staying) < config.num_layers:
            swapping.fill(model, staying, device, of_file, in_use)
        else:
            of_file.fill(device)
    return model.eval()


def use(model: WanDiT, spec: DenoiserSpec) -> LocalDenoiser:
    """Raises ComponentError where the attention backend does not run here."""
    from engine.dtypes import torch_device, torch_dtype

    device = torch_device(spec.device)
    attention = _try_attention(
        spec.attention, model.config.head_dim, device, torch_dtype(spec.dtype)
    )
    return LocalDenoiser(model, attention, device)


@dataclass(frozen=True)
class LocalDenoiser:
    model: WanDiT
    attention: Attention
    device: torch.device

    @property
    def told(self) -> str:
        """What is to be said once it is loaded."""
        swap = self.model.swap
        return "" if swap is None else swap.told

    @contextmanager
    def begin(
        self, branches: Mapping[str, Conditions], extensions: Sequence[Extension] = ()
    ) -> Iterator[LocalPredict]:
        """As of `Denoiser`."""
        with self.model.at_work():
            yield LocalPredict(self, branches, tuple(extensions))


@dataclass(frozen=True)
class LocalPredict:
    """See `Predict`."""

    denoiser: LocalDenoiser
    branches: Mapping[str, Conditions]
    extensions: tuple[Extension, ...]
    _prepared: dict[tuple[str, ...], Conditioning] = field(default_factory=dict)

    def __call__(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        import torch

        from engine.models.seams import around

        x = x.to(self.denoiser.device)
        now = active(self.extensions, ats[0].step, ats[0].total)
        with torch.no_grad():
            model = around(
                now, "model", lambda x, t, at: self._velocity(x, t, at, (at.branch,), now)
            )
            if len(ats) > 1 and self._is_batched(x, now):
                names = tuple(at.branch for at in ats)
                both = self._velocity(
                    x.repeat(len(ats), 1, 1, 1, 1),
                    timestep,
                    replace(ats[0], branch=""),
                    names,
                    now,
                )
                return list(both.chunk(len(ats)))
            if len(ats) > 1 and self._is_in_turns(now):
                return self._in_turns(x, timestep, ats, now)
            return [model(x, timestep, at) for at in ats]

    def _velocity(
        self, x: Tensor, timestep: Tensor, at: At, names: tuple[str, ...], now: Sequence[Extension]
    ) -> Tensor:
        return self.denoiser.model(
            x,
            timestep,
            self._conditioning(names),
            attention=self.denoiser.attention,
            extensions=now,
            at=at,
        )

    def _in_turns(
        self, x: Tensor, timestep: Tensor, ats: Sequence[At], now: Sequence[Extension]
    ) -> list[Tensor]:
        return self.denoiser.model.in_turns(
            x,
            timestep,
            [self._conditioning((at.branch,)) for at in ats],
            attention=self.denoiser.attention,
            extensions=now,
            ats=ats,
        )

    def _conditioning(self, names: tuple[str, ...]) -> Conditioning:
        """Of some branches in one batch. Where each goes by itself, all are prepared with the first of them: blocks
        that are swapped come once for all."""
        if names not in self._prepared:
            several = [names] if len(names) > 1 else [(name,) for name in self.branches]
            made = self.denoiser.model.prepare_each([self._stacked(each) for each in several])
            self._prepared.update(zip(several, made, strict=True))
        return self._prepared[names]

    def _stacked(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        import torch

        # each by itself: what was just encoded is on its encoder's device, what was stored on the CPU
        branches = [
            {name: tensor.to(self.denoiser.device) for name, tensor in self.branches[each].items()}
            for each in names
        ]
        # rows of zeros are what the published pipeline pads prompts with
        text = torch.nn.utils.rnn.pad_sequence(
            [each["text"] for each in branches], batch_first=True
        )
        others = branches[0].keys() - {"text"}
        return {"text": text} | {
            name: torch.stack([each[name] for each in branches]) for name in others
        }

    def _is_in_turns(self, now: Sequence[Extension]) -> bool:
        """Each block once for all branches: where blocks come for it, and nothing wraps more of them than one."""
        is_wrapped = any(hasattr(type(each), seam) for each in now for seam in ("model", "blocks"))
        return self.denoiser.model.swap is not None and not is_wrapped

    def _is_batched(self, x: Tensor, now: Sequence[Extension]) -> bool:
        """One call for all branches: where that pays, and nothing tells the branches apart."""
        patch = self.denoiser.model.config.patch_size
        sizes = [size // step for size, step in zip(x.shape[2:], patch, strict=True)]
        return math.prod(sizes) <= BATCHED_GUIDANCE_TOKENS and not needs_own_calls(now)


def _check_attention(name: str) -> None:
    if name not in ATTENTION_BACKENDS:
        raise ComponentError(
            f"unknown backend {name!r}; known: {', '.join(ATTENTION_BACKENDS)}",
            key="components.denoiser.attention",
        )
    if name == "sage" and importlib.util.find_spec("sageattention") is None:
        raise ComponentError(
            "'sage' needs the package sageattention; "
            "pip install 'modiff[sage]' on a CUDA machine, or choose sdpa",
            key="components.denoiser.attention",
        )


def _try_attention(name: str, head_dim: int, device: torch.device, dtype: torch.dtype) -> Attention:
    """The backend after one small call, so that a kernel that does not run here costs no load and no encoding."""
    import torch

    from engine.models.attention import get_attention

    try:
        attention = get_attention(name)
    except ValueError as error:
        raise ComponentError(str(error), key="components.denoiser.attention") from None
    q = torch.zeros(1, 1, 64, head_dim, device=device, dtype=dtype)
    try:
        attention(q, q, q)
    except (RuntimeError, ImportError, ValueError, AssertionError, TypeError) as error:
        if is_out_of_memory(error):  # it would work if there were some
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ComponentError(
            f"{name!r} does not work on {device} in {dtype} ({reason}); "
            "`modiff doctor` lists what does",
            key="components.denoiser.attention",
        ) from None
    return attention
