"""Blocks that are alike take alike: two of them are walked, and the others count as those did. So do the tiles of a
video that go through one autoencoder, each with a history of its own.

What a block makes and drops while it runs, it makes and drops on top of what is there when it begins. That is the same
for every block of a model whose parameters, and whose inputs, have the same sizes; what blocks give back counts for as
long as it is kept, and what grows from one to the next outside of them (blocks that are moved) is walked for each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.fit.count import Counting, Peak
from engine.models.diffusion.wandit import WanDiT
from engine.models.vae.wanvae import WanVAE

# Fewer are walked, each of them.
_WALKED = 2


@dataclass(frozen=True)
class _Walk:
    """risen: the most beyond what was there, by device. made: the tensors that it gives back, each as shape, strides,
    dtype and device. kept: what its history holds afterwards, in the same words."""

    risen: dict[torch.device, Peak]
    made: tuple[tuple[Any, ...], ...]
    kept: Mapping[Any, tuple[Any, ...]]


class _Alike:
    """One list of blocks. walks: what was seen of those that are the same to whoever counts bytes; None where they are
    not, or where something else than the result stays behind."""

    def __init__(self, counting: Counting) -> None:
        self.counting = counting
        self.walks: dict[Hashable, list[_Walk] | None] = {}

    def call(self, name: str, block: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        place = (_sizes(tuple(block.parameters())), _sizes(args), _sizes(tuple(kwargs.values())))
        walks = self.walks.setdefault(place, [])
        if walks is not None and len(walks) == _WALKED:
            return self._again(name, walks[-1], args)
        result, walk = self._walked(name, forward, args, kwargs)
        if walks is not None:
            is_like = walk is not None and all(each == walk for each in walks)
            self.walks[place] = [*walks, walk] if walk is not None and is_like else None
        return result

    def _walked(self, name: str, forward: Any, args: Any, kwargs: Any) -> tuple[Any, _Walk | None]:
        counting = self.counting
        before, peaks = dict(counting.now), counting.peaks
        held = _bytes_of(args)
        counting.begin()
        try:
            result = forward(*args, **kwargs)
        finally:
            here, counting.peaks = counting.peaks, peaks
            counting.rise(here)
        results = _several(result)
        if not _are_own(results, args):
            return result, None
        left = {device: now - before.get(device, 0) for device, now in counting.now.items()}
        for each in results:
            left[each.device] -= each.untyped_storage().nbytes()
        left[results[0].device] -= _bytes_of(args) - held
        if any(left.values()):
            return result, None
        risen = {
            device: Peak(
                peak.num_bytes - before.get(device, 0),
                peak.operation,
                peak.module.removeprefix(name),
            )
            for device, peak in here.items()
        }
        kept = {each: _size(tensor) for each, tensor in _history(args).items()}
        return result, _Walk(risen, tuple(map(_size, results)), kept)

    def _again(self, name: str, walk: _Walk, args: Any) -> Any:
        counting = self.counting
        counting.rise(
            {
                device: Peak(
                    counting.now[device] + peak.num_bytes, peak.operation, name + peak.module
                )
                for device, peak in walk.risen.items()
            }
        )
        history = _history(args)
        for each, size in walk.kept.items():
            if each not in history or _size(history[each]) != size:
                history[each] = _empty(size)
        made = tuple(map(_empty, walk.made))
        return made if len(made) > 1 else made[0]


@contextmanager
def repeated(model: nn.Module, counting: Counting, *, is_tiled: bool) -> Iterator[None]:
    """While it is entered, no more than two blocks of each list of a model are walked: for tensors without numbers.
    is_tiled: whether an autoencoder takes tiles, whose two halves are then called on their own."""
    with ExitStack() as stack:
        for function, named in _alike(model, is_tiled):
            alike = _Alike(counting)
            for name, block in named.items():
                setattr(block, function, _calling(alike, name, block, getattr(block, function)))
                stack.callback(delattr, block, function)
        yield


def _alike(model: nn.Module, is_tiled: bool) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Functions of modules by their names, in groups of those that may be alike."""
    if isinstance(model, WanVAE):
        yield "forward", {"encoder": model.encoder}
        for function in ("coarse", "fine") if is_tiled else ("forward",):
            yield function, {"decoder": model.decoder}
        return
    for path, blocks in model.named_modules():
        if isinstance(blocks, nn.ModuleList) and len({type(block) for block in blocks}) == 1:
            yield "forward", {f"{path}.{i}": block for i, block in enumerate(blocks)}
    if isinstance(model, WanDiT):
        names = [f"blocks.{i}.cross_attn" for i in range(len(model.blocks))]
        attending = {name: model.get_submodule(name) for name in names}
        yield "keys_values", attending
        if model.config.has_image_branch:
            yield "image_keys_values", attending


def _history(args: Any) -> dict[Any, Tensor]:
    """What a module keeps for its next call in a dict that it is given."""
    return next((each for each in args if isinstance(each, dict)), {})


def _bytes_of(args: Any) -> int:
    return sum(each.untyped_storage().nbytes() for each in _history(args).values())


def _empty(size: tuple[Any, ...]) -> Tensor:
    shape, stride, dtype, device = size
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _calling(alike: _Alike, name: str, block: nn.Module, function: Any) -> Any:
    return lambda *args, **kwargs: alike.call(name, block, function, args, kwargs)


def _several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _are_own(results: tuple[Any, ...], args: Any) -> bool:
    """Whether results are tensors, each with a storage of its own, all of which it takes."""
    taken = {each.untyped_storage()._cdata for each in args if isinstance(each, Tensor)}
    for each in results:
        if not isinstance(each, Tensor):
            return False
        storage = each.untyped_storage()
        is_whole = storage.nbytes() == each.numel() * each.element_size()
        if storage._cdata in taken or not is_whole:
            return False
        taken.add(storage._cdata)
    return True


def _sizes(given: Any) -> Hashable:
    """What of a block's arguments its memory depends on; of functions nothing, since they do the same for each."""
    if isinstance(given, Tensor):
        return _size(given)
    if isinstance(given, list | tuple):
        return tuple(map(_sizes, given))
    if isinstance(given, dict):
        return tuple((id(each), _size(tensor)) for each, tensor in given.items())
    if isinstance(given, int | str):
        return given
    return type(given).__name__


def _size(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
