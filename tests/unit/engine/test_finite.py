"""Runs of the micro model that come to no numbers: the file is named whose fault it is, else what to try."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.checkpoints.locate import locate
from engine.components.providers import wan_vae
from engine.errors import RunCancelled, RunFailed
from engine.extensions.guidance.skip_layer import SkipLayerGuidance
from engine.models import attention
from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.store import open_store
from tests.executing import SMALL

SEEDS = itertools.count(5000)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with open_store(tmp_path_factory.mktemp("store")) as store:
        yield Runner(store)


def poisoned(folder: Path, kind: str, name: str, value: float = math.nan) -> Path:
    """The micro model's file with numbers of one tensor changed."""
    shipped = locate(kind, "builtin:micro")
    tensors = load_file(shipped)
    tensors[name] = tensors[name].float()
    tensors[name].view(-1)[:2] = value
    path = folder / shipped.name
    save_file(tensors, path)
    for beside in ("config.json", "tokenizer.json"):
        shutil.copy(shipped.with_name(beside), folder)
    return path


def failure(runner: Runner, folder: Path, *overrides: str) -> str:
    own = ["scheduler.steps=2", f"seed={next(SEEDS)}", "prompt=a red circle", *SMALL]
    spec = load_preset("micro", [*own, *overrides])
    run_id = runner.store.enqueue(encode_spec(spec), preset="micro", output=str(folder / "v.mp4"))
    with pytest.raises(RunFailed) as told:
        runner.execute(
            runner.store.run(run_id), spec, emit=lambda event: None, cancelled=lambda: False
        )
    assert str(told.value).isprintable()
    return str(told.value)


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        ("denoiser", "blocks.0.ffn.0.weight", "latents are not finite at step 1 of 2 (dtype fp32, att"),
        ("text_encoder", "norm.weight", "the text encoder's output is not finite (dtype fp32)"),
        ("vae", "decoder.head.2.bias", "the decoded video is not finite (its latents are) (dtype fp32)"),
    ],
)  # fmt: skip
def test_weights_that_are_no_numbers_are_named(
    runner: Runner, tmp_path: Path, kind: str, name: str, what: str
) -> None:
    path = poisoned(tmp_path, kind, name)
    told = failure(runner, tmp_path, f"components.{kind}.checkpoint={path}")
    assert told.startswith(what)
    assert f"the fault of the file {path}, whose tensor {name} holds NaN: download it again" in told
    assert "try" not in told


def test_weights_that_a_dtype_cannot_say_are_named_with_one_that_can(
    runner: Runner, tmp_path: Path
) -> None:
    path = poisoned(tmp_path, "denoiser", "blocks.0.ffn.0.weight", 1e6)
    told = failure(
        runner,
        tmp_path,
        f"components.denoiser.checkpoint={path}",
        "components.denoiser.dtype=fp16",
        "components.denoiser.device=cpu",
    )
    assert f"the tensor blocks.0.ffn.0.weight of {path} are too large for fp16" in told
    assert told.endswith("try --set components.denoiser.dtype=bf16 or fp32")


def broken(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.full_like(q, math.nan)


def test_a_kernel_that_makes_no_numbers_is_not_the_weights_fault(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention.BACKENDS, "sdpa", broken)
    overrides = ("components.denoiser.dtype=bf16", "components.denoiser.attention=sdpa")
    told = failure(runner, tmp_path, *overrides)
    assert "(dtype bf16, attention sdpa); its weights are finite, so that the arithmetic" in told
    assert told.endswith(
        "try --set components.denoiser.dtype=fp32, or --set components.denoiser.attention=plain"
    )


def test_where_nothing_is_left_to_set_another_device_is_told(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention.BACKENDS, "plain", broken)
    overrides = ("components.denoiser.dtype=fp32", "components.denoiser.attention=plain")
    told = failure(runner, tmp_path, *overrides)
    assert told.endswith("try another device, --set components.denoiser.device=cpu")


def test_an_extension_that_makes_no_numbers_is_named(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = SkipLayerGuidance.block
    monkeypatch.setattr(SkipLayerGuidance, "block", lambda *given: block(*given) * math.nan)
    skip = '[{name="skip-layer-guidance", options={blocks="2"}}]'
    told = failure(runner, tmp_path, f"extensions={skip}")
    assert "its weights are finite" in told
    assert told.endswith("or leaving out its extensions (skip-layer-guidance)")


def test_a_decoder_that_makes_no_numbers_is_not_the_weights_fault(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = wan_vae.LocalVAE.decode

    def poisoned_decode(self, latents, **options):  # type: ignore[no-untyped-def]
        for chunk in decode(self, latents, **options):
            yield chunk * math.inf

    monkeypatch.setattr(wan_vae.LocalVAE, "decode", poisoned_decode)
    told = failure(runner, tmp_path, "components.vae.dtype=bf16")
    assert told.startswith("the decoded video is not finite")
    assert told.endswith("made it: try --set components.vae.dtype=fp32")


def test_a_file_that_is_gone_by_then_is_told(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = poisoned(tmp_path, "vae", "decoder.head.2.bias")
    monkeypatch.setattr("engine.stages.finite.locate", lambda kind, name: tmp_path / "gone")
    told = failure(runner, tmp_path, f"components.vae.checkpoint={path}")
    assert "its weights cannot be looked at" in told


def test_no_weights_are_read_while_all_is_well(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.stages.finite.no_numbers", None)
    spec = load_preset("micro", ["scheduler.steps=2", f"seed={next(SEEDS)}", *SMALL])
    run_id = runner.store.enqueue(encode_spec(spec), preset="micro", output=str(tmp_path / "v.mp4"))
    run = runner.store.run(run_id)
    assert runner.execute(run, spec, emit=lambda event: None, cancelled=lambda: False)


def test_a_cancel_ends_the_search(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken = False

    def breaks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal is_broken
        is_broken = q.shape[2] != 64  # which the one call before the run has
        return broken(q, k, v)

    monkeypatch.setitem(attention.BACKENDS, "sdpa", breaks)
    own = ["scheduler.steps=2", f"seed={next(SEEDS)}", *SMALL]
    spec = load_preset("micro", ["components.denoiser.attention=sdpa", *own])
    run_id = runner.store.enqueue(encode_spec(spec), preset="micro", output=str(tmp_path / "v.mp4"))
    run = runner.store.run(run_id)
    with pytest.raises(RunCancelled):
        runner.execute(run, spec, emit=lambda event: None, cancelled=lambda: is_broken)
