"""From where on a setting matters: what `reach` says by name is what the graphs of two specs show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.components.descriptions import Descriptions
from engine.graph import Given, Node, Targets, ordered
from engine.tasks.reach import reach
from engine.tasks.route import route_of
from engine.tasks.wan import graph_of
from presets.library.loading import load_preset, override
from presets.settings.by_key import changed_keys, settings_of
from presets.spec.run import RunSpec
from store.index.index import Index, open_index
from store.paths import prepare

SPEC = override(load_preset("micro"), ["scheduler.steps=2"])

OTHER = {
    "components.text_encoder.name": "other",
    "components.text_encoder.checkpoint": "other",
    "components.text_encoder.tokenizer": "other",
    "components.text_encoder.device": "cuda",
    "components.text_encoder.dtype": "bf16",
    "components.text_encoder.quantise": "int8",
    "components.text_encoder.unpack": "call",
    "components.denoiser.name": "other",
    "components.denoiser.checkpoint": "other",
    "components.denoiser.device": "cuda",
    "components.denoiser.dtype": "bf16",
    "components.denoiser.quantise": "int8",
    "components.denoiser.unpack": "call",
    "components.denoiser.activations": "quantised",
    "components.denoiser.resident_blocks": "1",
    "components.denoiser.guidance_device": "cpu",
    "components.denoiser.attention": "manual",
    "components.vae.name": "other",
    "components.vae.checkpoint": "other",
    "components.vae.device": "cuda",
    "components.vae.dtype": "bf16",
    "components.vae.chunk_frames": "1",
    "components.vae.tile_size": "128",
    "components.vae.tile_overlap": "32",
    "components.prompt_expander.name": "transformers",
    "components.prompt_expander.checkpoint": "other",
    "components.prompt_expander.url": "http://127.0.0.1:1/v1",
    "components.prompt_expander.api_key_env": "KEY",
    "components.prompt_expander.device": "cuda",
    "components.prompt_expander.dtype": "fp32",
    "expansion.enabled": "false",
    "expansion.template": "t2v-zh",
    "expansion.instructions": "say it longer",
    "expansion.temperature": "0.1",
    "expansion.top_p": "0.5",
    "expansion.max_tokens": "64",
    "expansion.seed": "1",
    "expansion.text": "a blue square that moves",
    **{
        f"components.{kind}.url": "http://127.0.0.1:1"
        for kind in ("text_encoder", "denoiser", "vae")
    },
    "prompt": "a blue square",
    "negative_prompt": "blurred",
    "width": "80",
    "height": "80",
    "frames": "21",
    "fps": "9",
    "output.format": "ffv1",
    "output.scale": "2",
    "output.resample": "lanczos",
    "seed": "1",
    "noise": "wan",
    "scheduler.name": "euler",
    "scheduler.steps": "3",
    "scheduler.shift": "5",
    "scheduler.grid": "diffusers",
    "scheduler.sigmas": "[1.0, 0.5]",
    "guidance.scale": "3",
    "extensions": '[{name="teacache"}]',
}
# What a graph does not hold: how its results are kept and where they are written.
FILES = {"output.path", "output.kinds", "output.overwrite"} | {
    key for key in settings_of(SPEC) if key.startswith("keep.")
}
# Of this there is one value.
CONSTANT = {"format"}
# What runs that begin from words alone have no use for (tests/unit/engine/chain/test_given.py).
OF_PICTURES = {"task", "max_area"} | {
    key
    for key in settings_of(SPEC)
    if key.startswith(("components.image_encoder.", "image.", "last_image.", "video."))
}
# What becomes of a run that fails, which no graph holds.
FAILING = {"expansion.on_failure"}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    prepare(tmp_path)
    with open_index(tmp_path) as opened:
        yield opened


def graph(spec: RunSpec, index: Index) -> Targets:
    micro = Descriptions(index)

    def describe(kind: str, part: object) -> object:
        """Of a component that does not exist: what the one of its kind tells."""
        return micro(kind, getattr(SPEC.components, kind))

    return graph_of(route_of(spec), describe, ("video",))


def what_it_is(node: Node) -> tuple[object, ...]:
    given = [each.data for each in node.inputs.values() if isinstance(each, Given)]
    part = msgspec.to_builtins(node.part)
    return node.stage.name, node.params, given, part, node.extensions


def first_that_differs(a: Targets, b: Targets) -> str:
    nodes = [[what_it_is(node) for node in ordered(list(each.values()))] for each in (a, b)]
    differ = {node[0] for one in (0, 1) for node in nodes[one] if node not in nodes[1 - one]}
    if "noise" in differ:
        return "noise"
    return "steps" if differ & {"expand", "text", "step"} else "end"


def test_every_setting_is_looked_at() -> None:
    assert {*OTHER, *FILES, *CONSTANT, *FAILING, *OF_PICTURES} == set(settings_of(SPEC))


@pytest.mark.parametrize("key", OTHER)
def test_a_setting_matters_where_the_graphs_differ(key: str, index: Index) -> None:
    # of a run that is not expanded the settings of that matter nowhere
    is_expanded = key.startswith(("expansion.", "components.prompt_expander."))
    spec = override(SPEC, ["expansion.enabled=true"]) if is_expanded else SPEC
    changed = override(spec, [f"{key}={OTHER[key]}"])
    [found] = {reach(each) for each in changed_keys(spec, changed)}
    before, after = graph(spec, index), graph(changed, index)
    assert what_it_is(before["video"].node)  # else nothing would be compared
    assert found == first_that_differs(before, after)


@pytest.mark.parametrize("key", sorted(FILES))
def test_what_is_in_no_graph_matters_at_the_end(key: str) -> None:
    assert reach(key) == "end"


def test_a_name_that_begins_like_another_is_not_taken_for_it() -> None:
    assert reach("components.vae_of_another_kind.name") == "steps"
