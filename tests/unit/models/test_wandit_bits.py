"""The transformer's output, bit for bit what it was when it was recorded.

`python -m tests.unit.models.test_wandit_bits` records anew; that is right only with a new version of the step kind
(tests/numerics.py). Kernels differ between machines and releases of torch: the bits are compared where they were
recorded by the same, elsewhere the numbers are, to what rounding explains.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.models.diffusion.config import WanDiTConfig, keeps_fp32
from engine.models.diffusion.wandit import WanDiT
from tests.oracles.parity import randomise, relative_error

RECORDED = Path(__file__).parents[2] / "data" / "wandit_outputs.safetensors"
MICRO = Path(__file__).parents[3] / "engine" / "micro" / "weights"
CASES = [(model, dtype) for model in ("micro", "i2v") for dtype in ("fp32", "bf16")]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALL_I2V = WanDiTConfig(
    model_type="i2v", in_dim=36, dim=256, num_heads=2, ffn_dim=384, num_layers=3, text_dim=48
)


def build(name: str, dtype: str) -> WanDiT:
    if name == "micro":
        config = json.loads((MICRO / "config.json").read_text())
        sizes = ("dim", "ffn_dim", "num_heads", "num_layers", "text_dim")
        model = WanDiT(WanDiTConfig(**{size: config[size] for size in sizes}))
        model.load_state_dict(load_file(MICRO / "dit.safetensors"), strict=True)
    else:
        model = WanDiT(SMALL_I2V)
        randomise(model, 7)
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter_name, parameter in model.named_parameters():
        kept = torch.float32 if keeps_fp32(parameter_name) else DTYPES[dtype]
        parameter.data = parameter.data.to(kept)
    return model


def inputs(model: WanDiT) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Latents of a batch of two, one timestep, and two prompts of different lengths (with two pictures)."""
    config, generator = model.config, torch.Generator().manual_seed(11)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latents = randn(2, config.in_dim, 2, 4, 6)
    text = randn(2, 9, config.text_dim)
    text[1, 5:] = 0
    conditions = {"text": text}
    if config.has_image_branch:
        conditions["image"] = randn(2, 257, config.image_dim)
        latents, conditions["latents"] = latents.split([16, 20], 1)
    return latents, torch.tensor([637]), conditions


def output(name: str, dtype: str) -> torch.Tensor:
    model = build(name, dtype)
    latents, timestep, conditions = inputs(model)
    return model(latents, timestep, model.prepare(conditions))


def made_by() -> dict[str, str]:
    """What decides the bits besides the code: torch, the instructions it uses, and whose CPU (MKL asks)."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.is_file() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if "vendor_id" in line), "")
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "cpu": capability, "vendor": vendor}


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_output_is_what_it_was(name: str, dtype: str) -> None:
    with safe_open(RECORDED, "pt") as file:
        expected, recorded_by = file.get_tensor(f"{name}.{dtype}"), file.metadata()
    actual = output(name, dtype)
    assert expected.std() > 0.1
    if recorded_by == made_by():
        assert torch.equal(actual, expected)
    else:
        assert relative_error(actual, expected) < (1e-5 if dtype == "fp32" else 1e-2)


if __name__ == "__main__":
    outputs = {f"{name}.{dtype}": output(name, dtype) for name, dtype in CASES}
    save_file(outputs, RECORDED, metadata=made_by())
