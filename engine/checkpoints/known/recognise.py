"""What a checkpoint is: told by its names and shapes, never by the name of its file. Torch-free.

Two things the tensors do not tell: the 480P and 720P image-to-video models, and Wan 2.1's 14B text-to-video model
and the experts of Wan 2.2's, have the very same names and shapes. Only there do folder and file names decide, and
`note` says so. So it is with the TAEHV of several models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from engine.checkpoints.known import expected
from engine.checkpoints.known.configure import clip_config, dit_config
from engine.checkpoints.layout import Entry, Layout, lay_out, quantisation
from engine.checkpoints.names import components_in, lora_family
from engine.checkpoints.packing.quantised import INSTEAD
from engine.checkpoints.source import Source, read_json
from engine.errors import CheckpointError
from engine.models.diffusion.config import keeps_fp32

Shape = tuple[int, ...]

_GENERATION = re.compile(
    r"wan[-_. ]?2[-_. ]?1|(?P<second>wan[-_. ]?2[-_. ]?2|a14b|(high|low)[-_ ]?noise)"
)
# a file in a cache entry of Hugging Face: models--*/snapshots/*/transformer/*
_PARTS_AROUND = 6
_NOT_YET = "not supported yet"
_UMT5_INSTEAD = "take umt5-xxl, for example umt5_xxl_fp8_e4m3fn_scaled.safetensors of Comfy-Org"
# other models' files that lie beside Wan's -> names that only they have
_STRANGERS = {
    words: re.compile(pattern)
    for words, pattern in {
        "the transformer of Flux or HunyuanVideo": r"(^|\.)double_blocks\.0\.",
        "the transformer of Stable Diffusion 3": r"(^|\.)joint_blocks\.0\.",
        "the U-Net of Stable Diffusion": r"(^|\.)(input_blocks\.1\.|down_blocks\.0\.resnets\.)",
        "the transformer of LTX-Video, CogVideoX or their kin": r"(^|\.)transformer_blocks\.0\.attn1\.",
        "a CLIP text encoder": r"(^|\.)text_model\.encoder\.layers\.0\.",
        "a language model": r"(^|\.)layers\.0\.self_attn\.q_proj\.|(^|\.)blk\.0\.attn_q\.",
        "the VAE of images": r"(^|\.)(quant_conv|decoder\.up\.0\.block)\.",
    }.items()
}
# whose latents a TAEHV of the same shapes is for, by what its file's name begins with
_TAEHV_OF = {"taehv": "HunyuanVideo", "taecvx": "CogVideoX", "taeos": "Open-Sora"}
_ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class Recognition(msgspec.Struct, frozen=True, kw_only=True):
    """component: `denoiser`, `vae`, `text_encoder`, `image_encoder`, `lora` or `unknown`. variant: the name of
    the published model that has these shapes, or its family with "(custom)"; empty where there is none.

    supported: whether this version can load it. note: what else to know, one line. layout: whose naming and
    packaging. dtypes: numbers by the dtype they are stored in. parameters: numbers of the component itself.
    memory: bytes that the loaded component takes, by the dtype that a preset asks for. missing, unexpected,
    misshapen: names, against the published model of that size.
    """

    component: str
    variant: str
    supported: bool
    note: str
    layout: str
    format: str
    shards: int
    prefix: str
    dtypes: dict[str, int]
    quantisation: str
    parameters: int
    file_bytes: int
    memory: dict[str, int]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]


def recognise(source: Source, layout: Layout | None = None) -> Recognition:
    """What `source` holds, and whether a run would load it: where this says so, all that loading reads is there.

    layout: that of the source, where it is known already.
    """
    layout = layout or lay_out(source)
    variant, wanted, note, supported = _identify(source, layout)
    if layout.foreign:
        wanted, supported = {}, False
        note = f"stored as {layout.foreign}, which modiff does not read; {INSTEAD}"
    missing, unexpected, misshapen = compare(layout.entries, wanted) if wanted else ((), (), ())
    unexpected = (*unexpected, *(f"{name} ({reason})" for name, reason in layout.faults.items()))
    is_odd = supported and bool(unexpected) and not (missing or misshapen)
    reason = (
        "cannot be loaded for its unexpected tensors, which would be left out" if is_odd else ""
    )
    dtypes: dict[str, int] = {}
    for entry in layout.entries.values():
        for part in entry.parts:
            dtypes[part.dtype] = dtypes.get(part.dtype, 0) + math.prod(part.shape)
    return Recognition(
        component=layout.component,
        variant=variant,
        supported=supported and not (missing or unexpected or misshapen),
        note="; ".join(part for part in (reason, note, _left_out(layout), source.note) if part),
        layout=_layout_name(source, layout),
        format=source.format,
        shards=len(source.files),
        prefix=layout.prefix,
        dtypes=dict(sorted(dtypes.items(), key=lambda item: -item[1])),
        quantisation=layout.foreign or quantisation(layout),
        parameters=sum(entry.num_elements for entry in layout.entries.values()),
        file_bytes=source.num_bytes,
        memory=_loaded_bytes(layout) if wanted else {},
        missing=missing,
        unexpected=unexpected,
        misshapen=misshapen,
    )


def _left_out(layout: Layout) -> str:
    if not layout.left_out:
        return ""
    names = ", ".join(layout.left_out[:3]) + (", ..." if len(layout.left_out) > 3 else "")
    return f"{names}: not part of it, left out"


def _loaded_bytes(layout: Layout) -> dict[str, int]:
    """What the tensors take in each dtype; what is published to stay in fp32 does."""
    is_dit = layout.component == "denoiser"
    in_fp32 = others = 0
    for name, entry in layout.entries.items():
        if is_dit and keeps_fp32(name):
            in_fp32 += entry.num_elements
        else:
            others += entry.num_elements
    return {name: 4 * in_fp32 + size * others for name, size in _ITEM_BYTES.items()}


def compare(
    entries: Mapping[str, Entry], wanted: Mapping[str, Shape]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(missing, unexpected, misshapen) of what is there against what there should be. Axes of one do not
    count: layouts differ in them, the numbers do not."""
    missing = tuple(name for name in wanted if name not in entries)
    unexpected = tuple(name for name in entries if name not in wanted)
    misshapen = tuple(
        f"{name} is {list(entry.shape)} instead of {list(wanted[name])}"
        for name, entry in entries.items()
        if name in wanted
        and entry.shape != wanted[name]
        and _without_ones(entry.shape) != _without_ones(wanted[name])
    )
    return missing, unexpected, misshapen


def describe(missing: Sequence[str], unexpected: Sequence[str], misshapen: Sequence[str]) -> str:
    """The three lists in a few words: how many of each, and the first ones."""
    return "; ".join(
        f"{len(names)} {kind} tensor{'s' if len(names) > 1 else ''} "
        f"({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen)
        )
        if names
    )  # fmt: skip


def _identify(source: Source, layout: Layout) -> tuple[str, Mapping[str, Shape], str, bool]:
    """(variant, expected tensors, note, whether this version loads such a model)."""
    shapes = {name: entry.shape for name, entry in layout.entries.items()}
    try:
        if layout.component == "denoiser":
            variant, wanted, note, supported = _identify_dit(source, shapes)
            reason = _not_configurable(source, layout) if supported else ""
            note = "; ".join(part for part in (reason, note) if part)
            return variant, wanted, note, supported and not reason
        if layout.component == "vae" and expected.is_taehv(shapes):
            return _identify_taehv(source.path, shapes)
        if (
            layout.component == "vae"
            and "decoder.upsamples.0.upsamples.0.residual.2.weight" in shapes
        ):
            return "wan2.2-vae", expected.vae22(), f"Wan 2.2 is {_NOT_YET}", False
        if layout.component == "vae":
            dim = expected.vae_dim(shapes)
            return "wan2.1-vae" if dim == 96 else "wan2.1-vae (custom)", expected.vae(dim), "", True
        if layout.component == "text_encoder" and _is_t5(shapes):
            return (
                "",
                {},
                f"T5 v1.1, the encoder of Flux, SD3 and others, not UMT5; {_UMT5_INSTEAD}",
                False,
            )
        if layout.component == "text_encoder":
            umt5 = expected.umt5_shape(shapes)
            is_published = umt5 == expected.UMT5Shape()
            return "umt5-xxl" if is_published else "umt5 (custom)", expected.umt5(umt5), "", True
        if layout.component == "image_encoder":
            clip_config(shapes)
            clip = expected.clip_shape(shapes)
            is_published = clip == expected.CLIPShape()
            name = "clip-vit-h-14" if is_published else "clip (custom)"
            return name, expected.clip(clip), "", True
    except ValueError as error:
        return "", {}, str(error), False
    if layout.component == "lora":
        return "", {}, f"{lora_family(shapes)}; LoRA is {_NOT_YET}", False
    return "", {}, _stranger(source), False


def _identify_taehv(
    path: Path, shapes: Mapping[str, Shape]
) -> tuple[str, Mapping[str, Shape], str, bool]:
    channels = shapes.get("encoder.17.weight", (0,))[0]
    pixels = shapes.get("encoder.0.weight", (0, 0))[1]
    if (channels, pixels) != (16, 3):
        note = f"a TAEHV for latents of {channels} channels; take taew2_1.safetensors, for the 16 of Wan 2.1"
        return "taehv", {}, note, False
    for begin, model in _TAEHV_OF.items():
        if path.name.lower().startswith(begin):
            note = f"for the latents of {model}, by its name; take taew2_1.safetensors"
            return "taehv", {}, note, False
    name = path.name.lower()
    is_named = "taew2_1" in name
    note = (
        "" if is_named else "those for HunyuanVideo, CogVideoX and Open-Sora have the same tensors"
    )
    # LightX2V trained others
    is_published = is_named and "lighttaew2_1" not in name
    return "taew2.1" if is_published else "taehv for wan2.1", expected.taehv(), note, True


def _is_t5(shapes: Mapping[str, Shape]) -> bool:
    """Whether an encoder has the positions of T5, in its first block alone; UMT5 has them in each."""
    blocks = sum(name.endswith(".pos_embedding.embedding.weight") for name in shapes)
    return blocks == 1 and "blocks.1.attn.q.weight" in shapes


def _stranger(source: Source) -> str:
    """What a file is that is no component of Wan."""
    components = components_in(source.tensors)
    if len(components) > 1:
        names = ", ".join(component.replace("_", " ") for component in components)
        return (
            f"several components in one file ({names}), an all-in-one checkpoint; take the file of each component, "
            "as Comfy-Org/Wan_2.1_ComfyUI_repackaged has them"
        )
    for words, pattern in _STRANGERS.items():
        if any(pattern.search(name) for name in source.tensors):
            return f"{words}, not a component of Wan"
    return "not a component of Wan that modiff knows"


def _identify_dit(
    source: Source, shapes: Mapping[str, Shape]
) -> tuple[str, Mapping[str, Shape], str, bool]:
    if "vace_patch_embedding.weight" in shapes and "patch_embedding.weight" not in shapes:
        note = f"a VACE module without the model it belongs on; VACE is {_NOT_YET}"
        return "wan2.1-vace (module)", {}, note, False
    if source.format == "gguf" and "patch_embedding.weight" not in shapes:
        note = (
            "a GGUF whose conversion was not finished: patch_embedding.weight, which has five axes, was never put "
            "back; get another GGUF of this model, or finish it with ComfyUI-GGUF's fix_5d_tensors.py"
        )
        return "", {}, note, False
    shape = expected.dit_shape(shapes)
    wanted = expected.dit(shape)
    if any(name.startswith(("control_adapter.", "ref_conv.")) for name in shapes):
        return _fun(shape, shapes), wanted, f"a Wan-Fun control model, {_NOT_YET}", False
    names = [name for name, published in expected.PUBLISHED.items() if published == shape]
    if not names:
        return _identify_custom(shape, wanted, shapes)
    variant = names[0]
    if variant in ("wan2.1-t2v-14b", "wan2.2-t2v-a14b"):
        return _tell_generations_apart(source.path, wanted)
    if variant == "wan2.1-i2v-14b":
        return *_tell_sizes_apart(source.path, wanted), True
    if variant.startswith("wan2.2"):
        return variant, wanted, f"Wan 2.2 is {_NOT_YET}", False
    if "vace" in variant:
        return variant, wanted, f"VACE is {_NOT_YET}", False
    return variant, wanted, "", True


def _identify_custom(
    shape: expected.DiTShape, wanted: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> tuple[str, Mapping[str, Shape], str, bool]:
    """A Wan DiT of a size that was not published; and the published relatives that have more inputs."""
    if shape.in_dim in (32, 48, 52):
        return _fun(shape, shapes), wanted, f"a Wan-Fun control model, {_NOT_YET}", False
    if shape.vace_layers:
        return "wan2.1-vace (custom)", wanted, f"VACE is {_NOT_YET}", False
    if shape.model_type == "t2v" and shape.in_dim != shape.out_dim:
        return (
            "wan (custom)",
            wanted,
            f"takes {shape.in_dim} channels without an image branch, {_NOT_YET}",
            False,
        )
    given = shape.in_dim - shape.out_dim
    if given != (4 + shape.out_dim if shape.image_branch else 0):
        note = f"takes {given} channels of given frames, {_NOT_YET}"
        return f"wan2.1-{shape.model_type} (custom)", wanted, note, False
    return f"wan2.1-{shape.model_type} (custom)", wanted, "", True


def _fun(shape: expected.DiTShape, shapes: Mapping[str, Shape]) -> str:
    """The name of a Wan-Fun control model: Wan 2.2's are those without the image branch."""
    generation = "2.1" if shape.image_branch else "2.2"
    has_camera = any(name.startswith("control_adapter.") for name in shapes)
    return f"wan{generation}-fun-control{'-camera' if has_camera else ''}"


def _tell_generations_apart(
    path: Path, wanted: Mapping[str, Shape]
) -> tuple[str, Mapping[str, Shape], str, bool]:
    if _says_wan22(path):
        note = f"an expert of Wan 2.2, by the names around it; Wan 2.2 is {_NOT_YET}"
        return "wan2.2-t2v-a14b", wanted, note, False
    note = "the experts of Wan 2.2 t2v-A14B have the same tensors; nothing around it says that it is one"
    return "wan2.1-t2v-14b", wanted, note, True


def _not_configurable(source: Source, layout: Layout) -> str:
    """Why no model can be built for these tensors, empty where one can."""
    try:
        dit_config(source, layout)
    except CheckpointError as error:
        return str(error).removeprefix(f"{source.path}: ")
    return ""


def _says_wan22(path: Path) -> bool:
    names = list(_GENERATION.finditer(_around(path)))
    if names:
        return names[-1]["second"] is not None  # the nearest to the file counts
    pipeline = path.absolute().parent.parent / "model_index.json"
    if not pipeline.is_file():
        return False
    try:
        return read_json(pipeline).get("boundary_ratio") is not None
    except CheckpointError:
        return False


def _tell_sizes_apart(
    path: Path, wanted: Mapping[str, Shape]
) -> tuple[str, Mapping[str, Shape], str]:
    sizes = sorted(set(re.findall(r"480p|720p", _around(path))))
    if len(sizes) == 1:
        note = f"{sizes[0].upper()} by the names around it"
        return f"wan2.1-i2v-14b-{sizes[0]}", wanted, note
    return "wan2.1-i2v-14b", wanted, "480P and 720P have the same tensors"


def _around(path: Path) -> str:
    return "/".join(path.absolute().parts[-_PARTS_AROUND:]).lower()


def _layout_name(source: Source, layout: Layout) -> str:
    if layout.naming.startswith("diffusers"):
        return "diffusers"
    if layout.naming == "llama.cpp":
        return layout.naming
    repackaged = (
        bool(layout.prefix)
        or source.format == "gguf"
        or any(
            entry.packings or entry.parts[0].dtype.startswith("F8")
            for entry in layout.entries.values()
        )
    )
    if layout.naming == "huggingface":
        return "comfyui" if repackaged or "spiece_model" in source.tensors else "huggingface"
    if layout.component in ("lora", "unknown"):
        return ""
    if source.format == "pth":
        return "original"
    # the original releases keep the DiT in safetensors beside its config.json, and all else in .pth
    is_release = layout.component == "denoiser" and source.config_file is not None
    return "original" if is_release and not repackaged else "comfyui"


def _without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)
