"""Devices that are not here, with numbers: tensors that say they are on one and compute on the CPU.

Whatever a GPU refuses is refused: operands on two devices, memory read from elsewhere, numbers in a format that the
device has not. Since every operation is the CPU's own, a run comes to the same bits wherever its parts are said to
run; where it does not, something depends on a device that must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engine.models.swap.transfers import OneStream

CARDS = 2
_PRETENDED = ("cuda", "mps")
# that move numbers from one device to another
_MOVING = {Tensor.copy_, Tensor.to, Tensor.cpu, Tensor.__setitem__}
_ON_THE_CPU = {Tensor.numpy, Tensor.data_ptr, Tensor.__array__, Tensor.tolist}
# the same wherever a tensor is
_FACTS = {
    *(Tensor.shape, Tensor.dtype, Tensor.requires_grad, Tensor.layout, Tensor.ndim, Tensor.is_meta),
    *(
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
        Tensor.stride,
        Tensor.is_contiguous,
        Tensor.element_size,
    ),
    *(Tensor.is_floating_point, Tensor.is_complex, Tensor.storage_offset),
}
_Generator = torch.Generator


class Pretended(Tensor):
    """A tensor that is said to be on another device than the CPU."""

    on: torch.device

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__self__", None) in _FACTS or func in _FACTS:
            with torch._C.DisableTorchFunction():
                return func(*args)
        return _computed(func, args, kwargs or {})


class PretendedGenerator(_Generator):
    """A generator that is said to be on a device."""

    on: torch.device

    def __new__(cls, device: Any = "cpu") -> PretendedGenerator:
        made = super().__new__(cls)
        made.on = _concrete(torch.device(device))
        return made


class _Factories(TorchFunctionMode):
    """For what is made on a device, or moved to it, of no tensor that is there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        is_mine = isinstance(named.get("generator"), PretendedGenerator)
        if not (types or is_mine):
            wanted = _named(func, args, named)
            is_mine = wanted is not None and wanted.type in _PRETENDED
        return _computed(func, args, named) if is_mine else func(*args, **named)


@contextmanager
def pretended(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with two cards and Apple's GPU."""
    facts = SimpleNamespace(total_memory=1 << 40)
    for name, answer in {
        "is_available": True,
        "device_count": CARDS,
        "current_device": 1,
        "get_device_properties": facts,
        "get_device_name": "pretended",
        "get_device_capability": (0, 0),
        "mem_get_info": (facts.total_memory, facts.total_memory),
        "memory_allocated": 0,
        "memory_reserved": 0,
        "empty_cache": None,
    }.items():
        patch.setattr(torch.cuda, name, partial(_answer, answer))
    # queues of work on a card have tests of their own
    patch.setattr("engine.models.swap.sources.streams_of", lambda device: OneStream())
    patch.setattr("engine.models.swap.sources.pin", lambda memory: lambda: None)
    patch.setattr(torch.backends.mps, "is_available", lambda: True)
    patch.setattr(torch, "Generator", PretendedGenerator)
    with ExitStack() as stack:
        stack.enter_context(_Factories())
        # a mode is one thread's own
        executor = partial(ThreadPoolExecutor, initializer=lambda: _Factories().__enter__())
        patch.setattr("engine.components.memory.halves.ThreadPoolExecutor", executor)
        yield


def _answer(answer: Any, *args: Any) -> Any:
    return answer


def device_of(tensor: Tensor) -> torch.device:
    return tensor.on if isinstance(tensor, Pretended) else torch.device("cpu")


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunction():
        return _checked(func, args, kwargs)


def _checked(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if getattr(func, "__self__", None) is Tensor.device:
        return device_of(args[0])
    if getattr(func, "__self__", None) is Tensor.is_cuda:
        return device_of(args[0]).type == "cuda"
    if getattr(func, "__self__", None) is Tensor.data and len(args) == 2:
        args[0].on = device_of(args[1])
        return func(args[0], _inner(args[1]))
    leaves = list(_leaves((args, kwargs)))
    tensors = [each for each in leaves if isinstance(each, Tensor)]
    # a number is taken from the CPU by every device
    here = {device_of(each) for each in tensors if each.dim()} or {*map(device_of, tensors)}
    wanted = _named(func, args, kwargs)
    if func in _ON_THE_CPU:
        raise TypeError(f"{_name(func)}: memory of {here} is not the CPU's")
    is_indexed = func is Tensor.__setitem__ and any(isinstance(i, Tensor) for i in _leaves(args[1]))
    if len(here) > 1 and (func not in _MOVING or is_indexed):
        raise RuntimeError(f"{_name(func)}: expected all tensors on one device, got {here}")
    for each in leaves:
        if isinstance(each, PretendedGenerator) and each.on != (wanted or torch.device("cpu")):
            raise RuntimeError(f"a generator of {each.on} draws on {wanted}")
    inner, named = _mapped(_inner, (args, kwargs))
    result = func(*inner, **named)
    if func is Tensor.copy_ or (inner and result is inner[0]):
        return args[0] if wanted in (None, device_of(args[0])) else _put(wanted, result.clone())
    on = wanted or (next(iter(here)) if here else torch.device("cpu"))
    return _mapped(partial(_put, on), result)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, tuple | list):
        yield value
        return
    for each in value:
        yield from _leaves(each)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(change, each) for name, each in value.items()}
    if isinstance(value, list):
        return [_mapped(change, each) for each in value]
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        return tuple(_mapped(change, each) for each in value)
    return change(value)


def _inner(value: Any) -> Any:
    """Of an argument what the CPU takes."""
    if isinstance(value, Pretended):
        return value.as_subclass(Tensor)
    is_device = isinstance(value, torch.device) and value.type in _PRETENDED
    is_name = isinstance(value, str) and value.partition(":")[0] in _PRETENDED
    return torch.device("cpu") if is_device or is_name else value


def _put(device: torch.device, value: Any) -> Any:
    if not isinstance(value, Tensor) or device.type == "cpu":
        return value
    if device.type == "mps" and value.dtype in (torch.float64, torch.complex128):
        raise TypeError(f"Apple's GPU has no {value.dtype}")
    found = value.as_subclass(Pretended)
    found.on = device
    return found


def _named(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for."""
    if func is Tensor.cpu:
        return torch.device("cpu")
    given = kwargs.get("device")
    if given is None and func is Tensor.to:
        given = next((each for each in args[1:] if isinstance(each, str | torch.device)), None)
        if given is None and len(args) > 1 and isinstance(args[1], Tensor):
            return device_of(args[1])
    return None if given is None else _concrete(torch.device(given))


def _concrete(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _name(func: Any) -> str:
    return getattr(func, "__name__", str(func))
