"""The models of a run, and where and how each is held."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from presets.spec.values import FRAME_STEP, MAX_FRAMES, MAX_SIDE, ComponentName, FilePath, Options

Device = Annotated[
    str,
    Meta(
        pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?)$(?!\n)",
        description="where it runs; auto takes the best device that is there",
        extra={
            "expected": '"auto", "cpu", "mps", "cuda" or "cuda:N"',
            "place": True,
            "role": "device",
        },
    ),
]

DType = Annotated[
    Literal["fp32", "bf16", "fp16"],
    Meta(
        description="number format of weights and activations; what was published in fp32 stays so"
    ),
]

Quantise = Annotated[
    Literal["", "fp8", "int8"],
    Meta(
        description="what the large matrices of the blocks are rounded to when they are loaded, each row with its own "
        "scale; approximate. Empty leaves the numbers of the file",
        extra={"neutral": ""},
    ),
]

Unpack = Annotated[
    Literal["auto", "load", "call"],
    Meta(
        description="when quantised weights become numbers: all as they are loaded, or each layer at each call, which "
        "takes less memory and more time; auto is load for quantised files on the CPU, else call",
        extra={"place": True},
    ),
]

Checkpoint = Annotated[
    FilePath,
    Meta(
        description="weights: the name of a model (`modiff models list`), a path to a file or folder, or "
        '"builtin:micro"',
        extra={"place": True},
    ),
]

Url = Annotated[
    str,
    Meta(
        max_length=1024,
        description="of a remote component: the address that `modiff serve` printed, or the name of a known host",
        extra={"place": True, "role": "host"},
    ),
]

OwnOptions = Annotated[
    Options,
    Meta(
        max_length=64,
        description="the component's own options, as a remote one has",
        extra={"neutral": {}},
    ),
]


class ComponentSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the components have in common: two are equal where they are written alike, and have one
    hash then.
    """

    # as bytes, because to Python true equals 1, and because a table of options has no hash
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _written(self) == _written(other)

    def __hash__(self) -> int:
        return hash(_written(self))


def _written(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


class TextEncoderSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName,
        Meta(description="which text encoder", extra={"role": "component:text_encoder"}),
    ] = "umt5"
    checkpoint: Annotated[Checkpoint, Meta(extra={"role": "model:text_encoder"})] = ""
    tokenizer: Annotated[
        FilePath,
        Meta(
            description="its vocabulary; empty takes that inside the weights, else beside them, else the library's",
            extra={"place": True, "role": "file"},
        ),
    ] = ""
    device: Device = "auto"
    dtype: DType = "bf16"
    quantise: Quantise = ""
    unpack: Unpack = "auto"
    url: Url = ""
    options: Annotated[OwnOptions, Meta(extra={"role": "options:text_encoder"})] = {}


class ImageEncoderSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who looks at a run's pictures: used only where it has some."""

    name: Annotated[
        ComponentName,
        Meta(description="which image encoder", extra={"role": "component:image_encoder"}),
    ] = "clip"
    checkpoint: Annotated[Checkpoint, Meta(extra={"role": "model:image_encoder"})] = ""
    device: Device = "auto"
    # As its file and diffusers have it; the published code runs it in fp16, which costs CPUs more time, not less. It
    # runs once a picture, so that the memory is lent for a moment.
    dtype: DType = "fp32"
    fit: Annotated[
        Literal["stretch", "crop"],
        Meta(
            description="how a picture becomes its square: stretch as published, crop its middle as diffusers and "
            "ComfyUI do",
            extra={"neutral": "stretch"},
        ),
    ] = "stretch"
    url: Url = ""
    options: Annotated[OwnOptions, Meta(extra={"role": "options:image_encoder"})] = {}


class DenoiserSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which denoiser", extra={"role": "component:denoiser"})
    ] = "wan-dit"
    checkpoint: Annotated[Checkpoint, Meta(extra={"role": "model:denoiser"})] = ""
    device: Device = "auto"
    dtype: DType = "bf16"
    quantise: Quantise = ""
    unpack: Unpack = "auto"
    activations: Annotated[
        Literal["plain", "quantised"],
        Meta(
            description="quantised multiplies quantised weights with activations that are rounded alike, token by "
            "token; approximate",
            extra={"neutral": "plain"},
        ),
    ] = "plain"
    resident_blocks: Annotated[
        str,
        Meta(
            pattern=r"^(all|auto|[0-9]{1,4}|[0-9]{1,5}(\.[0-9]{1,3})?GB)$(?!\n)",
            description="block swap: how many blocks of the model stay on its device, or how many GB of them; the "
            "others come to it for each call. auto keeps as many as there is room for",
            extra={
                "expected": '"all", "auto", a number of blocks or a size such as "6GB"',
                "place": True,
            },
        ),
    ] = "all"
    guidance_device: Annotated[
        str,
        Meta(
            pattern=r"^(cpu|mps|cuda(:(0|[1-9][0-9]?))?)?$(?!\n)",
            description="where the negative half of the guidance runs, beside the other one; empty: where that runs",
            extra={
                "expected": '"", "cpu", "mps", "cuda" or "cuda:N"',
                "place": True,
                "role": "device",
            },
        ),
    ] = ""
    attention: Annotated[
        ComponentName,
        Meta(
            description="attention backend; `modiff doctor` lists what works here",
            extra={"neutral": "sdpa", "role": "component:attention"},
        ),
    ] = "sdpa"
    url: Url = ""
    options: Annotated[OwnOptions, Meta(extra={"role": "options:denoiser"})] = {}


class VAESpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which video autoencoder", extra={"role": "component:vae"})
    ] = "wan-vae"
    checkpoint: Annotated[Checkpoint, Meta(extra={"role": "model:vae"})] = ""
    device: Device = "auto"
    dtype: DType = "fp32"
    # Counts where it is not 0: chunks give the numbers of the whole clip up to rounding, and no test holds them to
    # the same bits (tests/unit/models/test_wanvae.py allows 1e-5).
    chunk_frames: Annotated[
        int,
        Meta(
            ge=0,
            le=1 + (MAX_FRAMES - 1) // FRAME_STEP,
            description="latent frames decoded at a time, 0 for the whole clip; more takes memory",
            extra={"neutral": 0},
        ),
    ] = 2
    tile_size: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_SIDE,
            multiple_of=8,
            description="side of a tile in pixels, 0 for whole frames; approximate",
            extra={"neutral": 0},
        ),
    ] = 0
    tile_overlap: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_SIDE // 2,
            multiple_of=8,
            description="pixels by which tiles overlap, at most half a tile; more is nearer to whole frames",
            extra={"neutral": 64},
        ),
    ] = 64
    url: Url = ""
    options: Annotated[OwnOptions, Meta(extra={"role": "options:vae"})] = {}


class PromptExpanderSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who writes a longer prompt: used only where `expansion.enabled` says so."""

    name: Annotated[
        ComponentName,
        Meta(
            description="who writes it: openai is any server that speaks like OpenAI's, transformers a model in this "
            "engine",
            extra={"role": "component:prompt_expander"},
        ),
    ] = "openai"
    checkpoint: Annotated[
        FilePath,
        Meta(
            description="the language model: its name at the server, empty for the one that is served there; for "
            "transformers its folder",
            extra={"role": "model:prompt_expander"},
        ),
    ] = ""
    url: Annotated[
        str,
        Meta(
            max_length=1024,
            description="the address of the server up to its version, such as http://127.0.0.1:8080/v1",
            extra={"place": True, "role": "host"},
        ),
    ] = ""
    api_key_env: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$(?!\n)",
            description="the environment variable that holds the key of the server; empty sends none",
            extra={"place": True, "expected": "the name of an environment variable"},
        ),
    ] = ""
    device: Device = "auto"
    dtype: DType = "bf16"
    options: Annotated[OwnOptions, Meta(extra={"role": "options:prompt_expander"})] = {}


class Components(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text_encoder: Annotated[TextEncoderSpec, Meta(extra={"section": "encoder"})] = TextEncoderSpec()
    image_encoder: Annotated[ImageEncoderSpec, Meta(extra={"section": "encoder"})] = (
        ImageEncoderSpec()
    )
    denoiser: Annotated[DenoiserSpec, Meta(extra={"section": "denoiser"})] = DenoiserSpec()
    vae: Annotated[VAESpec, Meta(extra={"section": "decode"})] = VAESpec()
    prompt_expander: Annotated[PromptExpanderSpec, Meta(extra={"section": "expansion"})] = (
        PromptExpanderSpec()
    )
