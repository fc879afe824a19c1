"""What a server of components and those who use it say to each other: paths, messages, limits. Torch-free.

Tensors travel as one safetensors body (`engine.remote.wire`), everything else as JSON. docs/remote.md tells it to
those who write another side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert, field

from store.keys import canonical

CONTRACT = 1

# Headers. EXPECTS: the digest of the component that a request is for; ENVIRONMENT: what a result depends on beside it;
# SMALL: the run is so small that one thread serves it best.
EXPECTS, ENVIRONMENT, SMALL = "X-Modiff-Expects", "X-Modiff-Environment", "X-Modiff-Small"
TENSORS, JSON = "application/octet-stream", "application/json"

MAX_HEADER_BYTES = 64 * 1024
"""Of a safetensors body."""
MAX_JSON_BYTES = 256 * 1024
MAX_BODY_BYTES = 2 << 30
MAX_TOKENS = 512
MAX_IMAGE_TOKENS = 4096
"""Of all pictures of a run."""
MAX_PICTURES = 8
"""Of one request."""
MAX_CONDITIONS = 64

SERVED = ("text_encoder", "image_encoder", "denoiser", "vae")

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
_Count = Annotated[int, Meta(ge=0, le=1_000_000)]


_Size = Annotated[int, Meta(ge=1, le=1_000_000)]
_Steps = Annotated[list[Annotated[int, Meta(ge=1, le=64)]], Meta(min_length=3, max_length=3)]


class TextEncoderFacts(Struct, frozen=True, kw_only=True):
    """What others must agree with. text_dim: width of its token states."""

    text_dim: _Size


class ImageEncoderFacts(Struct, frozen=True, kw_only=True):
    """image_dim: width of its tokens. image_tokens: how many a picture has."""

    image_dim: _Size
    image_tokens: Annotated[int, Meta(ge=1, le=MAX_IMAGE_TOKENS)]


class DenoiserFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """patch_size: what frames, rows and columns of latents are multiples of. takes: names of its conditions, of
    `CONDITIONS`. image_dim: width of an image encoder's tokens, 0 where it takes none; image_tokens: how many of them a
    picture must have, 0 for any. given_channels: of the condition "latents". model_type: "t2v", "i2v" or "flf2v".
    num_blocks, dim, model: of what is inside, "" for the name of one that is not published."""

    text_dim: _Size
    latent_channels: _Size
    patch_size: _Steps = field(default_factory=lambda: [1, 1, 1])
    takes: Annotated[list[Name], Meta(min_length=1, max_length=8)] = field(
        default_factory=lambda: ["text"]
    )
    image_dim: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    image_tokens: Annotated[int, Meta(ge=0, le=MAX_IMAGE_TOKENS // 2)] = 0
    given_channels: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    model_type: Annotated[str, Meta(max_length=16)] = "t2v"
    num_blocks: Annotated[int, Meta(ge=0, le=100_000)] = 0
    dim: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    model: Annotated[str, Meta(max_length=64)] = ""


class VAEFacts(Struct, frozen=True, kw_only=True):
    """latent_stride: frames, rows and columns of video to one of its latents, [4, 8, 8]; of the frames 1 more.
    latents_of: whose colours its latents have, "micro" or "wan2.1", for previews."""

    latent_channels: _Size
    latent_stride: _Steps
    latents_of: Annotated[str, Meta(max_length=64)] = ""


FACTS: dict[str, type[Struct]] = {
    "text_encoder": TextEncoderFacts,
    "image_encoder": ImageEncoderFacts,
    "denoiser": DenoiserFacts,
    "vae": VAEFacts,
}


class Told(Struct, frozen=True, kw_only=True):
    """A component as its server tells of it.

    identity: all that its numbers depend on; it enters keys. facts: what other components must agree with.
    dtype: of its results, as safetensors names it. digest: of identity and facts.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    dtype: Literal["F32", "F16", "BF16"]
    digest: Digest


class Fingerprint(Struct, frozen=True, kw_only=True):
    """`GET /fingerprint`. max_body_bytes: of a request."""

    contract: int
    components: dict[str, Told]
    max_body_bytes: int


class Load(Struct, frozen=True, kw_only=True):
    """How busy a component is: whether it works, how many requests wait, how many it answered, how long those took."""

    busy: bool
    waiting: int
    answered: int
    seconds: float


class Health(Struct, frozen=True, kw_only=True):
    """`GET /health`."""

    contract: int
    version: str
    components: dict[str, Load]


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /encode-text`: a cleaned prompt (`engine.prompt.clean_prompt`)."""

    prompt: Annotated[str, Meta(max_length=64 * 1024)]


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PUT /conditions/{digest}`, beside the tensor `condition`. name: of the condition, one of `CONDITIONS`."""

    name: Name = "text"


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One velocity that is asked for, as of `engine.models.seams.At`."""

    step: _Count
    total: Annotated[int, Meta(ge=1, le=1_000_000)]
    sigma: float
    branch: Name
    window: Annotated[list[_Count], Meta(max_length=4096)] | None = None


class Denoise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /denoise`, beside the tensors `x` and `timestep`. branches: name -> name of a condition -> the digest that
    it was sent by."""

    branches: Annotated[
        dict[Name, Annotated[dict[Name, Digest], Meta(max_length=8)]],
        Meta(min_length=1, max_length=8),
    ]
    calls: Annotated[list[Call], Meta(min_length=1, max_length=8)]


class Progress(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Beside the tensors of each part of a streamed answer: how many pieces of work of how many are done; whether it is
    the last part; why there is no more."""

    done: _Count = 0
    total: _Count = 0
    is_last: bool = False
    error: str = ""


class Refusal(Struct, frozen=True, kw_only=True):
    """What every answer but a good one says. missing: digests of conditions that must be sent first."""

    error: str
    missing: list[Digest] = []


@dataclass(frozen=True)
class Operation:
    """One thing to ask for. takes: a struct for JSON, "tensors", or None; metadata: of the struct in the metadata of a
    body of tensors; gives: a struct, "tensors", "stream" or None. component: the kind that must be served."""

    name: str
    method: str
    path: str
    summary: str
    takes: Any = None
    metadata: Any = None
    gives: Any = None
    component: str = ""


OPERATIONS = (
    Operation("health", "GET", "/health", "Whether it lives, and how busy it is", gives=Health),
    Operation("fingerprint", "GET", "/fingerprint", "What is served", gives=Fingerprint),
    Operation("metrics", "GET", "/metrics", "The same as Prometheus text", gives="text"),
    Operation("openapi", "GET", "/openapi.json", "This contract", gives=dict),
    Operation(
        "condition",
        "PUT",
        "/conditions/{digest}",
        "One condition of a denoiser, by the SHA-256 of the body: `condition`, text [rows,text_dim], image "
        "[tokens,image_dim] or latents [given_channels,F,h,w]",
        takes="tensors",
        metadata=Condition,
        component="denoiser",
    ),
    Operation(
        "encode_text",
        "POST",
        "/encode-text",
        "Token states of a prompt: `states` [L, text_dim]",
        takes=Prompt,
        gives="tensors",
        component="text_encoder",
    ),
    Operation(
        "encode_image",
        "POST",
        "/encode-image",
        "Tokens of pictures `picture.0`, ... fp32 [3,H,W] in [-1,1], each of its own size: `tokens` [all, image_dim]",
        takes="tensors",
        gives="tensors",
        component="image_encoder",
    ),
    Operation(
        "denoise",
        "POST",
        "/denoise",
        "Velocities at `x` fp32 [1,C,F,h,w] and `timestep` int64 or fp32 [1]: `velocity.0`, ... for each call",
        takes="tensors",
        metadata=Denoise,
        gives="tensors",
        component="denoiser",
    ),
    Operation(
        "vae_encode",
        "POST",
        "/vae/encode",
        "Latents of `video` fp32 [B,3,4n+1,H,W] in [-1,1]: `latents` fp32",
        takes="tensors",
        gives="tensors",
        component="vae",
    ),
    Operation(
        "vae_decode",
        "POST",
        "/vae/decode",
        "Frames of `latents` fp32 [1,C,F,h,w]: parts with `frames` fp32 [1,3,t,8h,8w], in order, as they are decoded",
        takes="tensors",
        gives="stream",
        component="vae",
    ),
)


CONDITIONS = ("text", "image", "latents")


def condition_shape(name: str, facts: Mapping[str, Any]) -> tuple[int | None, ...]:
    """What a condition of `CONDITIONS` is to be for a denoiser of these facts, None for any size."""
    match name:
        case "text":
            return None, facts["text_dim"]
        case "image":
            per_picture = facts.get("image_tokens", 0)
            is_pair = facts.get("model_type") == "flf2v"
            return (1 + is_pair) * per_picture or None, facts.get("image_dim", 0)
        case _:
            return facts.get("given_channels", 0), None, None, None


def wrong_in(kind: str, told: Told) -> str:
    """What is wrong with what a server tells of a component, in one line, "" for nothing."""
    try:
        digest = digest_of(told.identity, told.facts)
        convert(told.facts, FACTS[kind])
    except (ValueError, ValidationError) as error:
        return f"its identity and facts cannot be used: {one_line(str(error))}"
    return "" if digest == told.digest else "its digest is not that of its identity and facts"


def one_line(text: str, most: int = 400) -> str:
    """Words of somebody else for people: one line without control characters, cut to so many characters."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if len(line) <= most else line[:most] + "..."


def path_of(name: str) -> str:
    """The path of an operation."""
    return next(each.path for each in OPERATIONS if each.name == name)


def digest_of(identity: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The digest by which a request names the component that it is for."""
    return hashlib.sha256(canonical([dict(identity), dict(facts)])).hexdigest()
