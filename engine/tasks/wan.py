"""Wan 2.1 as a graph: text, pictures and clips to video. Torch-free.

Conditions enter a step by content, the step before it by key; the solver is there as the weights of its step, which
is all that it does to the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from engine.components.protocols import Description
from engine.extensions import registry as extensions
from engine.extensions.extension import Extension
from engine.graph import Given, Identity, Node, Plain, Ref, Stage, Targets
from engine.prompt import clean_prompt
from engine.schedulers.schedule import to_float32
from engine.schedulers.update import Update, history_lengths
from engine.tasks.route import Part, Route, course_of, num_skipped, whole_course
from engine.tasks.stages import DECODE, DENOISE, ENCODE, EXPAND, IMAGE_ENCODE, READ, TEXT_ENCODE
from presets.errors import PresetError
from presets.expansion import expands, instructions_of, known_prompt
from presets.guidance import scales
from presets.output.rules import format_of
from presets.spec.components import DenoiserSpec
from presets.spec.run import RunSpec
from presets.tasks import PICTURES

EXPAND_PROMPT = Stage(
    "expand",
    1,
    "engine.stages.expand:expand",
    ("answer",),
    component=EXPAND.component,
    title=EXPAND.name,
)
EXPANDED = Stage("expanded", 1, "engine.stages.expand:read", ("text",), title=EXPAND.name)
TEXT = Stage(
    "text",
    1,
    "engine.stages.text:encode",
    ("states",),
    component=TEXT_ENCODE.component,
    title=TEXT_ENCODE.name,
)
PICTURE = Stage("picture", 1, "engine.stages.given:read_picture_file", ("pixels",), title=READ.name)
IMAGE = Stage(
    "image",
    1,
    "engine.stages.given:encode_pictures",
    ("states",),
    component=IMAGE_ENCODE.component,
    title=IMAGE_ENCODE.name,
)
CONDITION = Stage(
    "condition",
    1,
    "engine.stages.given:encode_frames",
    ("latents",),
    component=ENCODE.component,
    keep="cache",
    title=ENCODE.name,
)
CLIP = Stage(
    "clip",
    1,
    "engine.stages.given:encode_clip",
    ("latents",),
    component=ENCODE.component,
    title=ENCODE.name,
)
NOISE = Stage(
    "noise",
    1,
    "engine.stages.latents:derive",
    ("latents", "state"),
    derived={"latents": (), "state": ()},
    derive="engine.stages.latents:derive",
)
START = Stage(
    "start",
    1,
    "engine.stages.latents:start",
    ("latents", "state"),
    derived={"state": ("latents",)},
    derive="engine.stages.latents:derive",
    title=ENCODE.name,
    keep="cache",
)
STEP = Stage(
    "step",
    1,
    "engine.stages.denoise:steps",
    ("velocity", "state", "latents"),
    derived={
        "state": ("velocity", "before.state"),
        "latents": ("state",),
        "clean": ("velocity", "before.state"),
    },
    derive="engine.stages.denoise:derive",
    component=DENOISE.component,
    keep="chain",
    title=DENOISE.name,
)
VIDEO = Stage(
    "video",
    2,
    "engine.stages.video:decode",
    ("video",),
    transient=("frames",),
    component=DECODE.component,
    keep="output",
    title=DECODE.name,
)
STAGES = (
    EXPAND_PROMPT, EXPANDED, TEXT, PICTURE, IMAGE, CONDITION, CLIP, NOISE, START, STEP, VIDEO,
)  # fmt: skip

Describe = Callable[[str, Any], Description]


def graph_of(
    route: Route,
    describe: Describe,
    kinds: Collection[str],
    *,
    noise_device: str = "cpu",
    stop_at: int | None = None,
) -> Targets:
    """Outputs of these kinds of a run; the rest as of `latents_of`. A run that stops early shows the clean latents
    that its last step points to; before its first step there is its expanded prompt."""
    spec = route.spec
    if stop_at == 0:
        return {"prompt": expanded_of(route)}
    latents = latents_of(route, describe, noise_device=noise_device, stop_at=stop_at)
    is_whole = latents.node.hints["index"] + 1 == route.num_steps
    shown = latents if is_whole else Ref(latents.node, "clean", "key")
    size = {"height": spec.height, "width": spec.width}
    written: dict[str, Plain] = {"fps": spec.fps, "format": format_of(spec.output)}
    if spec.output.scale != 1:
        written["scale"] = [spec.output.scale, spec.output.resample]
    video = Node("video", VIDEO, {"latents": shown}, written, spec.components.vae, size)
    every = {"video": Ref(video, "video"), "frames": Ref(video, "frames"), "latents": latents}
    return {kind: ref for kind, ref in every.items() if kind in kinds}


def latents_of(
    route: Route, describe: Describe, *, noise_device: str = "cpu", stop_at: int | None = None
) -> Ref:
    """The latents after the last step of a run.

    noise_device: the type of device that draws `noise = "wan"`; each has a generator of its own. stop_at: how many
    steps are to be done. Raises what `describe` raises, and PresetError for scales that do not fit the steps.
    """
    total = route.num_steps if stop_at is None else min(stop_at, route.num_steps)
    return Ref(_chain(route, describe, noise_device, total), "latents")


def expanded_of(route: Route) -> Ref:
    """The expanded prompt of a run that has it expanded. Raises PresetError as `instructions_of` does, and where there
    is nothing to expand."""
    return _expanded(route.spec, {})


def latent_size(spec: RunSpec, about_vae: Description) -> tuple[int, int, int]:
    """Frames, rows and columns of a run's latents."""
    frames, rows, columns = about_vae.facts["latent_stride"]
    return 1 + (spec.frames - 1) // frames, spec.height // rows, spec.width // columns


def num_tokens(spec: RunSpec, about: Mapping[str, Description]) -> int:
    """How many patches of the latents the denoiser sees at each step."""
    patch = about["denoiser"].facts.get("patch_size", (1, 2, 2))
    frames, rows, columns = latent_size(spec, about["vae"])
    return (frames // patch[0]) * (rows // patch[1]) * (columns // patch[2])


def _chain(route: Route, describe: Describe, noise_device: str, total: int) -> Node:
    """The node of the last of the `total` first steps."""
    node = _begun(route.parts[0].spec, describe, noise_device)
    texts: dict[tuple[bytes, Ref | str], Node] = {}
    expansions: dict[tuple[bytes, str], Ref] = {}
    given: dict[bytes, dict[str, Ref]] = {}
    lengths = history_lengths(route.course.updates)
    for part in route.parts:
        skipped = 0
        if (
            part.spec.video.path
        ):  # else the course, which is dear, would be made once more for nothing
            skipped = num_skipped(whole_course(part.spec), part.spec)
        scale_of = scales(part.spec.guidance, part.total + skipped)[skipped:]
        shown = _shown(part.spec, describe, given)
        changing = _changing(part.spec, describe)
        is_guided = any(scale != 1 for scale in scale_of[part.start : part.stop])
        denoiser = _placed(part.spec.components.denoiser, is_guided=is_guided)
        for index in range(part.start, min(part.stop, total)):
            branches: dict[str, Ref | str] = {"positive": known_prompt(part.spec)}
            if expands(part.spec):
                branches["positive"] = _expanded(part.spec, expansions)
            if scale_of[index] != 1:
                branches["negative"] = part.spec.negative_prompt
            conditions = {}
            for name, prompt in branches.items():
                conditions[f"{name}.text"] = Ref(_text(part.spec, prompt, name, texts), "states")
                conditions |= {f"{name}.{what}": ref for what, ref in shown.items()}
            active = tuple(
                identity
                for identity, extension in changing
                if extension.is_active(index, part.total)
            )
            node = _step(
                route, part, index, scale_of[index], node, conditions, denoiser, active, lengths
            )
    return node


def _begun(spec: RunSpec, describe: Describe, device: str) -> Node:
    """What the first step goes on from: noise, or a clip under noise."""
    noise = _noise(spec, describe, device)
    if not spec.video.path:
        return noise
    params: dict[str, Plain] = {
        "file": given_digest(spec, "video"),
        "fps": spec.fps,
        "frames": spec.frames,
        "size": [spec.height, spec.width],
    }
    hints = {"path": spec.video.path}
    clip = Node("clip", CLIP, {}, params, spec.components.vae, hints)
    level = to_float32(course_of(spec).sigmas[0])
    return Node(
        "start",
        START,
        {"clip": Ref(clip, "latents")},
        {**noise.params, "sigma": level},
        hints=noise.hints,
    )


def _shown(spec: RunSpec, describe: Describe, known: dict[bytes, dict[str, Ref]]) -> dict[str, Ref]:
    """The conditions of a run's pictures, by name; none of a run without."""
    names = PICTURES[spec.task]
    if not names:
        return {}
    parts = spec.components
    place = msgspec.json.encode(
        [spec.image, spec.last_image, parts.vae, parts.image_encoder, spec.frames, names]
    )
    if place not in known:
        pictures = {
            slot: Ref(picture_node(spec, name), "pixels")
            for slot, name in zip(("first", "last"), names, strict=False)
        }
        image = Node("image", IMAGE, pictures, {}, parts.image_encoder)
        params: dict[str, Plain] = {
            "size": [spec.height, spec.width],
            "frames": spec.frames,
            "area": spec.max_area,
            "stride": describe("vae", parts.vae).facts["latent_stride"],
        }
        condition = Node("condition", CONDITION, pictures, params, parts.vae)
        known[place] = {"image": Ref(image, "states"), "latents": Ref(condition, "latents")}
    return known[place]


def picture_node(spec: RunSpec, name: str) -> Node:
    """The node of a picture that is given, by the name of its setting."""
    picture = getattr(spec, name)
    hints = {"path": picture.path, "background": picture.background, "setting": name}
    return Node(name, PICTURE, {}, {"pixels": given_digest(spec, name)}, hints=hints)


def given_digest(spec: RunSpec, name: str) -> str:
    """What a picture or a clip is known by. Raises PresetError where none is given."""
    given = getattr(spec, name)
    if not given.path:
        option = f"--{name.replace('_', '-')}"
        raise PresetError(
            f"is empty, and the task {spec.task} begins from it; give a file with {option}",
            key=f"{name}.path",
        )
    found: str = given.digest
    if not found:
        raise ValueError(f"{name} was not looked at: a run is settled before its graph is made")
    return found


def _noise(spec: RunSpec, describe: Describe, device: str) -> Node:
    parts = spec.components
    channels = describe("denoiser", parts.denoiser).facts["latent_channels"]
    size = latent_size(spec, describe("vae", parts.vae))
    source = spec.noise if spec.noise == "cpu" else f"{spec.noise}/{device}"
    params = {"seed": spec.seed, "source": source, "shape": [1, channels, *size]}
    return Node("noise", NOISE, {}, params, hints={"device": parts.denoiser.device})


def _text(
    spec: RunSpec, prompt: Ref | str, name: str, known: dict[tuple[bytes, Ref | str], Node]
) -> Node:
    encoder = spec.components.text_encoder
    place = (msgspec.json.encode(encoder), prompt)
    if place not in known:
        given = prompt if isinstance(prompt, Ref) else Given(clean_prompt(prompt).encode())
        known[place] = Node(name, TEXT, {"prompt": given}, {}, encoder)
    return known[place]


def _expanded(spec: RunSpec, known: dict[tuple[bytes, str], Ref]) -> Ref:
    """The text that a prompt was expanded to. Where the server is, and what the template is called, changes no key."""
    if not spec.prompt.strip():
        raise PresetError("there is nothing to expand; give a prompt", key="prompt")
    expander, wanted = spec.components.prompt_expander, spec.expansion
    place = (msgspec.json.encode([expander, wanted]), spec.prompt)
    if place not in known:
        prompt = Given(clean_prompt(spec.prompt).encode())
        instructions = Given(instructions_of(wanted).strip().encode())
        params: dict[str, Plain] = {
            "temperature": float(wanted.temperature),
            "top_p": float(wanted.top_p),
            "max_tokens": wanted.max_tokens,
            "seed": wanted.seed,
        }
        hints = {"template": wanted.template, "text_encoder": spec.components.text_encoder}
        answer = Node(
            "expansion",
            EXPAND_PROMPT,
            {"prompt": prompt, "instructions": instructions},
            params,
            expander,
            hints,
        )
        text = Node("prompt", EXPANDED, {"answer": Ref(answer, "answer")}, {}, hints=hints)
        known[place] = Ref(text, "text")
    return known[place]


def _step(
    route: Route,
    part: Part,
    index: int,
    scale: float,
    before: Node,
    conditions: Mapping[str, Ref],
    denoiser: DenoiserSpec,
    active: tuple[Identity, ...],
    lengths: tuple[int, ...],
) -> Node:
    course, spec = route.course, part.spec
    params: dict[str, Plain] = {
        "timestep": course.timesteps[index],
        "update": _weights(course.updates[index]),
        "guidance": float(scale),
    }
    if course.updates[index].noise:
        params["noise"] = [to_float32(course.updates[index].noise), spec.seed, index]
    if active:
        params["at"] = [index, part.total]
    return Node(
        f"step {index + 1}",
        STEP,
        {"before": Ref(before, "state", "key"), **conditions},
        params,
        denoiser,
        {"index": index, "total": part.total, "history": lengths[index + 1]},
        extensions.enabled(spec.extensions),
        active,
    )


def _placed(denoiser: DenoiserSpec, *, is_guided: bool) -> DenoiserSpec:
    """Without a device for a half of the guidance that no step has."""
    if is_guided or not denoiser.guidance_device:
        return denoiser
    return msgspec.structs.replace(denoiser, guidance_device="")


def _changing(spec: RunSpec, describe: Describe) -> list[tuple[Identity, Extension]]:
    """The extensions of a spec that change numbers, with what they are in the keys of the steps where they do."""
    switched_on = extensions.enabled(spec.extensions)
    if not switched_on:
        return []
    facts = describe("denoiser", spec.components.denoiser).facts
    made = [(extensions.make(each, facts), each) for each in switched_on]
    return [
        (extensions.identity(each, facts), extension)
        for extension, each in made
        if not extension.exact
    ]


def _weights(update: Update) -> list[float]:
    # as float32 has them, which is how they meet the latents: the last bits of float64 are each C library's own
    weights = (update.sigma, update.latents, update.velocity, *update.x0)
    return [to_float32(weight) for weight in weights]
