"""A run, described: frozen structs that say everything about what to make and nothing about how.

The annotations are the one source of limits and help: validation, `--set`, the form and the JSON
Schema all read them (see `fields.py`). Sizes are pixels, times are frames.

An option of a component says in `Meta(extra=...)` how it counts in the key of a result (see
`identity.py`): `place` for where something runs or lies, which changes no number, and `neutral` for
the value at which an option does nothing. A neutral value never changes, even if the default does.

`role` says what a field is to whoever shows it, where its type does not say it all: "prompt", "seed", "device",
"model:KIND" (weights, by name or path), "file", "component:KIND" (the name of one), "options:KIND" (a table of
options of what is named beside it), "switch" (whether an item of a list counts). `section` says where in a form it
stands (`presets.sections`).
"""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from presets.output.formats import choice_of_endings

# The version of the preset and run format that this code reads and writes.
FORMAT = 1

# VAE stride (4, 8, 8) times the DiT's patch (1, 2, 2): what one token covers.
SIZE_STEP = 16
FRAME_STEP = 4

# The published rotary table has 1024 positions an axis (16384 pixels) and training stopped at
# 1280x720x81. These limits leave room for context windows (64 s at 16 fps) and refuse a typing
# slip such as 8320 or 8100 before it becomes an allocation.
MAX_SIDE = 4096
MAX_FRAMES = 1025

# 512 tokens, all that the text encoder reads, are about 2 KiB of English; eight times that is no
# accident.
MAX_PROMPT_BYTES = 16 * 1024

# what torch takes, and what ComfyUI draws from
MAX_SEED = 2**64 - 1

ComponentName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$(?!\n)",
        extra={"expected": "a name of letters, digits, '.', '_', '+' and '-'"},
    ),
]
FilePath = Annotated[str, Meta(max_length=4096)]
# `$(?!\n)` is the end of the text in Python and in JSON Schema alike; `$` alone allows a newline
# after it.
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
Prompt = Annotated[
    str,
    Meta(
        max_length=MAX_PROMPT_BYTES,
        extra={"max_bytes": MAX_PROMPT_BYTES, "role": "prompt", "section": "prompt"},
    ),
]
Size = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_SIDE,
        multiple_of=SIZE_STEP,
        description="pixels; 0 where a picture or a clip that is given decides",
        extra={
            "section": "size",
            "expected": f"a multiple of {SIZE_STEP} from {SIZE_STEP} to {MAX_SIDE}, or 0 where a picture decides",
        },
    ),
]
Digest = Annotated[
    str,
    Meta(
        pattern=r"^(sha256:[0-9a-f]{64})?$(?!\n)",
        extra={"setting": False, "expected": "sha256: and 64 hexadecimal digits"},
    ),
]
OptionName = Annotated[str, Meta(min_length=1, max_length=64)]
OptionValue = Annotated[
    bool
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
    | Annotated[str, Meta(max_length=4096)],
    Meta(extra={"expected": "true, false, a number or text of at most 4096 characters"}),
]

_CHECKPOINT = 'weights: the name of a model (`modiff models list`), a path to a file or folder, or "builtin:micro"'


Options = dict[OptionName, OptionValue]
_OPTIONS = "the component's own options, as a remote one has"
Url = Annotated[
    str,
    Meta(
        max_length=1024,
        description="of a remote component: the address that `modiff serve` printed, or the name of a known host",
        extra={"place": True, "role": "host"},
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
    checkpoint: Annotated[
        FilePath,
        Meta(description=_CHECKPOINT, extra={"place": True, "role": "model:text_encoder"}),
    ] = ""
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
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description=_OPTIONS,
            extra={"neutral": {}, "role": "options:text_encoder"},
        ),
    ] = {}


class ImageEncoderSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who looks at a run's pictures: used only where it has some."""

    name: Annotated[
        ComponentName,
        Meta(description="which image encoder", extra={"role": "component:image_encoder"}),
    ] = "clip"
    checkpoint: Annotated[
        FilePath,
        Meta(description=_CHECKPOINT, extra={"place": True, "role": "model:image_encoder"}),
    ] = ""
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
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description=_OPTIONS,
            extra={"neutral": {}, "role": "options:image_encoder"},
        ),
    ] = {}


class DenoiserSpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which denoiser", extra={"role": "component:denoiser"})
    ] = "wan-dit"
    checkpoint: Annotated[
        FilePath,
        Meta(description=_CHECKPOINT, extra={"place": True, "role": "model:denoiser"}),
    ] = ""
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
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description=_OPTIONS,
            extra={"neutral": {}, "role": "options:denoiser"},
        ),
    ] = {}


class VAESpec(ComponentSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which video autoencoder", extra={"role": "component:vae"})
    ] = "wan-vae"
    checkpoint: Annotated[
        FilePath,
        Meta(description=_CHECKPOINT, extra={"place": True, "role": "model:vae"}),
    ] = ""
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
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description=_OPTIONS,
            extra={"neutral": {}, "role": "options:vae"},
        ),
    ] = {}


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
    options: Annotated[
        Options,
        Meta(
            max_length=64,
            description=_OPTIONS,
            extra={"neutral": {}, "role": "options:prompt_expander"},
        ),
    ] = {}


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


class ExpansionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A longer prompt, written by `components.prompt_expander` before the text is encoded."""

    enabled: Annotated[
        bool, Meta(description="have the prompt written out by a language model before the run")
    ] = False
    template: Annotated[
        ComponentName,
        Meta(
            description="what the model is told to do: a file of `presets/templates` or of your own templates folder",
            extra={"role": "template"},
        ),
    ] = "t2v-en"
    instructions: Annotated[
        str,
        Meta(
            max_length=MAX_PROMPT_BYTES,
            description="the text of the template, which a run keeps; given here, it is used instead of the file",
            extra={"max_bytes": MAX_PROMPT_BYTES, "role": "prompt"},
        ),
    ] = ""
    temperature: Annotated[
        float, Meta(ge=0, le=2, description="how freely it writes; 0 takes the likeliest words")
    ] = 0.7
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="the share of likely words that it chooses among")
    ] = 0.95
    max_tokens: Annotated[
        int,
        Meta(
            ge=16, le=32768, description="at most so many tokens of answer, its reasoning included"
        ),
    ] = 2048
    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            description="another one has it written anew",
            extra={"role": "seed"},
        ),
    ] = 0
    on_failure: Annotated[
        Literal["fail", "as-typed"],
        Meta(
            description="where the model cannot be asked: fail the run, or go on with the prompt as typed"
        ),
    ] = "fail"
    text: Annotated[
        str,
        Meta(
            max_length=MAX_PROMPT_BYTES,
            description="an expanded prompt that was edited by hand: nobody is asked, it is used as it is",
            extra={"max_bytes": MAX_PROMPT_BYTES, "role": "prompt"},
        ),
    ] = ""


class SchedulerSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    # the names of `engine.schedulers.course.SOLVERS`, which a test holds to these
    name: Annotated[
        Literal["unipc", "dpm++", "sde-dpm++", "euler"],
        Meta(description="the solver; sde-dpm++ adds fresh noise at each step"),
    ] = "unipc"
    steps: Annotated[
        int, Meta(ge=1, le=1000, description="model evaluations, before guidance doubles them")
    ] = 50
    shift: Annotated[
        float,
        Meta(
            ge=0.01, le=100, description="timestep shift: above 1 spends more steps on high noise"
        ),
    ] = 5.0
    grid: Annotated[
        Literal["wan", "diffusers"],
        Meta(
            description="whose spacing of sigmas: the published code's, or that of diffusers' UniPC"
        ),
    ] = "wan"
    sigmas: Annotated[
        tuple[Annotated[float, Meta(ge=1e-4, le=1)], ...],
        Meta(
            max_length=1000,
            description="custom sigmas, descending, without the final 0; they decide the steps",
        ),
    ] = ()


Scale = Annotated[float, Meta(ge=0, le=100)]
_PIECE = "{from = 0.0, to = 0.4, scale = 6.0}"


class GuidancePiece(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scale for some of a run's steps; start and stop are shares of them, written `from` and `to`."""

    start: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps at which it begins")
    ] = msgspec.field(name="from")
    stop: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps before which it ends")
    ] = msgspec.field(name="to")
    scale: Annotated[Scale, Meta(description="classifier-free guidance of these steps")]


class GuidanceSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """scale: of all steps, of each step, or of pieces of the run; `guidance.scales` has one for each."""

    scale: Annotated[
        Scale
        | Annotated[
            tuple[
                Scale
                | Annotated[GuidancePiece, Meta(extra={"expected": f"a piece like {_PIECE}"})],
                ...,
            ],
            Meta(min_length=1, max_length=1000),
        ],
        Meta(
            description="classifier-free guidance; 1 is none, with one model call a step, as outside of all pieces",
            extra={
                "expected": "a finite number >= 0 and <= 100, an array of one for each step, "
                f"or an array of pieces like {_PIECE}"
            },
        ),
    ] = 5.0


class ExtensionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[
        ComponentName, Meta(description="which extension", extra={"role": "component:extension"})
    ]
    enabled: Annotated[
        bool,
        Meta(
            description="off: it stays in the list, and the run is as if it were not there",
            extra={"role": "switch"},
        ),
    ] = True
    options: Annotated[
        dict[OptionName, OptionValue],
        Meta(
            max_length=64,
            description="the extension's own options",
            extra={"role": "options:extension"},
        ),
    ] = {}


class PictureSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture that is given. digest: of its pixels, once the run is queued: whatever becomes of the file."""

    path: Annotated[
        FilePath, Meta(description="a picture of any size", extra={"role": "picture"})
    ] = ""
    background: Annotated[
        str,
        Meta(
            pattern=r"^#[0-9a-fA-F]{6}$(?!\n)",
            description="the colour behind its transparent parts",
            extra={"expected": 'a colour such as "#000000"'},
        ),
    ] = "#000000"
    digest: Digest = ""


class ClipSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video that is given to begin from. digest: of its file, once the run is queued."""

    path: Annotated[
        FilePath,
        Meta(
            description="a video to begin from; taken at `fps`, cut to the size and at most `frames`",
            extra={"role": "clip"},
        ),
    ] = ""
    strength: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="share of the steps that are done on it: more of them keep less of the clip",
        ),
    ] = 0.6
    sigma: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="the noise level to begin at, instead of a strength: the first of the schedule that is not "
            "above it; 0 goes by strength",
        ),
    ] = 0.0
    digest: Digest = ""


class OutputSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Annotated[
        FilePath,
        Meta(
            description="where to write; empty names a file after the run", extra={"role": "file"}
        ),
    ] = ""
    kinds: Annotated[
        tuple[Literal["video", "frames", "latents"], ...],
        Meta(
            min_length=1,
            max_length=3,
            description="what to write: the video, PNG frames, safetensors",
        ),
    ] = ("video",)
    # the names of `presets.output.formats.FORMATS`, which a test holds to these
    format: Annotated[
        Literal["auto", "h264", "h265", "av1", "x264rgb", "webm", "ffv1", "gif", "webp"],
        Meta(
            description=f"of the video; auto goes by the ending of output.path ({choice_of_endings()})"
        ),
    ] = "auto"
    scale: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            description="video and frames are written so many times as large, for pictures that are small",
        ),
    ] = 1
    resample: Annotated[
        Literal["nearest", "lanczos"],
        Meta(
            description="how they are enlarged: nearest keeps each pixel as a square, lanczos is smooth"
        ),
    ] = "nearest"
    overwrite: Annotated[bool, Meta(description="replace files that are already there")] = False


class KeepSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which denoising steps stay in the store, to be gone back to: those that any of these names."""

    every: Annotated[
        int, Meta(ge=0, le=1000, description="every n-th step; 1 keeps all, 0 none")
    ] = 1
    first: Annotated[int, Meta(ge=0, le=1000, description="the first n steps")] = 0
    last: Annotated[int, Meta(ge=0, le=1000, description="the last n steps")] = 0
    steps: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1000)], ...],
        Meta(max_length=1000, description="these steps, counted from 1"),
    ] = ()
    budget_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="at most so many MB of steps a run; where they would take more, fewer are kept",
        ),
    ] = 1024


class RunSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a run makes. Build one with `presets.library.load_preset`."""

    format: Annotated[
        int,
        Meta(
            ge=FORMAT,
            le=FORMAT,
            description="version of this format",
            extra={"expected": f"{FORMAT}", "setting": False},
        ),
    ] = FORMAT
    task: Annotated[
        Literal["t2v", "i2v", "flf2v"],
        Meta(
            description="t2v: text to video, and with one frame text to image; i2v: from a first picture on; flf2v: "
            "from a first to a last one",
            extra={"section": "preset"},
        ),
    ] = "t2v"
    components: Components = Components()
    prompt: Annotated[Prompt, Meta(description="what to show")] = ""
    negative_prompt: Annotated[
        Prompt, Meta(description="what to steer away from; unused without guidance")
    ] = ""
    expansion: Annotated[ExpansionSpec, Meta(extra={"section": "expansion"})] = ExpansionSpec()
    image: Annotated[PictureSpec, Meta(extra={"section": "media"})] = PictureSpec()
    last_image: Annotated[PictureSpec, Meta(extra={"section": "media"})] = PictureSpec()
    video: Annotated[ClipSpec, Meta(extra={"section": "media"})] = ClipSpec()
    width: Size = 832
    height: Size = 480
    max_area: Annotated[
        int,
        Meta(
            ge=SIZE_STEP**2,
            le=MAX_SIDE**2,
            description="pixels of a frame where a picture decides its size: 399360 is 480p, 921600 is 720p",
            extra={"section": "size"},
        ),
    ] = 399360
    frames: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_FRAMES,
            description=f"{FRAME_STEP}n+1 frames; 1 makes a still image",
            extra={"step": FRAME_STEP, "section": "size"},
        ),
    ] = 81
    fps: Annotated[
        int,
        Meta(
            ge=1,
            le=120,
            description="frames a second of the written video",
            extra={"section": "size"},
        ),
    ] = 16
    seed: Annotated[
        int,
        Meta(
            ge=0,
            description="seed of the initial noise",
            extra={
                "max": MAX_SEED,
                "role": "seed",
                "section": "size",
                "expected": f"an integer >= 0 and <= {MAX_SEED} (`--seed random` draws one)",
            },
            # msgspec takes no limit of more than 63 bits
            extra_json_schema={"maximum": MAX_SEED},
        ),
    ] = 0
    noise: Annotated[
        Literal["cpu", "wan"],
        Meta(
            description="where noise is drawn: cpu is the same on every machine; wan is on the "
            "denoiser's device, compatible with the published code",
            extra={"section": "size"},
        ),
    ] = "cpu"
    scheduler: Annotated[SchedulerSpec, Meta(extra={"section": "scheduler"})] = SchedulerSpec()
    guidance: Annotated[GuidanceSpec, Meta(extra={"section": "guidance"})] = GuidanceSpec()
    extensions: Annotated[
        tuple[ExtensionSpec, ...],
        Meta(max_length=64, description="applied in this order", extra={"section": "extensions"}),
    ] = ()
    output: Annotated[OutputSpec, Meta(extra={"section": "output"})] = OutputSpec()
    keep: Annotated[KeepSpec, Meta(extra={"section": "keep"})] = KeepSpec()


class PresetFile(RunSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a preset's TOML may hold: any part of a run, and two keys about the preset itself."""

    extends: Annotated[
        str, Meta(max_length=64, description="name of the preset that fills in what is left out")
    ] = ""
    description: Annotated[str, Meta(max_length=1000, description="one line for lists")] = ""
