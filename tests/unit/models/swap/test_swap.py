"""Models whose blocks come from their file come to the bits of those whose blocks are all there."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from engine.checkpoints.load import Weights
from engine.components.providers import wan_dit
from engine.errors import CheckpointError, ComponentError
from engine.extensions import registry
from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.seams import At
from engine.models.swap.sources import Nothing
from engine.models.swap.swap import Swap
from presets.spec.components import DenoiserSpec
from presets.spec.sampling import ExtensionSpec


def small(folder: Path, dtype: torch.dtype, **changes: object) -> Path:
    """A random model whose blocks are not those of any published one."""
    config = WanDiTConfig(
        dim=96, ffn_dim=160, num_heads=2, num_layers=5, text_dim=48, text_len=16, **changes
    )
    torch.manual_seed(3)
    tensors = {name: torch.randn_like(t) / 9 for name, t in WanDiT(config).state_dict().items()}
    path = folder / "dit.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    return path


def denoiser(spec: DenoiserSpec) -> wan_dit.LocalDenoiser:
    return wan_dit.use(wan_dit.load(spec), spec)


def velocities(spec: DenoiserSpec, extensions=(), size=(1, 4, 4), steps: int = 2) -> list:
    """Of two branches, over some steps."""
    on = denoiser(spec)
    config = on.model.config
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    shared: dict[str, torch.Tensor] = {}
    if config.has_image_branch:
        rows = 514 if config.model_type == "flf2v" else 257
        shared["image"] = randn(rows, config.image_dim)
        shared["latents"] = randn(config.in_dim - config.out_dim, *size)
    branches = {
        name: {"text": randn(rows, config.text_dim), **shared}
        for name, rows in (("positive", 9), ("negative", 2))
    }
    x, found = randn(1, config.out_dim, *size), []
    with on.begin(branches, extensions) as predict:
        for step in range(steps):
            ats = [At(step, 4, 1.0, name) for name in branches]
            found += predict(x, torch.tensor([700.0 - step]), ats)
            found += predict(x, torch.tensor([700.0 - step]), ats[:1])
    return found


def same(one: list, other: list) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def own_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan_dit, "BATCHED_GUIDANCE_TOKENS", 0)


@pytest.mark.parametrize(
    ("checkpoint", "dtype", "is_batched"),
    [
        ("builtin:micro", "fp32", True),
        ("builtin:micro", "bf16", False),
        ("builtin:micro-i2v", "fp32", False),
        ("builtin:micro-flf2v", "fp32", False),
    ],
)
def test_micro_is_the_same_whatever_stays(
    checkpoint: str, dtype: str, is_batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_batched:
        monkeypatch.setattr(wan_dit, "BATCHED_GUIDANCE_TOKENS", 0)
    spec = DenoiserSpec(checkpoint=checkpoint, device="cpu", dtype=dtype)
    expected = velocities(spec)
    for resident in ("0", "2"):
        swapped = velocities(replaced(spec, resident))
        assert same(swapped, expected), resident


def replaced(spec: DenoiserSpec, resident: str) -> DenoiserSpec:
    return msgspec.structs.replace(spec, resident_blocks=resident)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(torch.float32, "fp32"), (torch.bfloat16, "fp32"), (torch.float16, "bf16")],
)
@pytest.mark.usefixtures("own_calls")
def test_a_random_model_is_the_same_from_whatever_file(
    tmp_path: Path, stored: torch.dtype, dtype: str
) -> None:
    spec = DenoiserSpec(checkpoint=str(small(tmp_path, stored)), device="cpu", dtype=dtype)
    assert same(velocities(replaced(spec, "1")), velocities(spec))


@pytest.mark.parametrize(
    ("quantise", "activations"), [("int8", "plain"), ("int8", "quantised"), ("fp8", "plain")]
)
@pytest.mark.usefixtures("own_calls")
def test_quantised_weights_come_as_they_are_packed(quantise: str, activations: str) -> None:
    spec = DenoiserSpec(
        checkpoint="builtin:micro",
        device="cpu",
        dtype="fp32",
        quantise=quantise,
        activations=activations,
    )
    swapped = msgspec.structs.replace(spec, resident_blocks="1")
    assert same(velocities(swapped, steps=1), velocities(spec, steps=1))
    swap = wan_dit.load(swapped).swap
    assert swap is not None
    assert sum(slot.nbytes for slot in swap.slots) < 2 * 0.4 * 1.5e6  # of 1.5 MB in fp32


@pytest.mark.usefixtures("own_calls")
@pytest.mark.parametrize("names", [["skip"], ["skip", "teacache"]])
def test_extensions_see_the_same(names: list[str]) -> None:
    """In turns where nothing wraps more than a block, else one branch after the other."""
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", dtype="fp32")
    facts = {"num_blocks": 6, "dim": 128, "model": "micro"}
    specs = {
        "skip": ExtensionSpec(name="skip-layer-guidance", options={"blocks": "2,3", "start": 0.0}),
        "teacache": ExtensionSpec(name="teacache", options={"threshold": 2.0}),
    }

    def wrapping():
        return [registry.make(specs[name], facts) for name in names]

    swapped = velocities(replaced(spec, "1"), wrapping(), steps=3)
    assert same(swapped, velocities(spec, wrapping(), steps=3))


class Counted:
    """A source that counts what is read."""

    def __init__(self, swap: Swap) -> None:
        self.source, self.told = swap.source, ""
        self.blocks: list[int] = []

    @contextmanager
    def transfers(self, slots) -> Iterator:
        with self.source.transfers(slots) as transfers:
            send = transfers.send

            def counted(block: int, slot: int) -> None:
                self.blocks.append(block)
                send(block, slot)

            transfers.send = counted
            yield transfers


@pytest.mark.usefixtures("own_calls")
def test_each_block_comes_once_for_both_branches_and_once_for_their_conditions() -> None:
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", resident_blocks="2", dtype="fp32")
    on = denoiser(spec)
    assert on.model.swap is not None
    counted = on.model.swap.source = Counted(on.model.swap)
    swapped = sorted(on.model.swap.slabs)
    assert len(swapped) == 4
    branches = {name: {"text": torch.ones(3, 128)} for name in ("positive", "negative")}
    ats = [At(0, 4, 1.0, name) for name in branches]
    x = torch.ones(1, 16, 1, 4, 4)
    with on.begin(branches) as predict:
        predict(x, torch.tensor([700.0]), ats)
        predict(x, torch.tensor([600.0]), ats)
    assert counted.blocks == [*swapped * 3, *swapped[:2]]  # the next call's are under way


def test_what_is_in_no_block_is_loaded_and_no_more() -> None:
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", resident_blocks="2", dtype="fp32")
    model = wan_dit.load(spec)
    assert model.swap is not None
    for name, parameter in model.named_parameters():
        is_there = not name.startswith("blocks.") or int(name.split(".")[1]) in model.swap.resident
        assert parameter.device.type == ("cpu" if is_there else "meta"), name
    assert len(model.swap.slots) == 2
    assert model.swap.told == (
        "block swap: 2 of 6 blocks stay on cpu, 4 come for each call (from the file)"
    )


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced_by_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.rename(path)


def removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [cut_off, replaced_by_another, removed])
def test_a_file_that_changes_meanwhile_ends_the_run_with_a_clear_line(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = small(tmp_path, torch.float32)
    spec = DenoiserSpec(checkpoint=str(path), device="cpu", dtype="fp32", resident_blocks="0")
    on = denoiser(spec)
    branches = {"positive": {"text": torch.ones(3, 48)}}
    at = At(0, 4, 1.0, "positive")

    def run() -> None:
        with on.begin(branches) as predict:
            for step in range(3):
                predict(torch.ones(1, 16, 1, 4, 4), torch.tensor([700.0]), [at])
                if step == 1:
                    change(path)

    told = r"dit.safetensors: (truncated|changed while|no such file)"
    with pytest.raises(CheckpointError, match=told):
        run()
    assert "blocks_0" not in {thread.name for thread in threading.enumerate()}


def test_the_thread_ends_with_what_it_reads_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", resident_blocks="0", dtype="fp32")
    on = denoiser(spec)
    begun, may_go = threading.Event(), threading.Event()
    into = Weights.into

    def slow(self, name, target) -> None:
        begun.set()
        may_go.wait()
        into(self, name, target)

    monkeypatch.setattr(Weights, "into", slow)

    def run() -> None:
        with on.begin({"positive": {"text": torch.ones(3, 128)}}):
            assert begun.wait(60)
            threading.Timer(0.05, may_go.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not [each for each in threading.enumerate() if each.name.startswith("blocks")]
    monkeypatch.undo()
    with on.begin({"positive": {"text": torch.ones(3, 128)}}) as predict:
        predict(torch.ones(1, 16, 1, 4, 4), torch.tensor([7.0]), [At(0, 4, 1.0, "positive")])


def test_a_budget_without_room_for_the_slots_is_refused_when_it_is_described(
    tmp_path: Path,
) -> None:
    from engine.components.descriptions import Descriptions
    from store.index.index import open_index

    spec = DenoiserSpec(
        checkpoint="builtin:micro", device="cpu", resident_blocks="0.001GB", dtype="fp32"
    )
    with open_index(tmp_path) as index, pytest.raises(ComponentError) as refused:
        Descriptions(index)("denoiser", spec)
    told = str(refused.value)
    assert told == (
        "components.denoiser.resident_blocks: expected at least 0.003GB, 2 slots of the largest block, got 0.001GB"
    )
    least = told.split("at least ")[1].split(",")[0]
    with pytest.raises(ComponentError) as again:
        wan_dit.load(spec)
    assert str(again.value) == told
    assert wan_dit.load(replaced(spec, least)).swap is not None


def test_what_is_held_is_told_and_not_shared(tmp_path: Path) -> None:
    from engine.components.descriptions import Descriptions
    from store.index.index import open_index

    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", dtype="fp32")
    with open_index(tmp_path) as index:
        every, some = (
            Descriptions(index)("denoiser", each) for each in (spec, replaced(spec, "1"))
        )
    assert every.resident != some.resident
    assert every.identity == some.identity
    model = wan_dit.load(replaced(spec, "1"))
    assert model.swap is not None
    held = sum(p.nbytes for p in model.parameters() if p.device.type == "cpu")
    held += sum(slot.nbytes for slot in model.swap.slots)
    assert model.num_bytes == held
    assert abs(some.num_bytes - held) < 27 * 256 * 2  # but for what parameters are aligned to
    assert some.num_bytes < every.num_bytes


def test_a_model_without_numbers_goes_through_its_slots() -> None:
    with torch.device("meta"):
        model = WanDiT(WanDiTConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=6, text_dim=32))
    model.swap = Swap(model.blocks, frozenset({1}), torch.device("meta"), Nothing())
    with torch.no_grad(), model.at_work():
        conditioning = model.prepare(
            {"text": torch.empty(1, 512, 32, device="meta")}, lengths=torch.tensor([512])
        )
        x = torch.empty(1, 16, 2, 4, 4, device="meta")
        found = model(x, torch.tensor([1.0]), conditioning)
    assert found.shape == x.shape


def test_blocks_that_come_are_used_at_work_only() -> None:
    spec = DenoiserSpec(checkpoint="builtin:micro", device="cpu", resident_blocks="0", dtype="fp32")
    model = wan_dit.load(spec)
    with pytest.raises(RuntimeError, match="at_work"):
        model.prepare({"text": torch.ones(1, 3, 128)})
    with model.at_work(), pytest.raises(RuntimeError, match="in use"), model.at_work():
        pass
