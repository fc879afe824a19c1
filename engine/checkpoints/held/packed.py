"""Models whose large matrices are held packed: their modules, and what fills each of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.checkpoints.formats.table import TensorInfo
from engine.checkpoints.held.holding import Holding, Packed, is_large, packed_matrices
from engine.checkpoints.load import TORCH_DTYPES, Weights, match, put
from engine.errors import CheckpointError
from engine.models.quantised.linear import QuantLinear, weights_of
from engine.models.quantised.rounding import DTYPES, rounded_rows
from engine.models.quantised.scheme import Scheme

_DTYPES = {**TORCH_DTYPES, "U8": torch.uint8}


class Filling:
    """What fills the parameters of a module, which is on the meta device and has them in the dtypes and shapes in
    which they are held. Usable as long as its Weights are."""

    def __init__(
        self,
        module: nn.Module,
        weights: Weights,
        numbers: Mapping[str, str],
        stored: Mapping[str, Packed],
        rounded: Mapping[str, str],
        quantise: str,
    ) -> None:
        """By the name of a parameter, numbers: its entry; stored: how it lies in a file
        as it is held; rounded: the entry that it is rounded from, to `quantise`."""
        self.module = module
        self.weights = weights
        self._numbers, self._stored, self._rounded = numbers, stored, rounded
        self._quantise = quantise
        self._last: tuple[str, dict[str, Tensor]] = "", {}

    @contextmanager
    def reopened(self) -> Iterator[Filling]:
        """The same from its files opened anew, usable in the block."""
        with Weights(self.weights.entries) as weights:
            yield Filling(
                self.module,
                weights,
                self._numbers,
                self._stored,
                self._rounded,
                self._quantise,
            )

    def into(self, name: str, target: Tensor) -> None:
        """Fills `target`, of the dtype and shape of the parameter `name`, on any device. Raises CheckpointError."""
        if name in self._stored:
            self._stored_into(name, target)
        elif name in self._rounded:
            target.copy_(self._rounded_to(target.dtype, name))
        else:
            entry = self._numbers[name]
            self.weights.into(entry, target.view(self.weights.entries[entry].shape))

    def tensor(self, name: str, device: torch.device) -> Tensor:
        """The parameter `name` on a device: on the CPU a view of a map of its file where that may be."""
        empty = self.module.get_parameter(name)
        if name in self._numbers and name not in self._rounded:
            entry = self._numbers[name]
            found = self.weights.tensor(entry, device=device, dtype=empty.dtype)
            return found.reshape(empty.shape)
        if name in self._stored and device.type == "cpu":
            part, view = self._stored[name].part, None
            if part is not None and name.endswith(".weight"):
                view = self.weights.stored_view(part, empty.dtype)
            if view is not None:
                return view.view(empty.shape)
        target = torch.empty(empty.shape, dtype=empty.dtype, device=device)
        self.into(name, target)
        return target

    def fill(self, device: torch.device) -> None:
        """Replaces every parameter by what it holds, on `device`."""
        for name, _ in list(self.module.named_parameters()):
            put(self.module, name, self.tensor(name, device))

    def _stored_into(self, name: str, target: Tensor) -> None:
        packed = self._stored[name]
        part, packing = packed.part, packed.packing
        assert part is not None
        if name.endswith(".weight"):
            self.weights.stored_into(part, target)
        elif packing is not None and name.endswith(".weight_scale"):
            target.copy_(self.weights.first_scales(part, packing))
        elif packing is not None and packing.second_scale is not None:
            target.copy_(self.weights.number(packing.second_scale))

    def _rounded_to(self, dtype: torch.dtype, name: str) -> Tensor:
        entry = self._rounded[name]
        if self._last[0] != entry:
            self._last = "", {}  # one at a time
            self._last = entry, rounded_entry(self.weights, entry, self._quantise)
        held = self._last[1]
        codes, scale = held["weight"], held["weight_scale"]
        if name == entry and dtype != codes.dtype:
            return weights_of(codes, scale, Scheme(block=(1, 0))).to(dtype)
        return held[name.rpartition(".")[2]]


def rounded_entry(weights: Weights, name: str, quantise: str) -> dict[str, Tensor]:
    """A large matrix rounded, "weight" [R, K], and its scale, "weight_scale" fp32 [R, 1]; read some rows at a time.

    quantise: "int8" or "fp8". Raises CheckpointError for numbers that are not finite.
    """
    entry = weights.entries[name]
    codes = torch.empty(entry.shape, dtype=DTYPES[quantise])
    scale = torch.empty(entry.shape[0], 1)
    row = 0

    def take(part: TensorInfo, values: Tensor) -> None:
        nonlocal row
        some = slice(row, row + len(values))
        codes[some], scale[some] = rounded_rows(values, codes.dtype)
        row += len(values)

    weights.read(name, take)
    if not scale.isfinite().all():
        raise CheckpointError(
            f"{entry.parts[0].file}: {name} holds numbers that are not finite, which cannot be quantised"
        )
    return {"weight": codes, "weight_scale": scale}


def filling(
    module: nn.Module,
    weights: Weights,
    holding: Holding,
    device_type: str,
    *,
    path: Path,
    dtype: torch.dtype,
    keeps_fp32: Callable[[str], bool] = lambda name: False,
) -> Filling:
    """What fills `module`, which is on the meta device and stays there; those of its linear layers that are held
    packed on a device of that type are replaced. The rest as of `match`. Raises CheckpointError."""
    numbers = match(module, weights, path=path, dtype=dtype, keeps_fp32=keeps_fp32)
    packed = packed_matrices(weights.entries, holding, device_type)
    if holding.rounds_activations and not any(
        each.scheme.rounds_activations for each in packed.values()
    ):
        raise CheckpointError(
            f"{path}: its activations cannot be quantised on {device_type}; take plain ones, int8 weights or another "
            "device"
        )
    pack(module, packed)
    stored: dict[str, Packed] = {}
    rounded: dict[str, str] = {}
    for name, how in packed.items():
        del numbers[name]
        for leaf in how.tensors:
            held = f"{name.rpartition('.')[0]}.{leaf}"
            if how.part is None:
                rounded[held] = name
            else:
                stored[held] = how
    if holding.quantise:  # what is rounded, and unpacked again
        shapes = {name: weights.entries[name].shape for name in numbers}
        rounded |= {name: name for name, shape in shapes.items() if is_large(name, shape)}
    return Filling(module, weights, numbers, stored, rounded, holding.quantise)


def pack(module: nn.Module, packed: Mapping[str, Packed]) -> None:
    """Replaces linear layers of a module by those that hold their weights packed, on the meta device. Their weights
    have the dtype that they become at each call."""
    for name, how in packed.items():
        layer = name.rpartition(".")[0]
        parent, _, leaf = layer.rpartition(".")
        linear = module.get_submodule(layer)
        assert isinstance(linear, nn.Linear)
        held = {
            last: torch.empty(tensor.shape, dtype=_DTYPES[tensor.dtype], device="meta")
            for last, tensor in how.tensors.items()
        }
        module.get_submodule(parent).register_module(
            leaf, QuantLinear(linear, how.scheme, linear.weight.dtype, held)
        )
