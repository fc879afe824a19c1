"""What the commonest operations give back, told without torch's own functions for that: those import its compiler, a
second and a half, and take ten times as long. Whatever is not here, or not plain, is left to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Size = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype."""

# fmt: off
_FLOATING = frozenset({
    "add", "sub", "rsub", "mul", "div", "pow", "neg", "abs", "exp", "log", "sin", "cos",
    "tanh", "sigmoid", "silu", "gelu", "rsqrt", "sqrt", "clamp", "maximum", "minimum", "addcmul",
    "addcdiv", "lerp", "masked_fill", "nextafter", "reciprocal", "round", "relu", "where",
})
# fmt: on
_WRITTEN = frozenset({"copy", "fill", "zero", "normal", "uniform"})
_COUNTING = frozenset(
    {"add", "sub", "rsub", "mul", "neg", "abs", "clamp", "maximum", "minimum", "where"}
)
_TELLING = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "isnan", "isinf", "logical_not"})


def size_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Size | list[Size] | None:
    """What an operation gives back of tensors of these sizes, a list where that is several; None where torch is to be
    asked."""
    name = func._schema.name.removeprefix("aten::")
    if name in _FLOATING or name in _TELLING:
        return None if kwargs.get("out") is not None else _pointwise(name, args)
    found = _OTHERS.get(func)
    return None if found is None else found(*args, **kwargs)


def is_written(func: Any) -> bool:
    """Whether an operation writes into its first tensor, of whatever size, and gives that back."""
    name = func._schema.name.removeprefix("aten::")
    return name.endswith("_") and (name[:-1] in _FLOATING or name[:-1] in _WRITTEN)


def _pointwise(name: str, args: Sequence[Any]) -> Size | None:
    tensors = [each for each in args if isinstance(each, Tensor)]
    numbers = [each for each in args if isinstance(each, int | float)]
    of_values = tensors[1:] if name in ("where", "masked_fill") else tensors
    if name == "masked_fill":
        of_values = tensors[:1]
    dtype = _promoted(of_values, numbers)
    if dtype is None:
        return None
    if name in _TELLING:
        dtype = torch.bool
    elif not _is_closed(name, dtype):
        return None
    shape = _broadcast([each.shape for each in tensors])
    whole = [each for each in tensors if each.shape == shape]
    strides = {each.stride() for each in whole}
    rest = [each for each in tensors if each.shape != shape]
    if (
        len(strides) == 1
        and _is_dense(whole[0])
        and all(sum(size > 1 for size in each.shape) <= 1 for each in rest)
    ):
        return shape, whole[0].stride(), dtype
    return shape, _laid_out(shape, [_repeated(each, shape) for each in tensors]), dtype


def _is_closed(name: str, dtype: torch.dtype) -> bool:
    """Whether an operation of numbers of this dtype gives such numbers."""
    if dtype.is_floating_point:
        return True
    if dtype.is_complex:
        return name in ("add", "sub", "mul", "div")
    return name in _COUNTING and (dtype != torch.bool or name == "mul")


def _promoted(tensors: Sequence[Tensor], numbers: Sequence[Any]) -> torch.dtype | None:
    """The dtype of numbers that these come to; None where that is not plain."""
    leading = [each for each in tensors if each.dim()] or tensors
    dtypes = {each.dtype for each in leading}
    if not dtypes:
        return None
    found = dtypes.pop()
    for each in dtypes:
        found = torch.promote_types(found, each)
    others = [each.dtype for each in tensors if not each.dim()]
    if found.is_floating_point or found.is_complex:
        return found if found.is_complex or not any(each.is_complex for each in others) else None
    if any(each != found for each in others):
        return None
    return torch.get_default_dtype() if any(isinstance(each, float) for each in numbers) else found


def _broadcast(shapes: Sequence[torch.Size]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    found = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if size != 1:
                if found[axis] not in (1, size):
                    raise RuntimeError(f"sizes {[*map(list, shapes)]} do not fit each other")
                found[axis] = size
    return torch.Size(found)


def _repeated(x: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of x once it is expanded."""
    own = [
        stride if size == wanted else 0
        for size, stride, wanted in zip(
            x.shape, x.stride(), shape[len(shape) - x.dim() :], strict=True
        )
    ]
    return (*[0] * (len(shape) - x.dim()), *own)


def _laid_out(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The strides of what is made of tensors with these, in the order of axes that torch's iterator finds for them;
    those along which a tensor is repeated have 0."""
    order = list(reversed(range(len(shape))))
    for place in range(1, len(order)):
        moved = place
        for before in reversed(range(place)):
            how = _compared(order[before], order[moved], shape, strides)
            if how < 0:
                break
            if how > 0:
                order[before], order[moved] = order[moved], order[before]
                moved = before
    found, step = [0] * len(shape), 1
    for axis in order:
        found[axis] = step
        step *= max(shape[axis], 1)
    return tuple(found)


def _compared(
    inner: int, outer: int, shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> int:
    """1 where two axes are to change their places, -1 where not, 0 where no tensor tells."""
    for stride in strides:
        if stride[inner] == 0 or stride[outer] == 0:
            continue
        if stride[inner] != stride[outer]:
            return 1 if stride[inner] > stride[outer] else -1
        if shape[inner] > shape[outer]:
            return 1
    return 0


def _reduced(
    x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Size | None:
    if not x.is_contiguous():
        return None
    rank = x.dim()
    axes = {axis % rank for axis in (dim if dim else range(rank))} if rank else set()
    shape = [
        1 if axis in axes else size
        for axis, size in enumerate(x.shape)
        if keepdim or axis not in axes
    ]
    return _plain(shape, dtype or x.dtype)


def _counted(stop: Any, *, dtype: torch.dtype | None = None, **others: Any) -> Size | None:
    if not isinstance(stop, int):
        return None
    return _plain([stop], dtype or torch.int64)


def _drawn(shape: Sequence[int], *, dtype: torch.dtype | None = None, **others: Any) -> Size:
    return _plain(shape, dtype or torch.get_default_dtype())


def _filled(x: Tensor, value: Any, **options: Any) -> Size | None:
    return _copied(x, **options)


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Size | None:
    first = tensors[0]
    rank = first.dim()
    if any(each.dim() != rank for each in tensors) or not rank:
        return None
    dtype = functools.reduce(torch.promote_types, (each.dtype for each in tensors))
    shape = list(first.shape)
    shape[dim % rank] = sum(each.shape[dim] for each in tensors)
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(rank)
    if (
        last is None
        or all(each.is_contiguous() for each in tensors)
        or not all(each.is_contiguous(memory_format=last) for each in tensors)
    ):
        return _plain(shape, dtype)
    return tuple(shape), _channels_last(shape), dtype


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Size | None:
    shape = list(tensors[0].shape)
    if any(each.shape != tensors[0].shape or each.dtype != tensors[0].dtype for each in tensors):
        return None
    shape.insert(dim % (len(shape) + 1), len(tensors))
    return _plain(shape, tensors[0].dtype)


def _polar(length: Tensor, angle: Tensor) -> Size | None:
    size = _pointwise("mul", (length, angle))
    if size is None:
        return None
    return size[0], size[1], torch.complex64 if size[2] == torch.float32 else torch.complex128


def _resized(x: Tensor, size: Sequence[int] | None, *others: Any) -> Size | None:
    return None if size is None else _like([x], (*x.shape[:2], *size))


def _pooled(x: Tensor, size: Sequence[int]) -> Size:
    return _like([x], (*x.shape[: x.dim() - len(size)], *size))


def _repeated_whole(x: Tensor, times: Sequence[int]) -> Size:
    sizes = [1] * (len(times) - x.dim()) + list(x.shape)
    return _plain([size * each for size, each in zip(sizes, times, strict=True)], x.dtype)


def _padded(x: Tensor, widths: Sequence[int], value: float = 0.0) -> Size:
    shape = list(x.shape)
    for i, width in enumerate(widths):
        shape[-1 - i // 2] += width
    return _like([x], shape)


def _like(tensors: Sequence[Tensor], shape: Sequence[int]) -> Size:
    """Channels last where one of the tensors has them last."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape))
    is_last = last is not None and any(
        each.is_contiguous(memory_format=last) and not each.is_contiguous() for each in tensors
    )
    strides = _channels_last(shape) if is_last else _contiguous(shape)
    return tuple(shape), strides, tensors[0].dtype


def _told(x: Tensor) -> Size:
    return _plain((), torch.bool)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *others: Any,
) -> Size | None:
    """As cuDNN and oneDNN lay it out: as the input or, where that is not special, as the weights."""
    if transposed or x.shape[1] % weight.shape[1]:
        return None
    sizes = [
        (size + 2 * pad - step * (kernel - 1) - 1) // hop + 1
        for size, kernel, hop, pad, step in zip(
            x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    shape = (x.shape[0], weight.shape[0], *sizes)
    return _like((x, weight), shape)


def _convolved_by_onednn(
    x: Tensor, weight: Tensor, bias: Any, padding: Any, stride: Any, dilation: Any, groups: int
) -> Size | None:
    return _convolved(x, weight, bias, stride, padding, dilation, False)


def _embedded(weight: Tensor, indices: Tensor, *others: Any) -> Size:
    return _plain([*indices.shape, weight.shape[1]], weight.dtype)


def _multiplied(x: Tensor, y: Tensor) -> Size | None:
    if x.shape[1] != y.shape[0] or x.dtype != y.dtype:
        return None  # torch says what is wrong
    return _plain([x.shape[0], y.shape[1]], x.dtype)


def _multiplied_and_added(bias: Tensor, x: Tensor, y: Tensor, **scales: Any) -> Size | None:
    return _multiplied(x, y)


def _normalised(
    x: Tensor, over: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> list[Size]:
    statistics = x.dtype if x.device.type == "cpu" else torch.float32
    rows = [*x.shape[: x.dim() - len(over)], *[1] * len(over)]
    return [_plain(x.shape, x.dtype), _plain(rows, statistics), _plain(rows, statistics)]


def _softened(x: Tensor, dim: int, half_to_float: bool) -> Size | None:
    if half_to_float or not _is_dense(x):
        return None
    return x.shape, x.stride(), x.dtype


def _is_dense(x: Tensor) -> bool:
    """Whether its elements lie next to each other, in whatever order of the axes."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _copied(
    x: Tensor,
    *,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format | None = None,
    **others: Any,
) -> Size | None:
    kept = (None, torch.preserve_format)
    if memory_format in kept:
        strides = x.stride() if _is_dense(x) else _laid_out(x.shape, [x.stride()])
        return x.shape, strides, dtype or x.dtype
    if memory_format is torch.contiguous_format:
        return _plain(x.shape, dtype or x.dtype)
    if memory_format in (torch.channels_last, torch.channels_last_3d):
        return x.shape, _channels_last(x.shape), dtype or x.dtype
    return None


def _plain(shape: Sequence[int], dtype: torch.dtype) -> Size:
    return tuple(shape), _contiguous(shape), dtype


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    moved = _contiguous([shape[0], *shape[2:], shape[1]])
    return moved[0], moved[-1], *moved[1:-1]


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    found, step = [], 1
    for size in reversed(shape):
        found.append(step)
        step *= max(size, 1)
    return tuple(reversed(found))


_aten = torch.ops.aten
_OTHERS: dict[Any, Callable[..., Size | list[Size] | None]] = {
    _aten._to_copy.default: _copied,
    _aten.clone.default: _copied,
    _aten.arange.default: _counted,
    _aten.randn.default: _drawn,
    _aten.cat.default: _joined,
    _aten.convolution.default: _convolved,
    _aten.mkldnn_convolution.default: _convolved_by_onednn,
    _aten.polar.default: _polar,
    _aten.upsample_bicubic2d.default: _resized,
    _aten._upsample_nearest_exact2d.default: _resized,
    _aten._adaptive_avg_pool2d.default: _pooled,
    _aten.repeat.default: _repeated_whole,
    _aten.constant_pad_nd.default: _padded,
    _aten.stack.default: _stacked,
    _aten.full_like.default: _filled,
    _aten.empty_like.default: _copied,
    _aten.zeros_like.default: _copied,
    _aten.ones_like.default: _copied,
    _aten.mean.dim: _reduced,
    _aten.all.default: _told,
    _aten.any.default: _told,
    _aten.embedding.default: _embedded,
    _aten.mm.default: _multiplied,
    _aten.addmm.default: _multiplied_and_added,
    _aten._softmax.default: _softened,
    _aten.native_layer_norm.default: _normalised,
}
