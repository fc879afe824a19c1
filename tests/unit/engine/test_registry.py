"""Components are found by name, from our table and from entry points, and checked before anything loads."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from engine.component import KINDS
from safetensors.torch import save_file

from engine import registry
from engine.checkpoints.known.expected import UMT5Shape, umt5, vae, vae22
from engine.errors import CheckpointError, ComponentError
from engine.models.attention import BACKENDS
from presets.library import load_preset
from tests.model_files import write_safetensors


def test_the_micro_preset_passes() -> None:
    registry.check(load_preset("micro"))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("components.vae.name=other", ComponentError, r"components\.vae\.name: unknown 'other'; known: wan-vae"),
        ("components.denoiser.attention=flash9", ComponentError, "unknown backend 'flash9'; known: plain, sdpa"),
        ("components.vae.checkpoint=/nowhere.safetensors", CheckpointError, "is not there; put"),
        ("components.text_encoder.tokenizer=/nowhere.json", CheckpointError, "is not there; put"),
        ('extensions=[{name="teacache"}]', ComponentError, "unknown extension 'teacache'"),
    ],
)  # fmt: skip
def test_refuses_what_is_not_there(override: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        registry.check(load_preset("micro", [override]))


def test_packages_are_asked_and_names_are_sorted_once_for_each_check(monkeypatch) -> None:
    """A viewer checks whatever is typed: neither may cost it as often as there are components."""
    calls: list[str] = []
    lay_out = registry.lay_out
    monkeypatch.setattr(registry, "entry_points", lambda group: calls.append("packages") or ())
    for module in ("engine.registry", "engine.checkpoints.known.recognise"):
        monkeypatch.setattr(
            f"{module}.lay_out", lambda source: calls.append("names") or lay_out(source)
        )
    registry.check(load_preset("micro"))
    assert sorted(calls) == ["names"] * len(KINDS) + ["packages"]


def test_a_published_preset_without_files_says_which_one_is_missing() -> None:
    with pytest.raises(CheckpointError, match="not found on this machine; it is published as"):
        registry.check(load_preset("wan2.1-t2v-1.3b"))


def test_attention_names_are_those_of_the_backends() -> None:
    assert tuple(BACKENDS) == registry.ATTENTION_BACKENDS


def _entries(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in entries]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)


def test_a_package_adds_a_component(monkeypatch: pytest.MonkeyPatch) -> None:
    _entries(monkeypatch, ("vae.identity", "collections:OrderedDict"))
    assert registry.components()["vae", "identity"] == "collections:OrderedDict"
    registry.check(load_preset("micro", ["components.vae.name=identity"]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("vae.wan-vae", "provides already"), ("identity", r"should be named kind\.name")],
)
def test_refuses_entry_points_that_clash(monkeypatch, name: str, message: str) -> None:
    _entries(monkeypatch, (name, "some_package:Thing"))
    with pytest.raises(ComponentError, match=message):
        registry.components()


def test_a_broken_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _entries(monkeypatch, ("vae.broken", "no_such_package:Thing"))
    spec = load_preset("micro", ["components.vae.name=broken"]).components.vae
    with pytest.raises(ComponentError, match="'broken' cannot be imported: No module named"):
        registry.load("vae", spec)


def test_checking_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from engine import registry\n"
        "from presets.library import load_preset\n"
        "registry.check(load_preset('micro'))\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_files_that_do_not_fit_each_other_are_refused(tmp_path) -> None:
    """Another width of text would be found out only when the first step is made."""
    text = tmp_path / "text.safetensors"
    shape = UMT5Shape(vocab=9, dim=64, ffn=16, layers=1, heads=2, buckets=32, inner=8)
    save_file({name: torch.zeros(size) for name, size in umt5(shape).items()}, text)
    with pytest.raises(
        ComponentError, match=r"its text width is 128, but that of components\.text_encoder"
    ):
        registry.check(
            load_preset(
                "micro",
                [
                    f"components.text_encoder.checkpoint={text}",
                    "components.text_encoder.tokenizer=builtin:micro",
                ],
            )
        )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": (1,)}, r"is not a vae \(not a component of Wan"),
        (umt5(UMT5Shape(vocab=9, dim=8, ffn=8, layers=1, heads=1, buckets=4, inner=8)),
         r"is a text encoder \(umt5 \(custom\)\); choose the file of a vae"),
        (vae22(), r"cannot be used as wan2\.2-vae: Wan 2\.2 is not supported yet"),
        (dict(list(vae(4).items())[:-1]), r"cannot be used as wan2\.1-vae \(custom\): 1 missing tensor"),
        (vae(4) | {"spare": (1,)}, r"1 unexpected tensor \(spare\)"),
        (vae(4) | {"conv1.bias": (3,)}, r"1 misshapen tensor \(conv1\.bias is \[3\] instead of \[32\]"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_told_before_anything_loads(tmp_path, tensors, message) -> None:
    file = tmp_path / "vae.safetensors"
    write_safetensors(file, {name: ("F32", shape) for name, shape in tensors.items()})
    with pytest.raises(CheckpointError, match=message):
        registry.check(load_preset("micro", [f"components.vae.checkpoint={file}"]))


def test_a_backend_that_does_not_run_here_is_refused_before_weights_are_read() -> None:
    spec = load_preset("micro", ["components.denoiser.attention=sage"]).components.denoiser
    with pytest.raises(ComponentError, match=r"'sage' does not work on .*`modiff doctor` lists"):
        registry.load("denoiser", spec)
