"""Renaming: bijections over every published name, held to the names that diffusers and transformers save."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from engine.checkpoints.known import expected
from engine.checkpoints.known.expected import PUBLISHED, CLIPShape, UMT5Shape
from engine.checkpoints.names import (
    component_of,
    components_in,
    from_original,
    lora_family,
    naming_of,
    prefix_of,
    to_original,
    unwrapped,
)
from tests.oracles.later import diffusers, transformers
from tests.oracles.naming import dit_name, vae_name

# model -> its component and tensors
MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{name: ("denoiser", expected.dit(shape)) for name, shape in PUBLISHED.items()},
    "wan2.1-vae": ("vae", expected.vae()),
    "wan2.2-vae": ("vae", expected.vae22()),
    "umt5-xxl": ("text_encoder", expected.umt5(UMT5Shape())),
    "clip-vit-h-14": ("image_encoder", expected.clip(CLIPShape())),
}
NAMINGS = {
    **dict.fromkeys(PUBLISHED, ("original", "diffusers")),
    "wan2.1-vae": ("original", "diffusers"),
    "wan2.2-vae": ("original", "diffusers-2.2"),
    "umt5-xxl": ("original", "huggingface", "llama.cpp"),
    "clip-vit-h-14": ("original", "huggingface"),
}
CASES = [(model, naming) for model, namings in NAMINGS.items() for naming in namings]
# one model of each component and naming, the one with the most kinds of tensors
FEW = [case for case in CASES if case[0] not in PUBLISHED or case[0] == "wan2.1-vace-1.3b"]
COMPONENTS = sorted({(MODELS[model][0], naming) for model, naming in CASES})


def spelt(model: str, naming: str) -> list[str]:
    """Every name of a published model in a naming."""
    component, tensors = MODELS[model]
    return [name for original in tensors for name in from_original(component, naming, original)]


@pytest.mark.parametrize(("model", "naming"), CASES)
def test_every_published_name_there_and_back(model: str, naming: str) -> None:
    component, tensors = MODELS[model]
    seen: set[str] = set()
    for original in tensors:
        names = from_original(component, naming, original)
        assert [to_original(component, naming, name) for name in names] == [
            (original, part) for part in range(len(names))
        ]
        assert not seen & set(names)
        seen |= set(names)
    if naming == "original":
        assert seen == set(tensors)


@pytest.mark.parametrize(("model", "naming"), FEW)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_block_number_there_and_back(model: str, naming: str, data: st.DataObject) -> None:
    component, tensors = MODELS[model]
    stacks = [name for name in tensors if re.match(r"(vace_)?blocks\.|visual\.transformer\.", name)]
    if not stacks:
        return
    name = data.draw(st.sampled_from(stacks))
    number = data.draw(st.integers(0, 999))
    original = re.sub(r"\.\d+\.", f".{number}.", name, count=1)
    names = from_original(component, naming, original)
    assert [to_original(component, naming, other) for other in names] == [
        (original, part) for part in range(len(names))
    ]
    assert all(f".{number}." in other for other in names)


@pytest.mark.parametrize("model", [*PUBLISHED, "wan2.1-vae"])
def test_diffusers_names_are_those_the_parity_tests_use(model: str) -> None:
    component, tensors = MODELS[model]
    rename = vae_name if component == "vae" else dit_name
    for original in tensors:
        if "_proj." not in original or "vace" not in original:  # the parity tests know no VACE
            assert from_original(component, "diffusers", original) == (rename(original),)


def on_meta(build: type[nn.Module], *args: Any, **sizes: Any) -> list[str]:
    with torch.device("meta"):
        return list(build(*args, **sizes).state_dict())


def diffusers_dit(**sizes: Any) -> dict[str, Any]:
    return {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "ffn_dim": 32,
        "num_layers": 4,
        **sizes,
    }


REAL = {
    "t2v": ("denoiser", "diffusers", lambda: on_meta(diffusers.WanTransformer3DModel, **diffusers_dit())),
    "flf2v": (
        "denoiser", "diffusers",
        lambda: on_meta(
            diffusers.WanTransformer3DModel,
            **diffusers_dit(image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=514),
        ),
    ),
    "vace": (
        "denoiser", "diffusers",
        lambda: on_meta(
            diffusers.WanVACETransformer3DModel, **diffusers_dit(vace_layers=[0, 2], vace_in_channels=96)
        ),
    ),
    "vae": ("vae", "diffusers", lambda: on_meta(diffusers.AutoencoderKLWan, base_dim=12)),
    "vae 2.2": (
        "vae", "diffusers-2.2",
        lambda: on_meta(
            diffusers.AutoencoderKLWan, base_dim=16, decoder_base_dim=24, is_residual=True, in_channels=12,
            out_channels=12, patch_size=2,
        ),
    ),
    "umt5": (
        "text_encoder", "huggingface",
        lambda: on_meta(
            transformers.UMT5EncoderModel, transformers.UMT5Config(num_layers=3, feed_forward_proj="gated-gelu")
        ),
    ),
    "clip": (
        "image_encoder", "huggingface",
        lambda: on_meta(transformers.CLIPVisionModel, transformers.CLIPVisionConfig()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", REAL)
def test_every_name_of_the_real_modules_is_renamed_and_back(model: str) -> None:
    component, naming, real = REAL[model]
    names = real()
    assert component_of(names) == component
    assert naming_of(component, names) == naming
    for name in names:
        target = to_original(component, naming, name)
        if name == "encoder.embed_tokens.weight":  # the same table as shared.weight
            assert target is None
            continue
        assert target is not None
        original, part = target
        if (
            not name.startswith(("patch_embedding.", "vace_patch_embedding."))
            and component == "denoiser"
        ):
            assert original != name
        there = (
            name
            if component != "image_encoder"
            else f"vision_model.{name.removeprefix('vision_model.')}"
        )
        assert from_original(component, naming, original)[part] == there


@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_clip_as_any_version_of_transformers_saves_it(prefix: str) -> None:
    names = [
        prefix + name.removeprefix("vision_model.")
        for name in spelt("clip-vit-h-14", "huggingface")
    ]
    assert len(names) == 519
    assert component_of(names) == "image_encoder"
    assert naming_of("image_encoder", names) == "huggingface"
    assert {to_original("image_encoder", "huggingface", name)[0] for name in names} == set(
        MODELS["clip-vit-h-14"][1]
    )


def test_what_save_pretrained_writes_is_recognised(tmp_path: Path) -> None:
    text = transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=8,
            d_model=8,
            d_kv=4,
            d_ff=8,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
    image = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=1
        )
    )
    transformer = diffusers.WanTransformer3DModel(**diffusers_dit(text_dim=8, freq_dim=8))
    for model, component, naming, file in (
        (text, "text_encoder", "huggingface", "model.safetensors"),
        (image, "image_encoder", "huggingface", "model.safetensors"),
        (transformer, "denoiser", "diffusers", "diffusion_pytorch_model.safetensors"),
    ):
        model.save_pretrained(tmp_path / component)
        with safe_open(tmp_path / component / file, "pt") as saved:
            names = list(saved.keys())
        assert (component_of(names), naming_of(component, names)) == (component, naming)
        targets = [to_original(component, naming, name) for name in names]
        assert None not in targets
        assert len(set(targets)) == len(names)


def test_queries_keys_and_values_of_clip_are_joined_in_this_order() -> None:
    names = from_original("image_encoder", "huggingface", "visual.transformer.5.attn.to_qkv.bias")
    attention = "vision_model.encoder.layers.5.self_attn"
    assert names == (
        f"{attention}.q_proj.bias",
        f"{attention}.k_proj.bias",
        f"{attention}.v_proj.bias",
    )


def test_llama_cpp_names_are_those_of_the_gguf_package() -> None:
    """Its own table, from transformers' names: no round trip would notice two that are swapped."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, 24)
    originals = [name for name in MODELS["umt5-xxl"][1] if name != "token_embedding.weight"]
    for original in originals:
        (theirs,) = from_original("text_encoder", "huggingface", original)
        (ours,) = from_original("text_encoder", "llama.cpp", original)
        assert table.get_name(theirs, try_suffixes=(".weight",)) == ours
    assert len(originals) == 241


def test_tensors_of_equal_shape_are_not_swapped() -> None:
    """transformers computes wo(gelu(wi_0(x)) * wi_1(x)), the original fc2(fc1(x) * gate(x))."""
    layer = "encoder.block.7.layer"
    for original, theirs in {
        "ffn.gate.0": f"{layer}.1.DenseReluDense.wi_0",
        "ffn.fc1": f"{layer}.1.DenseReluDense.wi_1",
        "norm1": f"{layer}.0.layer_norm",
        "norm2": f"{layer}.1.layer_norm",
        "attn.q": f"{layer}.0.SelfAttention.q",
        "attn.k": f"{layer}.0.SelfAttention.k",
        "attn.v": f"{layer}.0.SelfAttention.v",
        "attn.o": f"{layer}.0.SelfAttention.o",
    }.items():
        names = from_original("text_encoder", "huggingface", f"blocks.7.{original}.weight")
        assert names == (f"{theirs}.weight",)
    layer = "vision_model.encoder.layers.7"
    for original, theirs in {
        "visual.transformer.7.norm1": f"{layer}.layer_norm1",
        "visual.transformer.7.norm2": f"{layer}.layer_norm2",
        "visual.pre_norm": "vision_model.pre_layrnorm",
        "visual.post_norm": "vision_model.post_layernorm",
    }.items():
        names = from_original("image_encoder", "huggingface", f"{original}.bias")
        assert names == (f"{theirs}.bias",)


def test_the_affine_norm_of_the_transformer_is_norm2_in_diffusers() -> None:
    assert from_original("denoiser", "diffusers", "blocks.3.norm3.bias") == ("blocks.3.norm2.bias",)
    assert to_original("denoiser", "diffusers", "proj_out.bias") == ("head.head.bias", 0)
    assert to_original("denoiser", "diffusers", "vace_blocks.0.proj_out.bias") == (
        "vace_blocks.0.after_proj.bias", 0,
    )  # fmt: skip


def test_one_diffusers_name_means_other_layers_in_the_two_vaes() -> None:
    """Why there are two namings."""
    name = "decoder.up_blocks.1.resnets.2.conv1.weight"
    assert to_original("vae", "diffusers", name) == ("decoder.upsamples.6.residual.2.weight", 0)
    assert to_original("vae", "diffusers-2.2", name) == (
        "decoder.upsamples.1.upsamples.2.residual.2.weight", 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("component", "naming", "name"),
    [
        ("denoiser", "diffusers", "blocks.0.attn2.norm_added_q.weight"),
        ("text_encoder", "huggingface", "encoder.embed_tokens.weight"),
        ("text_encoder", "huggingface", "decoder.block.0.layer.0.SelfAttention.q.weight"),
        ("text_encoder", "huggingface", "lm_head.weight"),
        ("image_encoder", "original", "textual.model.encoder.layer.0.attention.self.query.weight"),
        ("image_encoder", "original", "log_scale"),
        ("image_encoder", "original", "visual.head"),
        ("image_encoder", "huggingface", "visual_projection.weight"),
        ("image_encoder", "huggingface", "text_model.final_layer_norm.bias"),
        ("image_encoder", "huggingface", "vision_model.embeddings.position_ids"),
        ("image_encoder", "huggingface", "embeddings.position_ids"),
        ("image_encoder", "huggingface", "logit_scale"),
    ],
)
def test_what_a_component_does_without(component: str, naming: str, name: str) -> None:
    assert to_original(component, naming, name) is None


@pytest.mark.parametrize(("component", "naming"), COMPONENTS)
@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "foo.bar.weight",
        "blocks",
        "blocks..norm3.weight",
        "middle.1.weight",
        "conv_norm_out.weight",
    ],
)
def test_an_unknown_name_comes_back_as_it_is(component: str, naming: str, name: str) -> None:
    assert to_original(component, naming, name) == (name, 0)
    assert from_original(component, naming, name) == (name,)


@pytest.mark.parametrize(("component", "naming"), COMPONENTS)
@given(name=st.text(st.sampled_from("blockns.0123weightq_²٣"), max_size=40))
def test_any_text_is_a_name(component: str, naming: str, name: str) -> None:
    """No exception, and nothing is made up: only names that the naming has come back as others."""
    target = to_original(component, naming, name)
    assert target == (name, 0) or target is None
    assert from_original(component, naming, name) == (name,)


@pytest.mark.parametrize(("model", "naming"), FEW)
@pytest.mark.parametrize("change", ["{}.absmax", "{}0", "x{}", "{}.lora_A.weight"])
def test_a_name_with_something_more_is_unknown(model: str, naming: str, change: str) -> None:
    component = MODELS[model][0]
    for known in spelt(model, naming)[::7]:
        name = change.format(known)
        assert to_original(component, naming, name) == (name, 0)


@pytest.mark.parametrize(("model", "naming"), CASES)
def test_component_and_naming_are_told_by_the_names(model: str, naming: str) -> None:
    names = spelt(model, naming)
    component = MODELS[model][0]
    assert component_of(names) == component
    assert naming_of(component, names) == naming
    assert prefix_of(names) == ""


@pytest.mark.parametrize(("model", "naming"), FEW)
def test_no_single_missing_tensor_hides_what_a_file_is(model: str, naming: str) -> None:
    """Else it could not be said which tensor is missing."""
    component = MODELS[model][0]
    names = spelt(model, naming)
    for absent in names[:30] + names[-10:]:
        rest = [name for name in names if name != absent]
        assert (component_of(rest), naming_of(component, rest)) == (component, naming), absent


@pytest.mark.parametrize("naming", ["original", "diffusers"])
def test_a_vace_module_alone_is_told(naming: str) -> None:
    names = [name for name in spelt("wan2.1-vace-1.3b", naming) if name.startswith("vace_")]
    assert component_of(names) == "denoiser"
    assert naming_of("denoiser", names) == naming


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["weight"],
        # SDXL's UNet, its VAE at diffusers, HunyuanVideo, Llama, and a classifier
        ["input_blocks.0.0.weight", "middle_block.1.norm.weight", "out.2.bias"],
        ["decoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.weight", "quant_conv.weight"],
        ["double_blocks.0.img_attn_qkv.weight", "single_blocks.0.modulation.linear.weight"],
        ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"],
        ["conv1.weight", "layer1.0.conv1.weight", "fc.bias"],
    ],
)
def test_what_is_none_of_them_is_unknown(names: list[str]) -> None:
    assert component_of(names) == "unknown"
    assert naming_of("unknown", names) == ""


PREFIXES = (
    "model.diffusion_model.", "diffusion_model.", "model.", "net.", "transformer.", "vae.",
    "text_encoders.umt5xxl.transformer.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "model"),
    [
        *((prefix, "wan2.1-vae") for prefix in PREFIXES),
        *zip(itertools.cycle(PREFIXES), MODELS, strict=False),
    ],
)
def test_a_prefix_counts_when_all_names_but_a_few_have_it(prefix: str, model: str) -> None:
    names = [prefix + name for name in spelt(model, "original")]
    assert prefix_of(names) == prefix
    strays = [f"head.other.{number}" for number in range(3)]
    assert prefix_of([*names, *strays]) == prefix
    assert prefix_of([*names, *strays, "head.another"]) == ""
    assert prefix_of([*names[:2], "head.other"]) == ""
    assert prefix_of([]) == ""


@pytest.mark.parametrize("model", MODELS)
def test_prefixes_come_one_after_the_other(model: str) -> None:
    names = spelt(model, "original")
    assert prefix_of([f"state_dict.generator.{name}" for name in names]) == "state_dict.generator."
    assert prefix_of([f"model.model.{name}" for name in names]) == "model.model."


@pytest.mark.parametrize(
    ("wrapped", "name"),
    [
        ("_orig_mod.blocks.0.modulation", "blocks.0.modulation"),
        ("module._orig_mod.blocks.0.modulation", "blocks.0.modulation"),
        ("model._orig_mod.module.head.modulation", "model.head.modulation"),
        ("blocks.0._orig_mod.ffn._checkpoint_wrapped_module.0.weight", "blocks.0.ffn.0.weight"),
        ("_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.modulation", "blocks.0.modulation"),
        ("blocks.0.some_module.weight", "blocks.0.some_module.weight"),
    ],
)
def test_wrappers_leave_no_trace_in_a_name(wrapped: str, name: str) -> None:
    assert unwrapped(wrapped) == name


def test_the_parts_of_an_all_in_one_file_are_told() -> None:
    names = [
        "model.diffusion_model.head.modulation",
        "vae.decoder.middle.0.residual.0.gamma",
        "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
    ]
    assert components_in(names) == ["denoiser", "vae", "text_encoder"]
    assert components_in(names[:1]) == ["denoiser"]


def pair(layer: str, down: str, up: str) -> list[str]:
    return [f"{layer}.{down}", f"{layer}.{up}"]


OURS, KOHYA = "diffusion_model.blocks.0.self_attn.q", "blocks_0_self_attn_q"
A_B, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")
LORAS = {
    "original": pair(OURS, *A_B),
    "original, down and up": [
        *pair(OURS, *DOWN_UP), f"{OURS}.alpha", "diffusion_model.blocks.0.norm3.diff",
    ],
    "kohya": pair(f"lora_unet_{KOHYA}", *DOWN_UP),
    "Wan-Fun": pair(f"lora_unet__{KOHYA}", *DOWN_UP),
    "diffusers": pair("transformer.blocks.0.attn1.to_q", *A_B),
    "PEFT": pair("base_model.model.blocks.0.self_attn.q", *A_B),
    "DiffSynth": pair("pipe.dit.blocks.0.self_attn.q", *DEFAULT),
    "DiffSynth, bare": pair("blocks.0.self_attn.q", *DEFAULT),
    "LyCORIS": pair(f"lycoris_{KOHYA}", *DOWN_UP),
    "LoHa": pair(f"lycoris_{KOHYA}", "hada_w1_a", "hada_w1_b"),
    "LoKr": pair(f"lycoris_{KOHYA}", "lokr_w1", "lokr_w2"),
    "differences": [*pair("diffusion_model.blocks.0.norm3", "diff", "diff_b"),
                    "diffusion_model.blocks.0.modulation.diff_m"],
}  # fmt: skip


def told_as_a_file(names: list[str]) -> tuple[str, str]:
    """(component, family) the way a file is read: its prefix comes off first."""
    prefix = prefix_of(names)
    bare = [name.removeprefix(prefix) for name in names]
    return component_of(bare), lora_family(bare)


@pytest.mark.parametrize("family", LORAS)
def test_a_lora_is_told_with_its_family(family: str) -> None:
    component, said = told_as_a_file(LORAS[family])
    assert component == "lora"
    assert family.partition(",")[0].lower() in said.lower()


def test_a_model_is_no_lora_for_one_odd_name() -> None:
    names = [*spelt("wan2.1-t2v-1.3b", "original"), "blocks.0.norm3.diff"]
    assert component_of(names) == "denoiser"
