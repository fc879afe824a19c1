"""Components without weights: the modules that a run loads, with parameters of the right sizes, dtypes and devices
that hold nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.checkpoints.held.holding import Packed, is_large, packed_matrices, rounded
from engine.checkpoints.held.packed import pack
from engine.checkpoints.known import catalogue, configure, expected
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.components.memory import swapping
from engine.components.memory.holding import holding_of
from engine.components.providers.clip import LocalImageEncoder
from engine.components.providers.taehv import LocalTAEHV
from engine.components.providers.wan_dit import LocalDenoiser
from engine.components.providers.wan_vae import LocalVAE, vae_config
from engine.dtypes import torch_dtype
from engine.errors import CheckpointError
from engine.fit import count
from engine.fit.hollow import Hollow
from engine.models.attention import get_attention
from engine.models.diffusion.config import keeps_fp32
from engine.models.diffusion.wandit import WanDiT
from engine.models.image_encoders.clip import CLIP
from engine.models.image_encoders.config import CLIPConfig
from engine.models.quantised.scheme import Scheme
from engine.models.swap.sources import Nothing
from engine.models.swap.swap import Swap
from engine.models.text_encoders import t5
from engine.models.vae.taehv import TAEHV
from engine.models.vae.wanvae import WanVAE, WanVAEConfig

if TYPE_CHECKING:
    from engine.checkpoints.layout import Layout
    from engine.checkpoints.source import Source
    from engine.models.diffusion.wandit import Conditioning, Conditions

Empty = Callable[..., Tensor]
"""As `torch.empty_strided`."""

NUM_TOKENS = 512
"""Of a prompt: as many as the text encoder reads of any. What a run needs is told for all prompts at once."""


def built(kind: str, part: Any) -> nn.Module:
    """The model of a component's spec on the meta device, from the headers of its files or, where they are not here,
    from what is published under its name. Raises CheckpointError."""
    return _twin(_template(*_BUILT[kind](part)))


@cache
def _template(make: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Not to be changed."""
    with torch.device("meta"), Hollow(), _NoNumbers():
        return make(config)


def _twin(model: nn.Module) -> nn.Module:
    """Modules of their own over the same parameters, a hundredth of the work of making them anew."""
    found = copy(model)
    for name, value in vars(model).items():
        if isinstance(value, dict):
            setattr(found, name, value.copy())
    found._modules = {
        name: None if each is None else _twin(each) for name, each in model._modules.items()
    }
    return found


def held(model: nn.Module, kind: str, part: Any, device: torch.device) -> nn.Module:
    """A model of the meta device with its parameters as a spec has them held on `device`: in its dtype or in
    fp32, and packed. They stay on the meta device."""
    dtype = torch_dtype(part.dtype)
    for name, parameter in list(model.named_parameters()):
        is_kept = kind == "denoiser" and keeps_fp32(name)
        _put(model, name, parameter, torch.float32 if is_kept else dtype, parameter.device)
    pack(model, _packed(model, kind, part, device.type))
    return model.eval()


def placed(model: nn.Module, part: Any, device: torch.device, empty: Empty) -> nn.Module:
    """A model that is `held`, with parameters on `device` made by `empty`, but for blocks that come into slots."""
    stay = _staying(model, part, device)
    for name, parameter in list(model.named_parameters()):
        if _is_there(name, stay):
            _put(model, name, parameter, parameter.dtype, device, empty)
    if stay is not None:
        model.swap = Swap(model.blocks, stay, device, Nothing())  # type: ignore[arg-type,assignment]
    return model


def _put(
    model: nn.Module,
    name: str,
    like: Tensor,
    dtype: torch.dtype,
    device: torch.device,
    empty: Empty = torch.empty_strided,
) -> None:
    made = empty(like.shape, like.stride(), dtype=dtype, device=device)
    owner, _, leaf = name.rpartition(".")
    model.get_submodule(owner)._parameters[leaf] = _parameter(made)


def _parameter(tensor: Tensor) -> nn.Parameter:
    if type(tensor) is Tensor:
        return nn.Parameter(tensor, requires_grad=False)
    # as `nn.Parameter` marks what is of a class of its own, but without a copy of it
    tensor._is_param = True  # type: ignore[attr-defined]
    return cast("nn.Parameter", tensor)


def _packed(model: nn.Module, kind: str, part: Any, device_type: str) -> Mapping[str, Packed]:
    """The weights that are packed on a device: as they are in their files or, of a published model that is not here, as
    they are rounded."""
    holding = holding_of(part)
    _, opened = _opened(kind, part)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if opened is not None:
        packed = packed_matrices(opened[1].entries, holding, device_type)
        return {name: each for name, each in packed.items() if name in shapes}
    if not (holding.quantise and holding.unpacks_at_call(device_type)):
        return {}
    found = {
        name: rounded(shape, holding.quantise)
        for name, shape in shapes.items()
        if is_large(name, shape)
    }
    scheme = Scheme(block=(1, 0), rounds_activations=holding.rounds_activations)
    return {name: replace(each, scheme=scheme) for name, each in found.items()}


def _staying(model: nn.Module, part: Any, device: torch.device) -> frozenset[int] | None:
    """The blocks that stay on a device, None where all do. "auto" has all stay on one that is not here."""
    setting = getattr(part, "resident_blocks", "all")
    is_absent = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if setting == "all" or (setting == "auto" and is_absent):
        return None
    found = swapping.staying(cast("WanDiT", model), setting, device)
    return None if len(found) == len(cast("WanDiT", model).blocks) else found


def _is_there(name: str, stay: frozenset[int] | None) -> bool:
    first, _, rest = name.partition(".")
    return stay is None or first != "blocks" or int(rest.partition(".")[0]) in stay


def component(model: Any, kind: str, part: Any, device: torch.device) -> Any:
    """What stages are given: the component of a model that is `placed`. Its environment is told already, because a
    device that is not here cannot be asked for its name."""
    if kind == "text_encoder":
        return _Told(t5.UMT5(model, lambda prompt: [0] * NUM_TOKENS))
    if kind == "image_encoder":
        return _Told(LocalImageEncoder(model, device, part.fit))
    if kind == "vae" and part.name == "taehv":
        return _Told(LocalTAEHV(model, part.chunk_frames))
    if kind == "vae":
        options = part.chunk_frames, part.tile_size, part.tile_overlap
        return _Told(LocalVAE(model, device, *options))
    attention = count.sage if part.attention == "sage" else get_attention(part.attention)
    return _Told(LocalDenoiser(_WithLengths(model), attention, device))  # type: ignore[arg-type]


def weights_of(model: nn.Module) -> dict[torch.device, int]:
    """The bytes of a model's parameters, by device."""
    found: dict[torch.device, int] = {}
    for parameter in model.parameters():
        found[parameter.device] = (
            found.get(parameter.device, 0) + parameter.untyped_storage().nbytes()
        )
    return found


class _NoNumbers(TorchFunctionMode):
    """Leaves out what gives parameters their first numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


class _Told:
    """A component whose environment is told."""

    environment = "{}"

    def __init__(self, component: Any) -> None:
        self._component = component

    def __getattr__(self, name: str) -> Any:
        return getattr(self._component, name)


class _WithLengths:
    """A transformer that is told how many rows its prompts have, and need not look at numbers for it."""

    def __init__(self, model: WanDiT) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        found: Tensor = self._model(*args, **kwargs)
        return found

    def prepare_each(self, several: Sequence[Conditions]) -> list[Conditioning]:
        shapes = [conditions["text"].shape for conditions in several]
        lengths = [torch.full((batch,), rows) for batch, rows, _ in shapes]
        return self._model.prepare_each(several, lengths=lengths)


Recipe = tuple[Callable[[Any], nn.Module], Any]
"""What makes a model, and of what."""


def _umt5(part: Any) -> Recipe:
    shape = _by_shapes("text_encoder", part, expected.umt5_shape, expected.UMT5Shape())
    return t5.build, t5.UMT5Config(**asdict(shape))


def _clip(part: Any) -> Recipe:
    return CLIP, _by_shapes("image_encoder", part, configure.clip_config, CLIPConfig())


def _vae(part: Any) -> Recipe:
    if part.name == "taehv":
        return _taehv, None
    path, opened = _opened("vae", part)
    return _wan_vae, WanVAEConfig() if opened is None else vae_config(path, opened[1])


def _taehv(config: None) -> nn.Module:
    return TAEHV()


def _wan_vae(config: WanVAEConfig) -> nn.Module:
    return WanVAE(config).channels_last()


def _dit(part: Any) -> Recipe:
    _, opened = _opened("denoiser", part)
    if opened is not None:
        return WanDiT, configure.dit_config(*opened)
    model = catalogue.model(part.checkpoint, "denoiser")
    assert model is not None
    return WanDiT, configure.published_config(expected.PUBLISHED[model.variants[-1]])


_BUILT: dict[str, Callable[[Any], Recipe]] = {
    "text_encoder": _umt5,
    "image_encoder": _clip,
    "denoiser": _dit,
    "vae": _vae,
}


def _by_shapes(kind: str, part: Any, read: Callable[[expected.Shapes], Any], published: Any) -> Any:
    _, opened = _opened(kind, part)
    if opened is None:
        return published
    return read({name: entry.shape for name, entry in opened[1].entries.items()})


def _opened(kind: str, part: Any) -> tuple[Any, tuple[Source, Layout] | None]:
    """(path, what is there) of a component's file, None where it is not here but published. Raises CheckpointError."""
    try:
        path = locate(kind, part.checkpoint)
    except CheckpointError:
        if catalogue.model(part.checkpoint, kind) is None:
            raise
        return None, None
    return path, layout_at(path)
