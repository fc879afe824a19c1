"""The whole run, and the file that holds a preset of it."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

from msgspec import Meta, Struct

from presets.spec.components import Components
from presets.spec.expansion import ExpansionSpec
from presets.spec.output import KeepSpec, OutputSpec
from presets.spec.pictures import ClipSpec, PictureSpec
from presets.spec.sampling import ExtensionSpec, GuidanceSpec, SchedulerSpec
from presets.spec.values import FRAME_STEP, MAX_FRAMES, MAX_PROMPT_BYTES, MAX_SIDE, SIZE_STEP

# The version of the preset and run format that this code reads and writes.
FORMAT = 1

# what torch takes, and what ComfyUI draws from
MAX_SEED = 2**64 - 1

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


class RunSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a run makes. Build one with `presets.library.loading.load_preset`."""

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
