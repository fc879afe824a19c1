"""What was quantised as it was loaded is read from the store the next time, bit for bit the same."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.checkpoints.held import kept as module
from engine.checkpoints.held import packed
from engine.checkpoints.locate import locate
from engine.components.protocols import Description
from engine.components.providers import umt5, wan_dit
from engine.errors import CheckpointError
from presets.spec.components import DenoiserSpec, TextEncoderSpec
from store.database.database import open_lineage
from store.index.index import open_index
from store.paths import prepare
from store.upkeep.gc import clean, preview
from store.upkeep.removal import Policy

MICRO = locate("denoiser", "builtin:micro")


@pytest.fixture
def describe(tmp_path: Path) -> Callable[[object], Description]:
    prepare(tmp_path / "store")

    def described(spec) -> Description:
        provider = wan_dit if isinstance(spec, DenoiserSpec) else umt5
        with open_index(tmp_path / "store") as index:
            return provider.describe(spec, index)

    return described


@pytest.fixture
def roundings(monkeypatch) -> list[str]:
    """The names of the weights that are rounded."""
    found: list[str] = []

    def rounded_entry(weights, name: str, quantise: str):
        found.append(name)
        return was(weights, name, quantise)

    was = packed.rounded_entry
    for each in (packed, module):
        monkeypatch.setattr(each, "rounded_entry", rounded_entry)
    return found


def spec(**settings: str) -> DenoiserSpec:
    given = {"checkpoint": "builtin:micro", "device": "cpu", "dtype": "fp32", "quantise": "int8"}
    return DenoiserSpec(**given | settings)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert mine.keys() == theirs.keys()
    for name, parameter in mine.items():
        assert parameter.dtype == theirs[name].dtype
        assert torch.equal(parameter.float(), theirs[name].float()), name


@pytest.mark.parametrize(
    "settings",
    [{}, {"quantise": "fp8"}, {"unpack": "load", "dtype": "bf16"}, {"activations": "quantised"}],
)
def test_the_second_time_nothing_is_rounded(describe, roundings, settings) -> None:
    given = spec(**settings)
    about = describe(given)
    first = wan_dit.load(given, about)
    assert len(roundings) == 60  # each matrix once
    assert about.kept.stat().st_size < 0.6 * MICRO.stat().st_size
    again = wan_dit.load(given, describe(given))
    assert len(roundings) == 60
    anew = wan_dit.load(given)
    assert len(roundings) == 120
    assert_same(first, anew)
    assert_same(again, anew)
    schemes = [getattr(each, "scheme", None) for each in anew.modules()]
    assert [getattr(each, "scheme", None) for each in again.modules()] == schemes


def test_a_text_encoder_is_kept_too(describe, roundings) -> None:
    given = TextEncoderSpec(checkpoint="builtin:micro", device="cpu", dtype="fp32", quantise="int8")
    first = umt5.load(given, describe(given))
    count = len(roundings)
    again = umt5.load(given, describe(given))
    assert len(roundings) == count
    assert_same(first.model, again.model)
    assert_same(first.model, umt5.load(given).model)


def test_what_asks_for_nothing_keeps_nothing(describe) -> None:
    assert describe(spec(quantise="")).kept is None


def test_other_weights_and_other_ways_are_kept_apart(describe, tmp_path: Path) -> None:
    tensors = load_file(MICRO)
    tensors["blocks.0.ffn.0.bias"] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    shutil.copy(MICRO.with_name("config.json"), tmp_path)
    places = {
        describe(each).kept
        for each in (
            spec(), spec(quantise="fp8"), spec(checkpoint=str(tmp_path / "other.safetensors"))
        )
    }  # fmt: skip
    assert len(places) == 3
    same = (spec(dtype="bf16"), spec(unpack="load"), spec(activations="quantised"))
    assert {describe(each).kept for each in same} <= places


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def garbage(path: Path) -> None:
    path.write_bytes(b"nothing")


def other_weights(path: Path) -> None:
    save_file({"blocks.0.ffn.0.weight": torch.zeros(2, 2)}, path)


def plain_weights(path: Path) -> None:
    shutil.copy(MICRO, path)


@pytest.mark.parametrize("damage", [Path.unlink, cut, garbage, other_weights, plain_weights])
def test_what_is_broken_is_made_again(describe, roundings, damage) -> None:
    about = describe(spec())
    wan_dit.load(spec(), about)
    whole = about.kept.read_bytes()
    damage(about.kept)
    again = wan_dit.load(spec(), about)
    assert about.kept.read_bytes() == whole
    assert len(roundings) == 120
    assert_same(again, wan_dit.load(spec()))


def test_a_full_disk_is_no_error(describe, monkeypatch) -> None:
    about = describe(spec())
    monkeypatch.setattr(module, "free_bytes", lambda root: 1 << 20)
    expected = wan_dit.load(spec(), about)
    assert not about.kept.exists()
    monkeypatch.setattr(module, "free_bytes", lambda root: 1 << 60)

    def full(*arguments, **options) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_safetensors", full)
    assert_same(wan_dit.load(spec(), about), expected)
    assert list(about.kept.parent.iterdir()) == []


def test_what_cannot_be_rounded_is_told(describe, tmp_path: Path) -> None:
    tensors = load_file(MICRO)
    tensors["blocks.1.ffn.2.weight"][3, 4] = float("inf")
    save_file(tensors, tmp_path / "file.safetensors")
    shutil.copy(MICRO.with_name("config.json"), tmp_path)
    given = spec(checkpoint=str(tmp_path / "file.safetensors"))
    about = describe(given)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.ffn\.2\.weight holds .* not finite"):
        wan_dit.load(given, about)
    assert list(about.kept.parent.iterdir()) == []


def test_a_clean_up_leaves_what_block_swap_reads_from(describe, tmp_path: Path) -> None:
    """As long as the model is in memory."""
    given = spec(resident_blocks="1")
    about = describe(given)
    model = wan_dit.load(given, about)
    gone = Policy(older_than_ns=0)
    with closing(open_lineage(tmp_path / "store", busy_seconds=5)) as lineage:
        assert preview(lineage, gone).aside == clean(lineage, gone).aside == ()
        assert about.kept.exists()
        with model.at_work(), model.swap.block(min(model.swap.slabs)):
            pass
        del model
        gc.collect()
        assert [each.path for each in clean(lineage, gone).aside] == [about.kept]
    assert not about.kept.exists()
