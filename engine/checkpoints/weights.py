"""Fills a module that was built on the meta device with the tensors of a file, one by one.

The names and shapes are compared first, from the header alone, so that a wrong file costs no memory.
A tensor that already has the right dtype and device stays a view of the memory map: nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from engine.checkpoints.header import TensorInfo, read_header
from engine.errors import CheckpointError


def fill(
    module: nn.Module,
    path: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    keeps_fp32: Callable[[str], bool] = lambda name: False,
    rename: Callable[[str], str] = lambda name: name,
    ignore: Iterable[str] = (),
) -> None:
    """Replaces every parameter of `module` by the file's tensor of that name.

    rename: file name -> module name. keeps_fp32: module names that stay fp32 whatever `dtype` is.
    ignore: module names that may be in the file without being in the module.
    Raises CheckpointError naming missing, unexpected and misshapen tensors.
    """
    ignored = set(ignore)
    header = {name: info for name, info in read_header(path).items() if rename(name) not in ignored}
    _compare(module, {rename(name): info for name, info in header.items()}, path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in header:
                target = rename(name)
                wanted = torch.float32 if keeps_fp32(target) else dtype
                _assign(module, target, file.get_tensor(name).to(device=device, dtype=wanted))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _assign(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module.get_submodule(parent).register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def _compare(module: nn.Module, tensors: dict[str, TensorInfo], path: Path) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} is {list(info.shape)} instead of {list(expected[name])}"
        for name, info in tensors.items()
        if name in expected and info.shape != expected[name]
    ]
    faults = [
        f"{len(names)} {kind} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{path}: does not fit {type(module).__name__}: {'; '.join(faults)}. "
            "Choose a checkpoint of this model."
        )
