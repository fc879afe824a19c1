"""Tensors with a size, a dtype and a device that need not be here, and no numbers.

As torch's `FakeTensorMode` has them, of whose way with dispatch keys this is the least that models need: no symbolic
sizes, no cache that hashes each call, no import of half a second. An operation takes a tenth of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.fit.sizes import Size, is_written, size_of

_META = torch.device("meta")
_CPU = torch.device("cpu")
_aten = torch.ops.aten

# Between devices, or with what tells places on the CPU.
_ACROSS = frozenset(
    {
        _aten.copy_.default,
        _aten._to_copy.default,
        _aten.index.Tensor,
        _aten.index_put.default,
        _aten.index_put_.default,
    }
)


class HollowTensor(Tensor):
    """at: the device that it is on."""

    at: torch.device

    @staticmethod
    def __new__(cls, meta: Tensor, at: torch.device) -> HollowTensor:
        found: HollowTensor = Tensor._make_subclass(  # type: ignore[attr-defined]
            cls, meta, False, dispatch_device=True, device_for_backend_keys=at
        )
        found.at = at
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _META if torch._C._meta_in_tls_dispatch_include() else self.at

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


class Hollow(TorchDispatchMode):
    """While it is entered, every tensor that an operation makes is hollow."""

    # in the place of torch's own such mode, under which it does not look for devices
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # its decorator imports half of torch
        return False

    def __enter__(self) -> Hollow:
        # `torch.tensor` makes its numbers on the CPU, and must not look for the device
        torch._C._ensureCUDADeviceGuardSet()
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    if func is torch.ops.prim.device.default:
        return args[0].device
    device = _device_of(func, args)
    if _takes_device(func):
        device = torch.device(kwargs.get("device") or device)
        if device.type != "cpu" and device.index is None:
            device = torch.device(device.type, 0)
        kwargs = {**kwargs, "device": _META, "pin_memory": None}
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if is_written(func) and isinstance(args[0], HollowTensor):
        return args[0]
    args = [_without_numbers(each) for each in args]
    size = size_of(func, args, kwargs)
    if isinstance(size, list):
        return [_of_size(each, device) for each in size]
    if size is not None:
        return _of_size(size, device)
    with _as_meta():
        found = _OURS.get(func, func)(*args, **kwargs)
    if isinstance(found, Tensor):
        return _hollow(found, device)
    if isinstance(found, list | tuple):
        return type(found)(_hollow(each, device) for each in found)
    return found


def empty(
    shape: Sequence[int], strides: Sequence[int], *, dtype: torch.dtype, device: torch.device
) -> HollowTensor:
    """As `torch.empty_strided`, past all modes."""
    with _as_meta():
        meta = torch.empty_strided(shape, strides, dtype=dtype, device=_META)
        return HollowTensor(meta, device)


def _of_size(size: Size, device: torch.device) -> HollowTensor:
    shape, strides, dtype = size
    return empty(shape, strides, dtype=dtype, device=device)


def _hollow(found: Any, device: torch.device) -> Any:
    if isinstance(found, Tensor) and not isinstance(found, HollowTensor):
        return HollowTensor(found, device)
    return found


def _without_numbers(given: Any) -> Any:
    if isinstance(given, list | tuple):
        return [_without_numbers(each) for each in given]
    if not isinstance(given, Tensor) or isinstance(given, HollowTensor):
        return given
    return empty(given.shape, given.stride(), dtype=given.dtype, device=given.device)


def _device_of(func: Any, args: Any) -> torch.device:
    """The device that an operation runs on; where its tensors are on several, torch says what it says of real ones."""
    found: Tensor | None = None
    for tensor in _tensors(args):
        if found is None or (found.dim() == 0 and found.device.type == "cpu"):
            found = tensor
        elif (
            tensor.device != found.device
            and not (tensor.dim() == 0 and tensor.device.type == "cpu")
            and func not in _ACROSS
        ):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{found.device} and {tensor.device}!"
            )
    return _CPU if found is None else found.device


def _tensors(args: Iterable[Any]) -> Iterator[Tensor]:
    for each in args:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


@functools.cache
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


class _as_meta:
    """Kernels see tensors of the meta device."""

    def __enter__(self) -> None:
        self._guards = torch._C._DisableTorchDispatch(), torch._C._PreserveDispatchKeyGuard()
        for guard in self._guards:
            guard.__enter__()
        torch._C._set_meta_in_tls_dispatch_include(True)

    def __exit__(self, *error: Any) -> None:
        for guard in reversed(self._guards):
            guard.__exit__(*error)


def _permuted(x: Tensor, axes: Sequence[int]) -> Tensor:
    """By what torch does not write in Python."""
    place = list(range(x.dim()))
    for axis, wanted in enumerate(each % x.dim() for each in axes):
        other = place.index(wanted)
        if other != axis:
            x = x.transpose(axis, other)
            place[axis], place[other] = place[other], place[axis]
    return x


def _attended(
    q: Tensor, k: Tensor, v: Tensor, *others: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    """q, k, v [B,heads,N,D] -> as the CPU's fused kernel has it, and a number for each row."""
    batch, heads, rows, width = q.shape
    found = torch.empty(batch, rows, heads, width, dtype=q.dtype, device=_META)
    sums = torch.empty(batch, rows, heads, dtype=torch.float32, device=_META)
    return found.transpose(1, 2), sums.transpose(1, 2)


_OURS = {
    _aten.permute.default: _permuted,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attended,
}
