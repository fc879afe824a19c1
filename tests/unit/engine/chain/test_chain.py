"""Keys: what counts, what does not, and that docs/keys.md says so. Torch-free: no model is needed to know a key."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoints.locate import locate
from engine.components.descriptions import Descriptions
from engine.extensions import registry
from engine.graph import Given, Node, key_of, ordered
from engine.tasks.route import course_of, route_of
from engine.tasks.wan import NOISE, STEP, TEXT, VIDEO
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec
from store.blobs.blobs import digest_of
from store.index.index import open_index
from store.lineage.records import Segment
from store.store import Store, open_store
from tests import numerics
from tests.stores.chains import SPEC, describe, fake_digest, graph, planned

KINDS = tuple(stage.name for stage in (TEXT, NOISE, STEP, VIDEO))

DOCS = Path(__file__).parents[4] / "docs"


@dataclass(frozen=True)
class Keys:
    """All keys of a run whose prompts were encoded: the latents are a fiction that follows the last step."""

    text: tuple[str, ...]
    noise: str
    step: tuple[str, ...]
    video: str

    def differing(self, other: Keys) -> set[str]:
        return {kind for kind in KINDS if getattr(self, kind) != getattr(other, kind)}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("store")) as opened:
        yield opened


def keys_of(store: Store, spec: RunSpec, segments: Sequence[Segment] = ()) -> Keys:
    plan = planned(store, spec, segments)
    step = tuple(plan.keys[node] for node in plan.chain)
    return Keys(
        tuple(plan.keys[node] for node in plan.nodes("text_encode")),
        plan.keys[plan.chain[0].before],
        step,
        own_key(video_of(spec), {"latents": fake_digest(step[-1])}),
    )


def direct_keys(spec: RunSpec) -> Keys:
    """The keys with everything that comes from other keys held fixed: what changes here is in the key itself."""
    video = graph(override(spec, ['output.kinds=["video"]']))["video"]
    nodes = ordered([video])

    def keys(name: str) -> tuple[str, ...]:
        return tuple(
            own_key(node, {slot: f"what {slot} is" for slot in node.inputs})
            for node in nodes
            if node.stage.name == name
        )

    (noise,), (shown,) = keys(NOISE.name), keys(VIDEO.name)
    return Keys(keys(TEXT.name), noise, keys(STEP.name), shown)


def own_key(node: Node, names: dict[str, str]) -> str:
    """The key of a node whose inputs are called so; what was given has its own digest."""
    given = {
        slot: digest_of(value.data)
        for slot, value in node.inputs.items()
        if isinstance(value, Given)
    }
    on = None if node.part is None else describe(node.stage.component, node.part).identity
    return key_of(node, names | given, on)


def video_of(spec: RunSpec) -> Node:
    """That of a run, whether or not it is asked for."""
    return graph(override(spec, ['output.kinds=["video"]']))["video"].node


# Equal work has equal keys

plain_specs = st.fixed_dictionaries(
    {},
    optional={
        "prompt": st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20
        ),
        "negative_prompt": st.sampled_from(["", "blurred"]),
        "seed": st.integers(0, 2**64 - 1),
        "width": st.sampled_from([64, 128]),
        "fps": st.integers(1, 120),
        "guidance": st.fixed_dictionaries({"scale": st.sampled_from([0.0, 1.0, 2.5, 5.0])}),
        "scheduler": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["unipc", "dpm++", "euler"]),
                "steps": st.integers(1, 6),
                "shift": st.sampled_from([1.0, 3.0, 5.5]),
            }
        ),
        "components": st.fixed_dictionaries(
            {"denoiser": st.fixed_dictionaries({"checkpoint": st.sampled_from(["a", "b"])})}
        ),
    },
)


def respelled(value: Any, generator: random.Random) -> Any:
    """The same JSON with keys in another order and whole floats as integers."""
    if isinstance(value, dict):
        names = list(value)
        generator.shuffle(names)
        return {name: respelled(value[name], generator) for name in names}
    if isinstance(value, list):
        return [respelled(each, generator) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plain=plain_specs, seed=st.integers(0, 2**32))
def test_key_order_and_the_spelling_of_numbers_do_not_count(store: Store, plain, seed: int) -> None:
    spec = decode_spec(msgspec.json.encode(plain))
    whole = json.loads(encode_spec(spec))
    again = decode_spec(json.dumps(respelled(whole, random.Random(seed))).encode())
    assert keys_of(store, again) == keys_of(store, spec)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plain=plain_specs,
    overrides=st.lists(
        st.sampled_from(
            [
                "components.denoiser.device=cuda:7",
                "components.text_encoder.device=cpu",
                "components.vae.device=mps",
                "components.denoiser.checkpoint=copy of a",
                "output.path=elsewhere.mp4",
                'output.kinds=["latents", "frames"]',
                "output.overwrite=true",
                "keep.every=3",
                "keep.steps=[1]",
                "keep.budget_mb=0",
            ]
        ),
        min_size=1,
    ),
)
def test_where_it_runs_and_what_becomes_of_it_do_not_count(store: Store, plain, overrides) -> None:
    base = override(
        decode_spec(msgspec.json.encode(plain)),
        ["components.denoiser.device=cuda:0", "components.denoiser.checkpoint=a"],
    )
    assert keys_of(store, override(base, overrides)) == keys_of(store, base)


@pytest.mark.parametrize(
    "prompt", ["a  red\n circle ", "a red circle\u00a0", "a&#32;red circle", "a red&amp;#32;circle"]
)
def test_a_prompt_counts_as_it_is_cleaned(store: Store, prompt: str) -> None:
    spec = msgspec.structs.replace(SPEC, prompt=prompt)
    assert keys_of(store, spec) == keys_of(store, SPEC)


def test_a_prompt_that_only_looks_alike_counts(store: Store) -> None:
    for prompt in ("a Red circle", "a red circle.", "a rеd circle"):
        spec = msgspec.structs.replace(SPEC, prompt=prompt)
        assert keys_of(store, spec).differing(keys_of(store, SPEC)) == {"text", "step", "video"}


def test_one_guidance_has_no_negative_prompt(store: Store) -> None:
    plain = override(SPEC, ["guidance.scale=1"])
    other = override(plain, ["negative_prompt=something else"])
    assert keys_of(store, plain) == keys_of(store, other)
    assert len(keys_of(store, plain).text) == 1
    assert keys_of(store, plain).text[0] == keys_of(store, SPEC).text[0]
    assert not set(keys_of(store, plain).step) & set(keys_of(store, SPEC).step)


def test_one_schedule_written_in_two_ways(store: Store) -> None:
    grid = override(SPEC, ["scheduler.shift=3"])
    written = json.dumps(list(course_of(grid).sigmas[:-1]))
    own = override(SPEC, [f"scheduler.sigmas={written}", "scheduler.shift=9"])
    assert keys_of(store, own).step == keys_of(store, grid).step


# What changes numbers changes the links from there on, and none before


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler"])
def test_a_changed_sigma_changes_the_steps_from_the_one_that_leads_to_it(
    store: Store, name: str
) -> None:
    sigmas = [0.95, 0.8, 0.6, 0.45, 0.3, 0.1]
    base = override(SPEC, [f"scheduler.name={name}", f"scheduler.sigmas={sigmas}"])
    before = keys_of(store, base).step
    for index in range(len(sigmas)):
        changed = [sigma - 0.01 * (i == index) for i, sigma in enumerate(sigmas)]
        after = keys_of(store, override(base, [f"scheduler.sigmas={changed}"])).step
        first = max(0, index - 1)
        assert after[:first] == before[:first]
        assert not set(after[first:]) & set(before)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stop=st.integers(1, 4),
    change=st.sampled_from(
        [
            "prompt=something else",
            "guidance.scale=3",
            "components.denoiser.dtype=fp32",
            "components.denoiser.checkpoint=b",
            "scheduler.name=euler",
            "scheduler.shift=1.5",
            "scheduler.steps=9",
        ]
    ),
)
def test_a_branch_shares_the_steps_before_it_and_no_other(
    store: Store, stop: int, change: str
) -> None:
    segment = Segment(stop, encode_spec(SPEC))
    before = keys_of(store, SPEC).step
    after = keys_of(store, override(SPEC, [change]), [segment]).step
    assert after[:stop] == before[:stop]
    assert not set(after[stop:]) & set(before)


def test_the_last_step_is_the_same_by_any_way_that_leads_to_it(store: Store) -> None:
    """From the last level to none every solver goes where the velocity points: equal work, equal key."""
    segment = Segment(5, encode_spec(SPEC))
    for change in ("scheduler.name=euler", "scheduler.shift=5.01"):
        after = keys_of(store, override(SPEC, [change]), [segment])
        assert after == keys_of(store, SPEC)


def test_a_branch_that_changes_nothing_is_the_same_chain(store: Store) -> None:
    segment = Segment(3, encode_spec(SPEC))
    assert keys_of(store, SPEC, [segment]) == keys_of(store, SPEC)


def test_a_branch_of_a_branch_keeps_the_first_part_of_each(store: Store) -> None:
    """The middle part's solver must not be taken for that of the steps before it, on equal levels."""
    sigmas = "scheduler.sigmas=[0.9, 0.7, 0.5, 0.3, 0.1]"
    first = override(SPEC, [sigmas])
    second = override(first, ["scheduler.name=dpm++"])
    third = override(second, ["guidance.scale=2"])
    segments = [Segment(2, encode_spec(first)), Segment(4, encode_spec(second))]
    keys = keys_of(store, third, segments).step
    assert keys[:2] == keys_of(store, first).step[:2]
    assert keys[:4] == keys_of(store, second, segments[:1]).step[:4]
    assert len(set(keys)) == 5


def test_the_order_and_the_options_of_extensions_count(store: Store) -> None:
    def with_extensions(*extensions: dict[str, Any]) -> Keys:
        plain = json.loads(encode_spec(SPEC)) | {"extensions": list(extensions)}
        return keys_of(store, decode_spec(json.dumps(plain).encode()))

    cache = {"name": "teacache", "options": {"threshold": 0.1, "start": 0.0}}
    skip = {"name": "skip-layer-guidance", "options": {"blocks": "1"}}
    found = [
        with_extensions(),
        with_extensions(cache),
        with_extensions(cache, skip),
        with_extensions(skip, cache),
        with_extensions(cache | {"options": {"threshold": 0.2, "start": 0.0}}),
        with_extensions(skip | {"options": {"blocks": "2"}}),
    ]
    assert len({keys.step for keys in found}) == len(found)
    assert len({(keys.text, keys.noise) for keys in found}) == 1
    swapped = cache | {"options": {"start": 0.0, "threshold": 0.1}}
    assert with_extensions(swapped) == with_extensions(cache)


class Exact:
    exact: ClassVar[bool] = True
    version: ClassVar[int] = 1
    Options: ClassVar[type[msgspec.Struct]] = msgspec.defstruct("Options", [], frozen=True)

    def __init__(self, options: Any, facts: Any) -> None: ...

    def is_active(self, step: int, total: int) -> bool:
        return True


def test_an_extension_counts_at_the_steps_where_it_is_active_and_an_exact_one_at_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = keys_of(store, SPEC).step
    cached = '[{name = "teacache", options = {start = 0.5}}]'
    late = keys_of(store, override(SPEC, [f"extensions={cached}"])).step
    assert late[:3] == plain[:3]
    assert not set(late[3:]) & set(plain)
    monkeypatch.setitem(sys.modules, "exact_extension", sys.modules[__name__])
    monkeypatch.setitem(registry.extensions(), "exact", "exact_extension:Exact")
    exact = keys_of(store, override(SPEC, ['extensions=[{name = "exact"}]'])).step
    assert exact == plain


def test_block_swap_as_it_was_once_written_leaves_the_keys(store: Store) -> None:
    cache = {"name": "teacache", "options": {"threshold": 0.1}}
    swap = {"name": "block-swap", "options": {"resident_blocks": 3}, "enabled": True}
    stored = json.loads(encode_spec(SPEC))
    found = decode_spec(json.dumps(stored | {"extensions": [swap, cache]}).encode())
    assert found.components.denoiser.resident_blocks == "3"
    cached = decode_spec(json.dumps(stored | {"extensions": [cache]}).encode())
    assert keys_of(store, found) == keys_of(store, cached)


def test_an_extension_that_is_off_is_in_no_key_and_need_not_exist(store: Store) -> None:
    cache = '{name = "teacache", options = {threshold = 0.2}'
    absent = '{name = "nowhere", enabled = false}'
    on = keys_of(store, override(SPEC, [f"extensions=[{cache}}}]"]))
    assert keys_of(store, override(SPEC, [f"extensions=[{absent}, {cache}}}]"])) == on
    off = override(SPEC, [f"extensions=[{cache}, enabled = false}}, {absent}]"])
    assert keys_of(store, off) == keys_of(store, SPEC)


def test_one_schedule_of_guidance_written_in_two_ways(store: Store) -> None:
    """A step counts with the scale that it has, and where that is 1 without the negative prompt."""
    pieces = override(SPEC, ["guidance.scale=[{from = 0, to = 0.5, scale = 5}]"])
    each = override(SPEC, ["guidance.scale=[5, 5, 5, 1, 1, 1]"])
    assert keys_of(store, pieces) == keys_of(store, each)
    assert keys_of(store, each).step[:3] == keys_of(store, SPEC).step[:3]
    none = override(each, ["guidance.scale=1"])
    assert direct_keys(each).step[3:] == direct_keys(none).step[3:]


def test_the_noise_of_a_solver_counts_with_the_seed() -> None:
    """Its last step adds none."""
    solver = override(SPEC, ["scheduler.name=sde-dpm++"])
    mine, others = direct_keys(solver).step, direct_keys(override(solver, ["seed=1"])).step
    assert [a == b for a, b in zip(mine, others, strict=True)] == [False] * 5 + [True]


def test_no_two_steps_of_a_run_are_one(store: Store) -> None:
    """Near sigma 1 timesteps repeat; the chain tells steps apart all the same."""
    spec = override(SPEC, ["scheduler.steps=200", "scheduler.shift=16"])
    assert len(set(course_of(spec).timesteps)) < 200
    assert len(set(keys_of(store, spec).step)) == 200


def test_a_segment_of_all_steps_leaves_the_decoding_to_the_run() -> None:
    own = override(SPEC, ["components.vae.chunk_frames=1"])
    route = route_of(own, [Segment(6, encode_spec(SPEC))])
    assert [(part.start, part.stop, part.spec) for part in route.parts] == [(0, 6, SPEC)]
    assert (route.spec, route.num_steps) == (own, 6)


@pytest.mark.parametrize("stop", [7, 100])
def test_a_segment_beyond_the_last_step(stop: int) -> None:
    with pytest.raises(PresetError, match=rf"cannot branch there: step {stop} of 6"):
        route_of(SPEC, [Segment(stop, encode_spec(SPEC))])


def test_whose_settings_hold_at_a_step() -> None:
    second = override(SPEC, ["guidance.scale=2"])
    route = route_of(second, [Segment(4, encode_spec(SPEC))])
    chain = [
        node
        for node in ordered([*graph(second, [Segment(4, encode_spec(SPEC))]).values()])
        if node.stage is STEP
    ]
    assert [node.params["guidance"] for node in chain] == [5, 5, 5, 5, 2, 2]
    assert [(part.start, part.stop) for part in route.parts] == [(0, 4), (4, 6)]


# Every setting, as docs/keys.md has it

CHANGES: dict[str, str] = {
    "components.text_encoder.name": "other",
    "components.text_encoder.checkpoint": "b",
    "components.text_encoder.tokenizer": "b",
    "components.text_encoder.device": "cpu",
    "components.text_encoder.dtype": "fp32",
    "components.text_encoder.quantise": "int8",
    "components.text_encoder.unpack": "call",
    "components.text_encoder.url": '"http://mac:1"',
    "components.text_encoder.options": "{layer = 2}",
    "components.image_encoder.name": "other",
    "components.image_encoder.checkpoint": "b",
    "components.image_encoder.device": "cpu",
    "components.image_encoder.dtype": "bf16",
    "components.image_encoder.fit": "crop",
    "components.image_encoder.url": '"http://mac:1"',
    "components.image_encoder.options": "{layer = 2}",
    "components.denoiser.name": "other",
    "components.denoiser.checkpoint": "b",
    "components.denoiser.device": "cpu",
    "components.denoiser.dtype": "fp32",
    "components.denoiser.quantise": "int8",
    "components.denoiser.unpack": "call",
    "components.denoiser.activations": "quantised",
    "components.denoiser.resident_blocks": "1",
    "components.denoiser.guidance_device": "cpu",
    "components.denoiser.attention": "plain",
    "components.denoiser.url": '"http://mac:1"',
    "components.denoiser.options": "{rate = 0.5}",
    "components.vae.name": "other",
    "components.vae.checkpoint": "b",
    "components.vae.device": "cpu",
    "components.vae.dtype": "bf16",
    "components.vae.chunk_frames": "1",
    "components.vae.tile_size": "256",
    "components.vae.tile_overlap": "32",
    "components.vae.url": '"http://mac:1"',
    "components.vae.options": "{sharp = true}",
    "prompt": "a blue circle",
    "negative_prompt": "sharp",
    "width": "80",
    "height": "80",
    "frames": "21",
    "fps": "8",
    "seed": "1",
    "noise": "wan",
    "scheduler.name": "euler",
    "scheduler.steps": "7",
    "scheduler.shift": "4.5",
    "scheduler.grid": "diffusers",
    "scheduler.sigmas": "[0.8, 0.4]",
    "guidance.scale": "6",
    "extensions": '[{name = "teacache"}]',
    "output.path": "other.mp4",
    "output.kinds": '["frames"]',
    "output.format": "ffv1",
    "output.scale": "2",
    "output.resample": "lanczos",
    "output.overwrite": "true",
    "keep.every": "2",
    "keep.first": "2",
    "keep.last": "2",
    "keep.steps": "[3]",
    "keep.budget_mb": "1",
}
# what an expanded prompt is made of (tests/unit/engine/expansion), and what a run begins from (test_given.py)
UNCHANGEABLE = {"task", "max_area"} | {
    field.key
    for field in fields(RunSpec)
    if field.key.startswith(
        ("components.prompt_expander.", "expansion.", "image.", "last_image.", "video.")
    )
}
CONDITION = re.compile(r"(in|through) (if|unless) `([a-z_.]+)` is `(.+)`")


def documented() -> dict[str, dict[str, str]]:
    """setting -> kind of key -> what docs/keys.md says of it."""
    page = (DOCS / "keys.md").read_text(encoding="utf-8")
    table = page.partition("<!-- settings -->")[2].partition("<!-- end of settings -->")[0]
    found = {}
    for line in table.strip().splitlines()[2:]:
        name, *cells, _ = (cell.strip() for cell in line.strip("|").split("|"))
        found[name.strip("`")] = dict(zip(KINDS, cells, strict=True))
    return found


DOCUMENTED = documented()


def test_every_setting_has_a_row() -> None:
    settable = [field.key for field in fields(RunSpec)]
    assert list(DOCUMENTED) == settable
    assert set(CHANGES) | UNCHANGEABLE == set(settable)


@pytest.mark.parametrize("setting", CHANGES)
def test_what_is_written_of_a_setting_is_true(store: Store, setting: str) -> None:
    cells = DOCUMENTED[setting]
    conditions = {
        found.groups()[1:] for cell in cells.values() if (found := CONDITION.fullmatch(cell))
    }
    assert len(conditions) <= 1
    base = SPEC
    check_cells(store, base, setting, lambda word, when: when != "if")
    for _, key, value in conditions:
        check_cells(
            store, override(base, [f"{key}={value}"]), setting, lambda word, when: when != "unless"
        )


def check_cells(
    store: Store, base: RunSpec, setting: str, holds: Callable[[str, str], bool]
) -> None:
    """Hold the row of a setting against the keys. holds: whether a conditional word counts for `base`."""
    says: dict[str, str] = {}
    for kind, cell in DOCUMENTED[setting].items():
        found = CONDITION.fullmatch(cell)
        assert found or cell in ("", "in", "through"), f"{setting}: {cell!r}"
        word, when = (found[1], found[2]) if found else (cell, "")
        says[kind] = word if not when or holds(word, when) else ""
    changed = override(base, [f"{setting}={CHANGES[setting]}"])
    assert changed != base
    inside = {kind for kind, word in says.items() if word == "in"}
    assert direct_keys(changed).differing(direct_keys(base)) == inside
    anywhere = {kind for kind, word in says.items() if word}
    assert keys_of(store, changed).differing(keys_of(store, base)) == anywhere
    steps = keys_of(store, changed).step
    if "step" in anywhere:
        assert not set(steps) & set(keys_of(store, base).step)


# Real files


def test_real_weights_count_by_content_and_not_by_place(own_folders: Path, tmp_path: Path) -> None:
    spec = load_preset("micro")
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copyfile(locate("vae", "builtin:micro"), copy)
    moved = override(spec, [f"components.vae.checkpoint={copy}", "components.vae.device=auto"])
    with open_index(tmp_path / "store") as index:
        known = Descriptions(index)
        assert (
            known("vae", moved.components.vae).identity
            == known("vae", spec.components.vae).identity
        )
        assert known("denoiser", spec.components.denoiser).facts["latent_channels"] == 16
    flipped = bytearray(copy.read_bytes())
    flipped[-1] ^= 1
    copy.write_bytes(flipped)
    with open_index(tmp_path / "store") as index:
        fresh = Descriptions(index)
        assert (
            fresh("vae", moved.components.vae).identity
            != known("vae", spec.components.vae).identity
        )


# What must not change without notice

GOLDEN = {
    "text": (
        "k1:651a9dad41342939f218f587c8122adf3f9ec5e1ca6fe74d9b4c1f9e7fd79cf4",
        "k1:60cf73c54f5fcc0757d2dde619f61c5331550117384969fa0191271b08461d41",
    ),
    "noise": "k1:dcff34eecd10f69a4a15bc91d24f63d0b50ba4e8b3077ce23c9984f8e21b477e",
    "step": {
        "unipc": "k1:80fefa8b79c032814fdcc25ea27811bf063944dc58f3eb1b801a4640f40cdd0e",
        "dpm++": "k1:572909a7762df5e50b0cbe989f6abf35082d67c71bb92161ae0103f786b4031d",
        "euler": "k1:cb2b869ddaecb9fbb118e3a49bb441946fa974be1b53e8a4fcb84a51d7b60cc8",
    },
    "video": "k1:76264ecb324bacb185127514c11d140b7fcb99369b23e4ff2e270747e9ebf9d5",
}


def test_keys_are_those_of_every_other_machine_and_version() -> None:
    """A change here makes all that anybody has stored a miss; is it worth it, and is the stage's version raised?"""
    found: dict[str, Any] = {
        "text": direct_keys(SPEC).text,
        "noise": direct_keys(SPEC).noise,
        "step": {
            name: direct_keys(override(SPEC, [f"scheduler.name={name}"])).step[3]
            for name in ("unipc", "dpm++", "euler")
        },
        "video": direct_keys(SPEC).video,
    }
    assert found == GOLDEN


def test_the_code_that_makes_numbers_is_the_one_that_the_versions_stand_for() -> None:
    locked = json.loads(numerics.LOCK.read_text(encoding="utf-8"))
    current = numerics.current()
    for kind, now in current.items():
        before = locked[kind]
        names = sorted(before["sources"].keys() | now["sources"].keys())
        changed = [
            name for name in names if before["sources"].get(name) != now["sources"].get(name)
        ]
        assert not changed, (
            f"{', '.join(changed)} changed, and make what is kept under keys of the kind {kind!r}: where numbers "
            f"change, raise its version in engine/tasks/wan.py; then run python -m tests.numerics"
        )
    assert locked == current, "a version changed; run python -m tests.numerics"
