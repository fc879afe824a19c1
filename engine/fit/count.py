"""Bytes that are alive, by device, as operations make and drop them: of fake tensors as of real ones."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Peak:
    """The most bytes that were alive on a device at one time. operation: what made the last of them, "" where they
    were there before; module: within which part of the model, "" outside of it."""

    num_bytes: int
    operation: str = ""
    module: str = ""


class Counting(TorchDispatchMode):
    """While it is entered, every storage that an operation makes counts from then until it is freed.

    Seen is what operations give back, not what a kernel takes and frees within itself. What asks for the value of a
    tensor is answered by "yes" and by one: fake tensors have none, and no amount of memory depends on it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: dict[torch.device, int] = defaultdict(int)
        self.peaks: dict[torch.device, Peak] = {}
        self._alive: dict[int, tuple[weakref.ref[Any], torch.device, int]] = {}
        self._modules: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # its decorator imports half of torch
        return False

    def begin(self) -> None:
        """From here on peaks are counted anew, from what is alive now."""
        self.peaks = {device: Peak(num_bytes) for device, num_bytes in self.now.items()}

    def rise(self, peaks: Mapping[torch.device, Peak]) -> None:
        """Takes the peaks of a part into account."""
        for device, peak in peaks.items():
            if peak.num_bytes > self.peaks.get(device, Peak(0)).num_bytes:
                self.peaks[device] = peak

    def include(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that were made before."""
        for tensor in tensors:
            self._add(tensor, "")

    @contextmanager
    def named(self, model: nn.Module) -> Iterator[None]:
        """The modules of a model by their names, for peaks within them."""
        handles = []
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._entering(name)))
                handles.append(module.register_forward_hook(self._leaving, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return _yes(args[0].dtype)
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                self._add(tensor, func.__name__.partition(".")[0])
        return result

    def _add(self, tensor: Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place in self._alive or tensor.device.type == "meta":
            return
        device, num_bytes = tensor.device, storage.nbytes()
        gone = weakref.ref(storage, lambda _: self._drop(place))
        self._alive[place] = (gone, device, num_bytes)
        self.now[device] += num_bytes
        if self.now[device] > self.peaks.get(device, Peak(0)).num_bytes:
            within = self._modules[-1] if self._modules else ""
            self.peaks[device] = Peak(self.now[device], operation, within)

    def _drop(self, place: int) -> None:
        _, device, num_bytes = self._alive.pop(place)
        self.now[device] -= num_bytes

    def _entering(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._modules.append(name)

        return enter

    def _leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self._modules.pop()


class Elsewhere(TorchFunctionMode):
    """For fake tensors on a device that need not be here. Attention and RMS norms are as fused kernels have them; torch
    without a GPU would write them out, with all scores and squares. And what would ask the device itself
    before it does anything does it in another way."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].device.type != "cpu":
            if func is F.scaled_dot_product_attention:
                return fused(*args[:3])
            if func is F.rms_norm or func is torch.rms_norm:
                return _normalised(args[0])
            if func in _ASKING:
                return _ASKING[func]
            if func is Tensor.copy_:
                return torch.ops.aten.copy_.default(*args, **(kwargs or {}))
            if func is Tensor.contiguous:
                return _contiguous(*args, **(kwargs or {}))
            if func is Tensor.__getitem__ and _is_plain(args[1]):
                return _indexed(*args)
            if func is Tensor.__setitem__ and _is_plain(args[1]) and isinstance(args[2], Tensor):
                return torch.ops.aten.copy_.default(_indexed(*args[:2]), args[2])
        return func(*args, **(kwargs or {}))


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k [B,heads,N,D], v [B,heads,M,D'] -> [B,heads,N,D'], as fused kernels have it: the result, tokens before
    heads, and a number for each row."""
    batch, heads, rows, _ = q.shape
    found = q.new_empty(batch, rows, heads, v.shape[-1])
    q.new_empty(batch, heads, rows, dtype=torch.float32)
    return found.transpose(1, 2)


def _normalised(x: Tensor) -> Tensor:
    """As the fused kernel has it: the result and a number for each row."""
    x.new_empty(x.shape[:-1], dtype=torch.float32)
    return torch.empty_like(x)


def sage(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `fused`, with what SageAttention takes beside it: q and k in 8 bits and v in 16."""
    held = [torch.empty_like(each, dtype=torch.int8) for each in (q, k)]
    held.append(torch.empty_like(v, dtype=torch.float16))
    return fused(q, k, v)


def _yes(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


_ASKING: dict[Any, bool | int | float] = {
    Tensor.__bool__: True,
    Tensor.__int__: 1,
    Tensor.__float__: 1.0,
}


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    is_so = x.is_contiguous(memory_format=memory_format)
    return x if is_so else x.clone(memory_format=memory_format)


def _is_plain(index: Any) -> bool:
    wanted = index if isinstance(index, tuple) else (index,)
    return all(each is None or each is ... or isinstance(each, int | slice) for each in wanted)


def _indexed(x: Tensor, index: Any) -> Tensor:
    """x[index], for numbers, slices, None and the ellipsis."""
    wanted = index if isinstance(index, tuple) else (index,)
    axis = 0
    for place, each in enumerate(wanted):
        if each is ...:
            axis = x.dim() - sum(later is not None for later in wanted[place + 1 :])
        elif each is None:
            x = x.unsqueeze(axis)
            axis += 1
        elif isinstance(each, slice):
            step = each.step or 1
            x = torch.ops.aten.slice.Tensor(x, axis, each.start, each.stop, step)
            axis += 1
        else:
            x = x.select(axis, each)
    return x
