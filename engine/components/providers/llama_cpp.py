"""UMT5 behind llama.cpp's server, from the GGUF that people have: `llama-server -m umt5-xxl-encoder-Q8_0.gguf
--embeddings --pooling none`. Torch comes in with what is encoded.

The prompt goes as the ids of our own tokenizer, so that nothing depends on theirs; one row must come back for each.
The numbers are those of quantised weights in llama.cpp's arithmetic: near those of the encoder here, never the same.
Written to its documentation (tools/server/README.md: `/embeddings`, `/props`, `/v1/models`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine.components.protocols import Description
from engine.components.providers.umt5 import tokenizer_file
from engine.errors import ComponentError
from engine.remote.client import Host, Refused, Unanswered
from engine.remote.hosts import address_of
from engine.remote.options import Retries, Timeout
from presets.errors import PresetError
from presets.fields.checks import build
from presets.spec.components import TextEncoderSpec

if TYPE_CHECKING:
    from torch import Tensor

    from engine.checkpoints.library import Found
    from engine.reports import Control
    from store.index.index import Index

KEY = "components.text_encoder"
_ASK_SECONDS = 3.0
# What a number of JSON takes at most, with what stands between two of them.
_NUMBER_BYTES = 26


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sha256: Annotated[
        str,
        Meta(
            pattern=r"^([0-9a-f]{64})?$(?!\n)",
            description="of the GGUF that the server has (`sha256sum FILE` there); without it, its name has to do",
            extra={"neutral": ""},
        ),
    ] = ""
    timeout: Timeout = 120.0
    retries: Retries = 3


class _Props(Struct, frozen=True):
    model_path: str
    build_info: str = ""


class _ModelMeta(Struct, frozen=True):
    n_embd: int
    n_params: int = 0


class _Model(Struct, frozen=True):
    id: str = ""
    meta: _ModelMeta | None = None


class _Models(Struct, frozen=True):
    data: list[_Model]


class _Seen(Struct, frozen=True):
    """What is remembered of a server. model: the file's name there, without its folder."""

    model: str
    build: str
    width: int
    num_params: int


class _Rows(Struct, frozen=True):
    embedding: list[list[float]]


def describe(spec: TextEncoderSpec, index: Index) -> Description:
    """As its server tells, or told when it was last met. Raises ComponentError, CheckpointError."""
    host, options = _host(spec)
    seen = _seen(host, index)
    tokenizer = tokenizer_file(_without_weights(spec))
    identity = {
        "name": spec.name,
        "model": seen.model,
        "params": seen.num_params,
        "build": seen.build,
        "tokenizer": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
    }
    if options.sha256:
        identity["sha256"] = options.sha256
    return Description(
        identity=identity,
        facts={"text_dim": seen.width},
        resident=f"{host.url} {seen.model}",
        files=(tokenizer,),
    )


def settle(spec: TextEncoderSpec, scan: Callable[[], Sequence[Found]]) -> TextEncoderSpec:
    """With the tokenizer's absolute path. Raises CheckpointError."""
    path = tokenizer_file(_without_weights(spec), scan)
    return msgspec.structs.replace(spec, tokenizer=str(path.absolute()))


def load(spec: TextEncoderSpec, about: Description) -> LlamaCppEncoder:
    """Raises ComponentError where the server is away, or has another model by now; CheckpointError."""
    from engine.errors import CheckpointError
    from engine.prompt import load_tokenizer

    host, _ = _host(spec)
    try:
        seen = _asked(host)
    except Unanswered as error:
        raise ComponentError(str(error), key=KEY) from None
    if (seen.model, seen.build) != (about.identity["model"], about.identity["build"]):
        raise ComponentError(
            f"{host.told} has the model {seen.model} of llama.cpp {seen.build} by now; run again to use that",
            key=KEY,
        )
    try:
        tokenize = load_tokenizer(about.files[0])
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return LlamaCppEncoder(host, tokenize, seen.width)


@dataclass(frozen=True)
class LlamaCppEncoder:
    host: Host
    tokenize: Callable[[str], list[int]]
    width: int

    def watched(self, control: Control) -> LlamaCppEncoder:
        """The same for one run, which gives up where that is asked to stop."""
        return replace(self, host=replace(self.host, check=control.check))

    def encode(self, prompt: str) -> Tensor:
        """As of `TextEncoder`, fp32."""
        import torch

        ids = self.tokenize(prompt)
        try:
            max_bytes = 4096 + len(ids) * (self.width * _NUMBER_BYTES + 64)
            found = self.host.post_json("/embeddings", {"input": ids}, list[_Rows], max_bytes)
        except (Refused, Unanswered) as error:
            raise ComponentError(f"{error}{_advice(str(error))}", key=KEY) from None
        rows = found[0].embedding if len(found) == 1 else []
        if len(rows) != len(ids) or any(len(row) != self.width for row in rows):
            sizes = f"{len(rows)} rows of {len(rows[0])}" if rows else f"{len(found)} embeddings"
            raise ComponentError(
                f"{self.host.told} answers with {sizes}, expected {len(ids)} rows of {self.width}; start it with "
                "--embeddings --pooling none",
                key=KEY,
            )
        states = torch.tensor(rows, dtype=torch.float32)
        if not bool(states.isfinite().all()):
            raise ComponentError(f"{self.host.told} sent token states that are not finite", key=KEY)
        return states


def _advice(text: str) -> str:
    if "too large to process" in text or "batch" in text:
        return "; start it with --ubatch-size 512"
    if "not support" in text:
        return "; start it with --embeddings --pooling none"
    return ""


def _host(spec: TextEncoderSpec) -> tuple[Host, Options]:
    if not spec.url:
        raise ComponentError(
            "needs the address of the llama.cpp server, such as http://192.168.1.7:8080",
            key=f"{KEY}.url",
        )
    try:
        options = build(spec.options, Options)
    except PresetError as error:
        raise PresetError(error.problem, key=f"{KEY}.options.{error.key}") from None
    return Host(address_of(spec.url, f"{KEY}.url"), options.timeout, options.retries), options


def _seen(host: Host, index: Index) -> _Seen:
    place = f"llama.cpp/{host.url}"
    try:
        seen = _asked(host)
    except Unanswered as error:
        kept = index.get(place)
        if kept is None:
            raise ComponentError(str(error), key=KEY) from None
        return msgspec.json.decode(kept, type=_Seen)
    index.put(place, msgspec.json.encode(seen))
    return seen


def _asked(host: Host) -> _Seen:
    try:
        props = host.get_json("/props", _Props, _ASK_SECONDS)
        models = host.get_json("/v1/models", _Models, _ASK_SECONDS)
    except Refused as error:
        raise ComponentError(f"{error}; is it a server of llama.cpp?", key=KEY) from None
    meta = models.data[0].meta if models.data else None
    if meta is None:
        raise ComponentError(
            f"{host.told} does not tell the width of its model; update it", key=KEY
        )
    name = props.model_path.replace("\\", "/").rpartition("/")[2]
    return _Seen(name, props.build_info, meta.n_embd, meta.n_params)


def _without_weights(spec: TextEncoderSpec) -> Any:
    """Its weights are at the server: only a vocabulary is looked for here."""
    if spec.tokenizer:
        return spec
    return msgspec.structs.replace(spec, tokenizer="umt5-xxl")
