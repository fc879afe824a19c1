"""Properties of any valid run: encoding, files and overrides give back what went in."""

from __future__ import annotations

import json
import random
import tomllib
from operator import attrgetter
from pathlib import Path
from typing import Literal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from presets.encoding import decode_spec, encode_spec
from presets.fields.listing import fields
from presets.library.loading import load_preset
from presets.library.saving import dump_preset, save_preset
from presets.settings.overrides import toml_value
from presets.spec.components import (
    Components,
    DenoiserSpec,
    ImageEncoderSpec,
    PromptExpanderSpec,
    TextEncoderSpec,
    VAESpec,
)
from presets.spec.expansion import ExpansionSpec
from presets.spec.output import OutputSpec
from presets.spec.run import RunSpec
from presets.spec.sampling import ExtensionSpec, GuidancePiece, GuidanceSpec, SchedulerSpec
from presets.validation import to_plain, validate

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=40)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)
devices = st.sampled_from(["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:15"])
dtypes: st.SearchStrategy[Literal["fp32", "bf16", "fp16"]] = st.sampled_from(
    ["fp32", "bf16", "fp16"]
)
options = st.dictionaries(
    st.text(characters, min_size=1, max_size=8),
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    max_size=4,
)
sizes = st.integers(1, 256).map(lambda n: 16 * n)


@st.composite
def schedulers(draw: st.DrawFn) -> SchedulerSpec:
    # of float32's width, so that no two become equal where the solvers hold them
    drawn = draw(st.sets(st.floats(0.0009765625, 1, width=32), max_size=5))
    sigmas = tuple(sorted(drawn, reverse=True))
    name = draw(st.sampled_from(["unipc", "dpm++", "sde-dpm++", "euler"]))
    return SchedulerSpec(
        name=name,
        steps=len(sigmas) or draw(st.integers(1, 1000)),
        shift=draw(st.floats(0.01, 100)),
        grid=draw(st.sampled_from(["wan"] if name == "euler" else ["wan", "diffusers"])),
        sigmas=sigmas,
    )


@st.composite
def vaes(draw: st.DrawFn) -> VAESpec:
    tile_size = draw(st.just(0) | st.integers(8, 512).map(lambda n: 8 * n))
    return VAESpec(
        name=draw(names),
        checkpoint=draw(texts),
        device=draw(devices),
        dtype=draw(dtypes),
        chunk_frames=draw(st.integers(0, 257)),
        tile_size=tile_size,
        tile_overlap=8 * draw(st.integers(0, (tile_size or 128) // 16)),
        options=draw(options),
    )


@st.composite
def guidances(draw: st.DrawFn) -> GuidanceSpec:
    if draw(st.booleans()):
        return GuidanceSpec(scale=draw(st.floats(0, 100)))
    edges = sorted(draw(st.sets(st.floats(0, 1), min_size=2, max_size=6)))
    pieces = [
        GuidancePiece(start=start, stop=stop, scale=draw(st.floats(0, 100)))
        for start, stop in zip(edges[::2], edges[1::2], strict=False)
    ]
    return GuidanceSpec(scale=tuple(draw(st.permutations(pieces))))


@st.composite
def with_a_scale_for_each_step(draw: st.DrawFn, run: RunSpec) -> RunSpec:
    """The run as it is, or, where it has few steps, with a list of scales."""
    if run.scheduler.steps > 20 or draw(st.booleans()):
        return run
    num_steps = run.scheduler.steps
    scale = draw(st.lists(st.floats(0, 100), min_size=num_steps, max_size=num_steps))
    return replace(run, guidance=GuidanceSpec(scale=tuple(scale)))


expansions = st.builds(
    ExpansionSpec,
    enabled=st.booleans(),
    template=st.sampled_from(["t2v-en", "film-zh"]) | names,
    instructions=st.sampled_from(["", "say it longer"]) | texts,
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    max_tokens=st.integers(16, 32768),
    seed=st.integers(0, 2**31 - 1),
    on_failure=st.sampled_from(["fail", "as-typed"]),
    text=texts,
)

specs = st.builds(
    RunSpec,
    expansion=expansions,
    components=st.builds(
        Components,
        text_encoder=st.builds(
            TextEncoderSpec,
            name=names,
            checkpoint=texts,
            tokenizer=texts,
            device=devices,
            dtype=dtypes,
            options=options,
        ),
        image_encoder=st.builds(
            ImageEncoderSpec,
            name=names,
            checkpoint=texts,
            device=devices,
            dtype=dtypes,
            fit=st.sampled_from(["stretch", "crop"]),
            options=options,
        ),
        denoiser=st.builds(
            DenoiserSpec,
            name=names,
            checkpoint=texts,
            device=devices,
            dtype=dtypes,
            attention=names,
            options=options,
        ),
        vae=vaes(),
        prompt_expander=st.builds(
            PromptExpanderSpec,
            name=names,
            checkpoint=texts,
            url=texts,
            api_key_env=st.sampled_from(["", "LLM_KEY"]),
            device=devices,
            dtype=dtypes,
            options=options,
        ),
    ),
    prompt=texts,
    negative_prompt=texts,
    width=sizes,
    height=sizes,
    frames=st.integers(0, 256).map(lambda n: 4 * n + 1),
    fps=st.integers(1, 120),
    seed=st.integers(0, 2**64 - 1),
    noise=st.sampled_from(["cpu", "wan"]),
    scheduler=schedulers(),
    guidance=guidances(),
    extensions=st.lists(st.builds(ExtensionSpec, name=names, options=options), max_size=3).map(
        tuple
    ),
    output=st.builds(
        OutputSpec,
        path=texts,
        overwrite=st.booleans(),
        kinds=st.lists(
            st.sampled_from(["video", "frames", "latents"]), min_size=1, max_size=3, unique=True
        ).map(tuple),
    ),
).flatmap(with_a_scale_for_each_step)
few = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _shuffled(data: object, order: random.Random) -> object:
    if isinstance(data, dict):
        items = list(data.items())
        order.shuffle(items)
        return {key: _shuffled(value, order) for key, value in items}
    if isinstance(data, list):
        return [_shuffled(value, order) for value in data]
    return data


@few
@given(specs)
def test_any_valid_spec_is_accepted_unchanged(spec: RunSpec) -> None:
    assert validate(spec) == spec


@few
@given(specs)
def test_encoded_specs_decode_to_themselves(spec: RunSpec) -> None:
    encoded = encode_spec(spec)
    assert decode_spec(encoded) == spec
    assert encode_spec(decode_spec(encoded)) == encoded


@few
@given(specs, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_reach_the_encoded_bytes(
    spec: RunSpec, order: random.Random
) -> None:
    encoded = encode_spec(spec)
    mixed = json.dumps(_shuffled(json.loads(encoded), order)).encode()
    assert encode_spec(decode_spec(mixed)) == encoded


@few
@given(spec=specs)
def test_saved_presets_load_as_they_were(spec: RunSpec) -> None:
    save_preset("mine", spec, description="one", overwrite=True)
    assert encode_spec(load_preset("mine")) == encode_spec(spec)


@few
@given(parent=specs, child=specs)
def test_presets_saved_as_differences_load_as_they_were(parent: RunSpec, child: RunSpec) -> None:
    save_preset("parent", parent, overwrite=True)
    save_preset("child", child, extends="parent", overwrite=True)
    assert encode_spec(load_preset("child")) == encode_spec(child)


@few
@given(spec=specs)
def test_printed_presets_load_as_they_were(spec: RunSpec, tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(dump_preset(spec), encoding="utf-8", newline="")
    assert encode_spec(load_preset(path)) == encode_spec(spec)


@few
@given(specs)
def test_every_key_can_be_set_by_an_override(spec: RunSpec) -> None:
    overrides = []
    for field in fields(RunSpec):
        if field.key != "extensions":  # given as values, the other way
            value = to_plain(attrgetter(field.key)(spec))
            overrides.append(f"{field.key}={toml_value(value)}")
    built = load_preset("micro", overrides, values={"extensions": spec.extensions})
    assert encode_spec(built) == encode_spec(spec)


@few
@given(st.text(characters, max_size=60))
def test_any_text_that_is_no_toml_string_is_a_prompt_as_it_stands(text: str) -> None:
    try:
        parsed = tomllib.loads(f"v = {text.strip()}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if not isinstance(parsed.get("v"), str):
        assert load_preset("micro", [f"prompt={text}"]).prompt == text
