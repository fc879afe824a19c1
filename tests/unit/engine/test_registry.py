"""Components are found by name, from our table and from entry points, and checked before anything loads."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from engine import client
from engine.checkpoints.known.expected import CLIPShape, UMT5Shape, clip, umt5, vae, vae22
from engine.components import registry
from engine.components.choice import check, chosen
from engine.components.descriptions import Descriptions
from engine.components.needed import needed
from engine.components.protocols import KINDS, Description
from engine.components.providers import wan_dit
from engine.components.unseen import Published
from engine.errors import CheckpointError, ComponentError
from engine.models.attention import BACKENDS
from presets.errors import PresetError
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from store.index.index import open_index
from store.store import open_store
from tests.weights.model_files import write_safetensors


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "store")


ROOT = None


def checked(spec: RunSpec):
    with open_index(ROOT) as index:
        return check(spec, Descriptions(index))


def test_the_micro_preset_passes() -> None:
    checked(load_preset("micro"))


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("components.vae.name=other", ComponentError, r"vae\.name: unknown 'other'; known: remote, taehv, wan-vae"),
        ("components.denoiser.attention=flash9", ComponentError, "unknown backend 'flash9'; known: plain, sdpa"),
        ("components.vae.checkpoint=/nowhere.safetensors", CheckpointError, "is not there; put"),
        ("components.text_encoder.tokenizer=/nowhere.json", CheckpointError, "is not there; put"),
        ('extensions=[{name="teacach"}]', ComponentError, "unknown extension 'teacach', did you"),
        ('extensions=[{name="teacache",options={treshold=1}}]', PresetError, r"\[0\]\.options\.treshold: unknown"),
    ],
)  # fmt: skip
def test_refuses_what_is_not_there(override: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checked(load_preset("micro", [override]))


def test_a_published_preset_without_files_says_which_one_is_missing() -> None:
    with pytest.raises(CheckpointError, match="not found on this machine; it is published as"):
        checked(load_preset("wan2.1-t2v-1.3b"))


def test_attention_names_are_those_of_the_backends() -> None:
    assert tuple(BACKENDS) == wan_dit.ATTENTION_BACKENDS


def _entries(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, registry.ENTRY_POINT_GROUP) for name, value in entries]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


class Shelf:
    """A provider whose weights nobody has."""

    @staticmethod
    def describe(spec, index):
        return Description(
            {"name": spec.name}, {"latent_channels": 16, "latent_stride": [4, 8, 8]}, ""
        )

    @staticmethod
    def load(spec, about):
        raise AssertionError("it is described, never loaded")


def test_a_package_adds_a_component_which_is_not_loaded(monkeypatch) -> None:
    _entries(monkeypatch, ("vae.shelf", f"{__name__}:Shelf"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert registry.components()["vae", "shelf"] == f"{__name__}:Shelf"
    about = checked(load_preset("micro", ["components.vae.name=shelf"]))
    assert about["vae"].identity == {"name": "shelf"}


def test_what_is_no_provider_is_refused_by_name(monkeypatch) -> None:
    _entries(monkeypatch, ("vae.dict", "collections:OrderedDict"))
    with pytest.raises(ComponentError, match=r"'dict' .* has no describe and no load"):
        checked(load_preset("micro", ["components.vae.name=dict"]))


def test_the_kinds_that_stages_will_come_for_are_open(monkeypatch) -> None:
    _entries(monkeypatch, ("prompt_expander.echo", "m:p"), ("image_encoder.dino", "m:q"))
    assert registry.components()["prompt_expander", "echo"] == "m:p"


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
        registry.provider("vae", spec.name)


@pytest.mark.parametrize(("kind", "name"), registry.components())
def test_the_options_of_a_component_are_those_of_its_provider(kind: str, name: str) -> None:
    assert registry.options(kind, name) is getattr(registry.provider(kind, name), "Options", None)


def test_the_options_that_every_run_has_are_told_without_their_provider(monkeypatch) -> None:
    monkeypatch.setattr(registry, "provider", lambda kind, name: pytest.fail(f"imports {name}"))
    spec = load_preset("micro").components
    told = {kind: registry.options(kind, getattr(spec, kind).name) for kind in KINDS}
    assert [kind for kind, options in told.items() if options] == ["prompt_expander"]


def test_checking_imports_no_torch(tmp_path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from engine import client\n"
        "from presets.library.loading import load_preset\n"
        "from store.store import open_store\n"
        "with open_store(Path(sys.argv[1])) as store:\n"
        "    client.check(store, load_preset('micro'))\n"
        "    client.plan(store, load_preset('micro'))\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


THIRD_PARTY = """
FACTS = {"latent_channels": 16, "latent_stride": [4, 8, 8]}

def describe(spec, index):
    from engine.components.protocols import Description
    return Description({"name": spec.name, "weights": "elsewhere"}, FACTS, "elsewhere")

def load(spec, about):
    raise AssertionError("loaded")
"""
PLAN = """
import sys
from pathlib import Path
from engine import client
from presets.library.loading import load_preset
from store.store import open_store
with open_store(Path(sys.argv[1])) as store:
    plan = client.plan(store, load_preset("micro", ["components.vae.name=far-away"]))
print(sorted(plan.needs), [m for m in ("torch", "transformers", "numpy") if m in sys.modules])
"""


def test_a_component_of_another_package_is_planned_without_loading_it(tmp_path) -> None:
    """A viewer plans with what it could never load: an installed package, found as pip leaves it."""
    installed = tmp_path / "site"
    about = installed / "far_away-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: far-away\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[modiff.components]\nvae.far-away = far_away\n")
    (installed / "far_away.py").write_text(THIRD_PARTY)
    run = subprocess.run(
        [sys.executable, "-c", PLAN, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert run.stdout.strip() == "['denoiser', 'text_encoder', 'vae'] []"


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        (
            '{name="teecache"}',
            "extensions[0].name: unknown extension 'teecache', did you mean \"teacache\"?",
        ),
        (
            '{name="teacache",options={treshold=1}}',
            "extensions[0].options.treshold: unknown key, did you mean threshold?",
        ),
    ],
)
def test_an_extension_that_cannot_be_met_is_one_line_before_anything_is_queued(
    tmp_path, monkeypatch, extension: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_preset("micro", [f"extensions=[{extension}]"])
    with open_store(tmp_path / "store") as store:
        for ask in (client.submit, client.check, client.plan):
            with pytest.raises((ComponentError, PresetError)) as refused:
                ask(store, spec)
            assert str(refused.value) == message
        assert store.queued() == []


def test_files_that_do_not_fit_each_other_are_refused(tmp_path) -> None:
    """Another width of text would be found out only when the first step is made."""
    text = tmp_path / "text.safetensors"
    shape = UMT5Shape(vocab=138, dim=64, ffn=16, layers=1, heads=2, buckets=32, inner=8)
    save_file({name: torch.zeros(size) for name, size in umt5(shape).items()}, text)
    with pytest.raises(
        ComponentError,
        match=r"components\.denoiser: its text_dim is 128, but that of components\.text_encoder is 64",
    ):
        checked(
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
        checked(load_preset("micro", [f"components.vae.checkpoint={file}"]))


def test_a_backend_that_does_not_run_here_is_refused_before_weights_are_read() -> None:
    spec = load_preset("micro", ["components.denoiser.attention=sage"]).components.denoiser
    with pytest.raises(ComponentError, match=r"'sage' does not work on .*`modiff doctor` lists"):
        wan_dit.load(spec)


# Runs with pictures


def with_pictures(task: str, *overrides: str) -> RunSpec:
    encoder = "components.image_encoder.checkpoint=clip-vit-h-14"
    return msgspec.structs.replace(load_preset("wan2.1-t2v-14b", [encoder, *overrides]), task=task)


def checked_before_it_is_here(spec: RunSpec):
    with open_index(ROOT) as index:
        return check(spec, Published(Descriptions(index)))


@pytest.mark.parametrize(("task", "model"), [("i2v", "i2v-14b-480p"), ("flf2v", "flf2v-14b")])
def test_a_run_with_a_picture_has_an_image_encoder(task: str, model: str) -> None:
    spec = with_pictures(task, f"components.denoiser.checkpoint=wan2.1-{model}")
    assert list(chosen(spec)) == ["text_encoder", "image_encoder", "denoiser", "vae"]
    about = checked_before_it_is_here(spec)
    assert about["image_encoder"].facts == {"image_dim": 1280, "image_tokens": 257}
    assert about["denoiser"].facts["takes"] == ["text", "image", "latents"]
    kinds = [part.kind for part in needed(spec, [])]
    assert kinds == ["text_encoder", "tokenizer", "image_encoder", "denoiser", "vae"]


def test_a_run_without_has_none() -> None:
    spec = load_preset("micro")  # whose image encoder has no checkpoint
    assert "image_encoder" not in chosen(spec)
    assert "image_encoder" not in {part.kind for part in needed(spec, [])}
    assert "image_encoder" not in checked(spec)


@pytest.mark.parametrize(
    ("task", "model", "words"),
    [
        ("t2v", "i2v-14b-480p", "is an image-to-video model (it takes image, latents too); the task t2v"),
        ("i2v", "t2v-14b", "takes text alone; the task i2v needs an image-to-video model"),
        ("i2v", "flf2v-14b", "is a model of the task flf2v, not of i2v"),
        ("flf2v", "i2v-14b-720p", "is a model of the task i2v, not of flf2v"),
    ],
)  # fmt: skip
def test_a_denoiser_is_for_one_task(task: str, model: str, words: str) -> None:
    spec = with_pictures(task, f"components.denoiser.checkpoint=wan2.1-{model}")
    with pytest.raises(ComponentError) as told:
        checked_before_it_is_here(spec)
    assert (words in str(told.value), told.value.key) == (True, "components.denoiser.checkpoint")


def test_an_image_encoder_of_another_width_does_not_fit(tmp_path) -> None:
    shape = CLIPShape(width=160, layers=2, mlp=8, patch=2, tokens=5)
    path = tmp_path / "clip.safetensors"
    save_file({name: torch.zeros(size) for name, size in clip(shape).items()}, path)
    model = "components.denoiser.checkpoint=wan2.1-i2v-14b-480p"
    spec = with_pictures("i2v", model, f"components.image_encoder.checkpoint={path}")
    with pytest.raises(ComponentError, match=r"its image_dim is 1280, but .*image_encoder is 160"):
        checked_before_it_is_here(spec)
