"""Parts of a run on several devices: pretended ones, where every operation is the CPU's, so that a run comes to the
same bits wherever its parts are said to run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.checkpoints.locate import locate
from engine.components.choice import check, check_here, settle
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.components.providers import wan_dit
from engine.errors import ComponentError
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.extensions.caching import teacache
from engine.inputs.settle import settle as settled
from engine.models.vae import layers
from engine.output import media
from engine.reports import Control, memory_sample
from engine.results import MemoryResults
from engine.tasks.route import route_of
from engine.tasks.wan import graph_of
from presets.library.loading import load_preset
from presets.spec.components import DenoiserSpec
from store.index.index import Index, open_index
from store.lineage.events import Event, Message
from store.lineage.records import LinkRecord
from store.store import open_store
from tests.pairwise import Choice, every_pair
from tests.pretended import pretended

SMALL = ("width=16", "height=16", "frames=5", "scheduler.steps=2")


@dataclass
class Lab:
    """made: (stage, digest of what it made, environment) of the last run."""

    index: Index
    results: MemoryResults = field(init=False)
    residents: Residents = field(default_factory=Residents)
    made: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.results = MemoryResults(self._take)

    def _take(self, link: LinkRecord, stage: str, index: int, latents: Any) -> None:
        self.made.append((stage, link.digest or link.latents, link.environment))

    def run(self, *settings: str, preset: str = "micro") -> list[tuple[str, str]]:
        """(stage, digest) of all that a run makes, in order."""
        spec = settle(load_preset(preset, (*SMALL, *settings)))
        spec = settled(spec, self.index, lambda key: False).spec
        self.made, self.events = [], []
        describe = Descriptions(self.index)
        check(spec, describe)
        execution = Execution(
            graph_of(route_of(spec), describe, ("video",)),
            self.results,
            describe,
            lambda: self.residents,
            Control(self.events.append, lambda: None),
            Keeping(),
        )
        execution.run(execution.plan())
        return [(stage, digest) for stage, digest, _ in self.made]

    @property
    def loaded(self) -> list[str]:
        told = (event.text for event in self.events if isinstance(event, Message))
        return [text for text in told if text.startswith("loaded")]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_store(tmp_path / "store") as store, open_index(store.root) as index:
        yield Lab(index)


@pytest.fixture
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def gpus(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And no call that is another one on the CPU, or for both halves of the guidance."""

    convolve = layers._conv3d

    def convolved(conv: nn.Conv3d, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return convolve(conv, x)
        options: Any = conv.padding, conv.stride, conv.dilation, conv.groups
        found: Tensor = torch.mkldnn_convolution(x, conv.weight, conv.bias, *options)  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(layers, "_conv3d", convolved)
    monkeypatch.setattr(wan_dit, "BATCHED_GUIDANCE_TOKENS", 0)
    with pretended(monkeypatch):
        yield


KINDS = ("text_encoder", "image_encoder", "denoiser", "vae")
TEACACHE = '[{name="teacache", options={threshold=0.5}}]'
SKIP = '[{name="skip-layer-guidance", options={blocks="1", start=0}}]'

TILES = ["width=80", "frames=1", "components.vae.tile_size=64", "components.vae.tile_overlap=16"]
RARE = "guidance.scale=[1, 5]"


def places(text_encoder: str, image_encoder: str, denoiser: str, vae: str) -> list[str]:
    named = zip(KINDS, (text_encoder, image_encoder, denoiser, vae), strict=True)
    return [f"components.{kind}.device={device}" for kind, device in named]


def beside(device: str) -> str:
    return f"components.denoiser.guidance_device={device}"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that a run begins from, by their settings."""
    tmp_path = tmp_path_factory.mktemp("given")
    frames = torch.arange(5 * 32 * 32 * 3).remainder(251).to(torch.uint8).view(5, 32, 32, 3)
    found = {name: str(tmp_path / f"{name}.png") for name in ("image", "last_image")}
    for index, path in enumerate(found.values()):
        Image.fromarray(frames[index].numpy()).save(path)
    found["video"] = str(tmp_path / "clip.mp4")
    Path(found["video"]).write_bytes(media.encode_video([frames], fps=8, size=(32, 32), comment=""))
    return found


@pytest.mark.parametrize(
    ("preset", "starts", "settings", "where"),
    [
        ("micro", (), TILES, [*places("cuda:1", "cpu", "cuda:0", "mps"), beside("cuda:1")]),
        ("micro", (), [f"extensions={TEACACHE}"], [*places("mps", "cpu", "cuda", "auto"), beside("cpu")]),
        ("micro", (), [f"extensions={SKIP}", RARE], [*places("auto", "cpu", "cpu", "cuda:1"), beside("mps")]),
        ("micro", (), ["noise=wan", "scheduler.name=sde-dpm++"], places("cpu", "cpu", "mps", "cpu")),
        ("micro-i2v", ("image",), [], [*places("cpu", "cuda:1", "mps", "cuda:0"), beside("cuda:0")]),
        ("micro-flf2v", ("image", "last_image"), [], [*places("cuda:0", "mps", "cuda:1", "cuda:0"), beside("mps")]),
        ("micro", ("video",), ["video.strength=0.7"], [*places("cuda:0", "cpu", "cuda:1", "cuda:1"), beside("cuda:0")]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("gpus")
def test_it_comes_to_the_same_bits_wherever_its_parts_are(
    lab: Lab,
    given: dict[str, str],
    preset: str,
    starts: Sequence[str],
    settings: list[str],
    where: list[str],
) -> None:
    begun = [f"{name}.path={given[name]}" for name in starts]
    here = lab.run(*settings, *begun, *places("cpu", "cpu", "cpu", "cpu"), preset=preset)
    lab.results = MemoryResults(lab._take)
    assert lab.run(*settings, *begun, *where, preset=preset) == here
    assert len(here) >= 5


DTYPES = ("fp32", "bf16", "fp16")
# Of settings of every kind that say where and how a run is computed. Of guidance_device with the denoiser's: none, the
# same one, a card beside another, and devices of two kinds.
VALUES: dict[str, Sequence[str]] = {
    "begins from": ("micro", "micro-flf2v image last_image", "micro video"),
    **{f"components.{kind}.device": ("cpu", "cuda:1", "mps") for kind in KINDS},
    "components.denoiser.guidance_device": ("", "cpu", "cuda:0", "mps"),
    **{f"components.{kind}.dtype": DTYPES for kind in KINDS if kind != "vae"},
    "components.denoiser.attention": ("plain", "sdpa"),
    "components.denoiser.quantise": ("", "fp8", "int8"),
    "components.denoiser.unpack": ("auto", "load"),
    "components.denoiser.activations": ("plain", "quantised"),
    "components.denoiser.resident_blocks": ("all", "1"),
    "components.text_encoder.quantise": ("", "int8"),
    "components.vae.chunk_frames": ("0", "1"),
    "extensions": ("[]", TEACACHE, SKIP),
    "guidance.scale": ("5", "[5, 1]"),
    "noise": ("cpu", "wan"),
    "scheduler.name": ("unipc", "sde-dpm++"),
}


def is_refused(choice: Choice) -> bool:
    """What tests/unit/checkpoints/packing/test_packed.py holds to a reason, and the test below."""
    quantise = choice.get("components.denoiser.quantise")
    places = [choice.get(f"components.denoiser.{name}") for name in ("device", "guidance_device")]
    return choice.get("components.denoiser.activations") == "quantised" and (
        quantise == ""
        or choice.get("components.denoiser.unpack") == "load"
        or (quantise == "fp8" and "mps" in places)
    )


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"device": "mps", "quantise": "fp8", "activations": "quantised"}, "activations"),
        ({"guidance_device": "mps", "quantise": "fp8", "activations": "quantised"}, "activations"),
        ({"guidance_device": "cuda:1", "attention": "sdpa-cudnn"}, "attention"),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_what_one_of_two_devices_cannot_do_is_refused(settings: dict[str, Any], key: str) -> None:
    """Before anything is computed. sdpa-cudnn: these cards are the CPU, which has it not."""
    part = DenoiserSpec(checkpoint="builtin:micro", dtype="fp32", **{"device": "cpu", **settings})
    with pytest.raises(ComponentError, match=rf"^components\.denoiser\.{key}: ") as caught:
        check_here([("denoiser", part)])
    assert "another device" in str(caught.value) or "does not work on" in str(caught.value)


# what the CPU does in ways of its own
HERE = {
    "begins from": ("micro",),
    "components.denoiser.device": ("cpu",),
    "components.denoiser.guidance_device": ("", "cpu"),
    "components.denoiser.dtype": DTYPES,
    "components.denoiser.attention": ("plain", "sdpa", "sdpa-flash"),
    "components.denoiser.quantise": ("", "fp8", "int8"),
    "components.denoiser.unpack": ("auto", "load"),
    "components.denoiser.resident_blocks": ("all", "1"),
    "components.vae.dtype": ("fp32", "bf16"),
}


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Of the presets that a run begins from, the model's first two blocks: one more than `SKIP` leaves out."""
    found = {}
    for preset in ("micro", "micro-flf2v"):
        source = locate("denoiser", f"builtin:{preset}")
        path = tmp_path_factory.mktemp(preset) / source.name
        config = json.loads(source.with_name("config.json").read_text())
        path.with_name("config.json").write_text(json.dumps({**config, "num_layers": 2}))
        deeper = tuple(f"blocks.{number}." for number in range(2, config["num_layers"]))
        weights = load_file(source)
        save_file({name: weights[name] for name in weights if not name.startswith(deeper)}, path)
        found[preset] = path
    with pytest.MonkeyPatch.context() as patch:
        for name in ("wan2.1-t2v (custom)", "wan2.1-flf2v (custom)"):
            patch.setitem(teacache.COEFFICIENTS, name, teacache.COEFFICIENTS["micro"])
        yield found


def run_of(
    lab: Lab, given: dict[str, str], shallow: dict[str, Path], choice: Choice
) -> list[tuple[str, str]]:
    preset, *starts = choice["begins from"].split()
    settings = [f"{name}.path={given[name]}" for name in starts]
    settings += [f"components.denoiser.checkpoint={shallow[preset]}"]
    settings += [f"{key}={value}" for key, value in choice.items() if key != "begins from"]
    return lab.run(*settings, preset=preset)


@pytest.mark.parametrize("choice", every_pair(VALUES, is_refused))
@pytest.mark.usefixtures("gpus")
def test_every_pair_of_settings_runs(
    lab: Lab, given: dict[str, str], shallow: dict[str, Path], choice: Choice
) -> None:
    assert run_of(lab, given, shallow, choice)[-1][0] == "video"


@pytest.mark.parametrize("choice", every_pair(HERE, is_refused))
@pytest.mark.usefixtures("one_thread")
def test_every_pair_of_settings_runs_here(
    lab: Lab, given: dict[str, str], shallow: dict[str, Path], choice: Choice
) -> None:
    assert run_of(lab, given, shallow, choice)[-1][0] == "video"
    assert not any("once more" in text for text in lab.loaded)


@pytest.mark.usefixtures("gpus")
def test_conditions_from_the_store_stand_beside_those_just_made(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative prompt of the second run is stored, its prompt was encoded on another card; both halves of the
    guidance go through the model in one call."""
    monkeypatch.setattr(wan_dit, "BATCHED_GUIDANCE_TOKENS", 2048)
    where = places("cuda:1", "cpu", "cuda:0", "cpu")
    lab.run("prompt=a red square moves left", *where)
    second = lab.run("prompt=a blue circle moves right", *where)
    assert [stage for stage, _ in second].count("text") == 1
    lab.results = MemoryResults(lab._take)
    alone = lab.run("prompt=a blue circle moves right", *places("cpu", "cpu", "cpu", "cpu"))
    assert {*second} < {*alone}


@pytest.mark.parametrize(
    ("settings", "loads"),
    [
        (["components.denoiser.device=auto", beside("cuda:0")], 1),
        (["components.denoiser.device=cuda", beside("cuda:0")], 1),
        (["components.denoiser.device=cuda:1", beside("cuda:1")], 1),
        (["components.denoiser.device=cuda:1", beside("cuda:0"), "guidance.scale=1"], 1),
        (["components.denoiser.device=cuda:1", beside("cuda:0"), "guidance.scale=[1, 4]"], 2),
    ],
)
@pytest.mark.usefixtures("gpus")
def test_a_copy_for_each_device_that_guidance_needs(
    lab: Lab, settings: list[str], loads: int
) -> None:
    """They stay for the next run; what a half ran on beside another device is recorded."""
    lab.run(*settings)
    told = [text for text in lab.loaded if "denoiser" in text]
    assert len(told) == loads
    assert [("once more on cuda:0" in text) for text in told] == [False, True][:loads]
    lab.run(*settings, "seed=1")
    assert lab.loaded == []


@pytest.mark.usefixtures("gpus")
def test_the_environment_of_steps_on_two_kinds_of_device(lab: Lab) -> None:
    lab.run("components.denoiser.device=cuda:1", beside("cpu"), "scheduler.steps=1")
    (told,) = [environment for stage, _, environment in lab.made if stage == "step"]
    assert '"device":"cuda"' in told
    assert '"guidance device":"cpu"' in told


@pytest.mark.usefixtures("gpus")
def test_a_copy_stays_while_the_other_is_loaded_again(lab: Lab) -> None:
    """What the first card has to give up for the decoder says nothing of the second."""
    on = ["components.denoiser.device=cuda:0", beside("cuda:1"), "components.vae.device=cuda:0"]
    lab.residents = Residents({"cuda:0": 1})
    lab.run(*on)
    lab.run(*on, "seed=1")
    told = [text for text in lab.loaded if "denoiser" in text]
    assert len(told) == 1
    assert "once more" not in told[0]


@pytest.mark.usefixtures("gpus")
def test_what_a_run_holds_is_that_of_all_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {0: 3, 1: 40}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda card: held[card])
    assert memory_sample().device_bytes == 43
