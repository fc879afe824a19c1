"""Blocks that are alike take alike: two of them are walked, and the others count as those did. So do the tiles of a
video that go through one autoencoder, each with a history of its own.

What a block makes and drops while it runs, it makes and drops on top of what is there when it begins. That is the same
for every block of a model whose parameters, and whose inputs, have the same sizes; what blocks leave behind, and what
grows from one to the next outside of them (keys and values of the text, blocks that are moved), is walked for each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.fit.count import Counting, Peak
from engine.models.vae.wanvae import WanVAE

# Fewer are walked, each of them.
_WALKED = 2


@dataclass(frozen=True)
class _Walk:
    """risen: the most beyond what was there, by device. made: what it gives back, as shape, strides, dtype and
    device. kept: what its history holds afterwards, in the same words."""

    risen: dict[torch.device, Peak]
    made: tuple[Any, ...]
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
        if not _is_own(result, args):
            return result, None
        left = {device: now - before.get(device, 0) for device, now in counting.now.items()}
        left[result.device] -= result.untyped_storage().nbytes() + _bytes_of(args) - held
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
        return result, _Walk(risen, _size(result), kept)

    def _again(self, name: str, walk: _Walk, args: Any) -> Tensor:
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
        return _empty(walk.made)


@contextmanager
def repeated(model: nn.Module, counting: Counting) -> Iterator[None]:
    """While it is entered, no more than two blocks of each list of a model are walked: for tensors without numbers."""
    changed: list[nn.Module] = []
    for named in _alike(model):
        alike = _Alike(counting)
        for name, block in named.items():
            block.forward = _calling(alike, name, block)
            changed.append(block)
    try:
        yield
    finally:
        for block in changed:
            del block.forward


def _alike(model: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """Modules by their names, in groups of those that may be alike."""
    if isinstance(model, WanVAE):
        yield {"encoder": model.encoder}
        yield {"decoder": model.decoder}
        return
    for path, blocks in model.named_modules():
        if isinstance(blocks, nn.ModuleList) and len({type(block) for block in blocks}) == 1:
            yield {f"{path}.{i}": block for i, block in enumerate(blocks)}


def _history(args: Any) -> dict[Any, Tensor]:
    """What a module keeps for its next call in a dict that it is given."""
    return next((each for each in args if isinstance(each, dict)), {})


def _bytes_of(args: Any) -> int:
    return sum(each.untyped_storage().nbytes() for each in _history(args).values())


def _empty(size: tuple[Any, ...]) -> Tensor:
    shape, stride, dtype, device = size
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def _calling(alike: _Alike, name: str, block: nn.Module) -> Any:
    forward = block.forward
    return lambda *args, **kwargs: alike.call(name, block, forward, args, kwargs)


def _is_own(result: Any, args: Any) -> bool:
    """Whether a result is one tensor with a storage of its own, all of which it takes."""
    if not isinstance(result, Tensor):
        return False
    storage = result.untyped_storage()
    given = {each.untyped_storage()._cdata for each in args if isinstance(each, Tensor)}
    return (
        storage._cdata not in given and storage.nbytes() == result.numel() * result.element_size()
    )


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
