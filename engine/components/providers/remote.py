"""Components that another process serves (`modiff serve`), on this machine or another. Torch comes in with `load`.

What one *is* the server tells, and that is remembered: a run that is stored, and every plan, needs no server. What
comes back is checked before it counts, and is stored under what the server says that it is: the same weights make the
same key here and there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from engine.components.protocols import Conditions, Description
from engine.errors import ComponentError
from engine.remote.client import Answer, Host, Refused, Unanswered
from engine.remote.contract import (
    CONTRACT,
    MAX_TOKENS,
    Call,
    Condition,
    Denoise,
    Fingerprint,
    Progress,
    Prompt,
    Told,
    one_line,
    wrong_in,
)
from engine.remote.hosts import address_of
from engine.remote.options import Retries, Timeout
from presets.errors import PresetError
from presets.fields.checks import build
from store.lineage.events import CallAnswered

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.seams import At
    from engine.reports import Control
    from store.blobs.tensors import Header
    from store.index.index import Index

OUTER_SEAMS = ("step", "guide", "model")
"""Where an extension can be put around a denoiser that is not here."""

# For how long a server is taken at its word, and one that is away for being that, where it is known what it was: a
# form plans at every key.
_FRESH_SECONDS = 2.0
_AWAY_SECONDS = 30.0
_ASK_SECONDS = 3.0

# until when, what it serves, and why that is remembered and not asked
_recent: dict[str, tuple[float, Fingerprint, str]] = {}

R = TypeVar("R", bound="_Remote")


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timeout: Timeout = 60.0
    retries: Retries = 3


@dataclass(frozen=True)
class Provider:
    """kind: of the components that it provides. make: one of them."""

    kind: str
    make: Callable[..., Any]
    Options: ClassVar[type[Options]] = Options

    def describe(self, spec: Any, index: Index) -> Description:
        """As its server tells, or told when it was last met. Raises ComponentError."""
        host = self._host(spec)
        told = self._told(host, _fingerprint(host, self.kind, index))
        return Description(
            identity=told.identity,
            facts={**told.facts, "seams": list(OUTER_SEAMS)}
            if self.kind == "denoiser"
            else told.facts,
            resident=f"{host.url} {told.digest} {told.dtype}",
        )

    def check_can_ask(self, spec: Any) -> None:
        """Raises ComponentError where its server is away."""
        try:
            self._host(spec).fingerprint(_ASK_SECONDS)
        except (Unanswered, Refused) as error:
            raise ComponentError(str(error), key=f"components.{self.kind}") from None

    def away(self, spec: Any) -> str:
        """Why its server could not be asked when it was last described, "" where it could."""
        return _recent.get(self._host(spec).url, (0.0, None, ""))[2]

    def load(self, spec: Any, about: Description) -> Any:
        """Raises ComponentError where the server is away, or serves something else by now."""
        host = self._host(spec)
        try:
            fingerprint = host.fingerprint(_ASK_SECONDS)
            told = self._told(host, fingerprint)
        except (Unanswered, Refused) as error:
            raise ComponentError(str(error), key=f"components.{self.kind}") from None
        if dict(told.identity) != dict(about.identity):
            raise ComponentError(
                f"{host.told} serves other weights or settings than this run was planned with; run again to use those",
                key=f"components.{self.kind}",
            )
        return self.make(self.kind, replace(host, max_bytes=fingerprint.max_body_bytes), told)

    def _host(self, spec: Any) -> Host:
        key = f"components.{self.kind}"
        if not spec.url:
            raise ComponentError(
                "a remote component needs the address of its server, such as http://192.168.1.7:8765 "
                f"(`modiff serve {self.kind.replace('_', '-')}` prints one)",
                key=f"{key}.url",
            )
        try:
            options = build(spec.options, Options)
        except PresetError as error:
            raise PresetError(error.problem, key=f"{key}.options.{error.key}") from None
        return Host(address_of(spec.url, f"{key}.url"), options.timeout, options.retries)

    def _told(self, host: Host, fingerprint: Fingerprint) -> Told:
        key = f"components.{self.kind}"
        if fingerprint.contract != CONTRACT:
            raise ComponentError(
                f"{host.told} speaks version {fingerprint.contract} of the contract, this is version {CONTRACT}; "
                "update the older side",
                key=key,
            )
        told = fingerprint.components.get(self.kind)
        if told is None:
            served = one_line(", ".join(sorted(fingerprint.components))) or "nothing"
            raise ComponentError(f"{host.told} serves {served}, not a {self.kind}", key=key)
        if wrong := wrong_in(self.kind, told):
            raise ComponentError(
                f"what {host.told} tells of its {self.kind} is wrong: {wrong}", key=key
            )
        return told


def _fingerprint(host: Host, kind: str, index: Index) -> Fingerprint:
    """Of a host, or what it last was. Raises ComponentError where nobody knows."""
    until, found, away = _recent.get(host.url, (0.0, None, ""))
    if found is not None and time.monotonic() < until:
        return found
    place = f"remote/{host.url}"
    try:
        found, seconds, away = host.fingerprint(_ASK_SECONDS), _FRESH_SECONDS, ""
        index.put(place, msgspec.json.encode(found))
    except (Unanswered, Refused) as error:
        kept = index.get(place) if isinstance(error, Unanswered) else None
        if kept is None:
            raise ComponentError(str(error), key=f"components.{kind}") from None
        found, seconds = msgspec.json.decode(kept, type=Fingerprint), _AWAY_SECONDS
        away = str(error)
    _recent[host.url] = (time.monotonic() + seconds, found, away)
    return found


@dataclass(frozen=True)
class _Remote:
    kind: str
    host: Host
    told: Told
    control: Control | None = None
    said: dict[str, str] = field(default_factory=dict)

    def watched(self: R, control: Control) -> R:
        """The same, for one run: it gives up where that is asked to stop, and tells of its calls."""
        return replace(self, host=replace(self.host, check=control.check), control=control, said={})

    @property
    def environment(self) -> str:
        """What the last result depends on beside the key, as its server told; "" before the first."""
        return self.said.get("environment", "")

    def _call(self, name: str, **given: Any) -> Answer:
        with self._blamed():
            answer = self.host.call(name, self.told.digest, small=_is_small(), **given)
        self._tell(answer)
        return answer

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            if error.missing:
                raise
            raise ComponentError(str(error), key=f"components.{self.kind}") from None
        except Unanswered as error:
            raise ComponentError(str(error), key=f"components.{self.kind}") from None

    def _tell(self, answer: Answer) -> None:
        if answer.environment:
            self.said["environment"] = answer.environment
        if self.control is not None:
            self.control.emit(
                CallAnswered(
                    component=self.kind,
                    host=self.host.url,
                    sent_bytes=answer.sent,
                    received_bytes=answer.received,
                    seconds=answer.seconds,
                )
            )

    def _finite(self, tensor: Tensor, what: str) -> Tensor:
        if not bool(tensor.isfinite().all()):
            raise ComponentError(
                f"{self.host.told} sent {what} that are not finite", key=f"components.{self.kind}"
            )
        return tensor


class RemoteTextEncoder(_Remote):
    def encode(self, prompt: str) -> Tensor:
        """As of `TextEncoder`."""
        from engine.remote.wire import BadBody, expect

        def check(header: Header) -> None:
            width = self.told.facts.get("text_dim")
            expect(header, {"states": ((self.told.dtype,), (None, width))})
            (length, _) = header.tensors["states"].shape
            if length > MAX_TOKENS:
                raise BadBody(f"states has {length} rows, expected at most {MAX_TOKENS}")

        answer = self._call("encode_text", data=Prompt(prompt=prompt), check=check)
        assert answer.body is not None
        return self._finite(answer.body.tensors["states"], "token states")


class RemoteImageEncoder(_Remote):
    def encode(self, pictures: Sequence[Tensor]) -> Tensor:
        """As of `ImageEncoder`."""
        from engine.remote.wire import encoded, expect

        facts = self.told.facts
        shape = (len(pictures) * facts["image_tokens"], facts["image_dim"])
        named = {f"picture.{index}": each.float() for index, each in enumerate(pictures)}
        answer = self._call(
            "encode_image",
            data=encoded(named),
            check=lambda header: expect(header, {"tokens": ((self.told.dtype,), shape)}),
        )
        assert answer.body is not None
        return self._finite(answer.body.tensors["tokens"], "tokens")


class RemoteDenoiser(_Remote):
    @contextmanager
    def begin(
        self, branches: Mapping[str, Conditions], extensions: Sequence[Any] = ()
    ) -> Iterator[RemotePredict]:
        """As of `Denoiser`; of extensions only those around whole velocities."""
        yield RemotePredict(self, _conditions(branches), tuple(extensions))

    def velocities(
        self, x: Tensor, timestep: Tensor, ats: Sequence[At], conditions: Mapping[str, _Named]
    ) -> list[Tensor]:
        """One call for all of them. Conditions that the server has not are sent first."""
        from engine.remote.wire import encoded, expect

        wanted = Denoise(
            branches={
                at.branch: {name: each.digest for name, each in conditions[at.branch].items()}
                for at in ats
            },
            calls=[
                Call(
                    step=at.step,
                    total=at.total,
                    sigma=at.sigma,
                    branch=at.branch,
                    window=None if at.window is None else list(at.window),
                )
                for at in ats
            ],
        )
        names = [f"velocity.{index}" for index in range(len(ats))]
        shape = tuple(x.shape)

        def check(header: Header) -> None:
            expect(header, dict.fromkeys(names, (("F32",), shape)))

        data = encoded({"x": x, "timestep": timestep}, wanted)
        try:
            answer = self._call("denoise", data=data, check=check)
        except Refused as error:
            self._send(error, conditions)
            try:
                answer = self._call("denoise", data=data, check=check)
            except Refused:
                raise ComponentError(
                    f"{self.host.told} has not the conditions that it was just sent",
                    key=f"components.{self.kind}",
                ) from None
        assert answer.body is not None
        return [self._finite(answer.body.tensors[name], "velocities") for name in names]

    def _send(self, refusal: Refused, conditions: Mapping[str, _Named]) -> None:
        known = {each.digest: each for named in conditions.values() for each in named.values()}
        for digest in dict.fromkeys(refusal.missing):
            if digest not in known:
                raise ComponentError(
                    f"{self.host.told} asks for a condition that this run has not",
                    key=f"components.{self.kind}",
                )
            self._call("condition", data=known[digest].parts, check=None, values={"digest": digest})


@dataclass(frozen=True)
class _Sent:
    digest: str
    parts: Sequence[memoryview]


_Named = Mapping[str, _Sent]


@dataclass(frozen=True)
class RemotePredict:
    """See `Predict`."""

    denoiser: RemoteDenoiser
    conditions: Mapping[str, _Named]
    extensions: tuple[Any, ...]

    def __call__(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        from engine.extensions.extension import active, needs_own_calls
        from engine.models.seams import around

        now = active(self.extensions, ats[0].step, ats[0].total)

        def velocity(x: Tensor, timestep: Tensor, at: At) -> Tensor:
            return self.denoiser.velocities(x, timestep, [at], self.conditions)[0]

        if needs_own_calls(now):
            model = around(now, "model", velocity)
            return [model(x, timestep, at) for at in ats]
        return self.denoiser.velocities(x, timestep, ats, self.conditions)


class RemoteVAE(_Remote):
    def encode(self, video: Tensor) -> Tensor:
        """As of `VAE`."""
        from engine.remote.wire import encoded, expect

        frames, rows, columns = self.told.facts["latent_stride"]
        batch, _, num_frames, height, width = video.shape
        size = (1 + (num_frames - 1) // frames, height // rows, width // columns)
        shape = (batch, self.told.facts["latent_channels"], *size)
        answer = self._call(
            "vae_encode",
            data=encoded({"video": video}),
            check=lambda header: expect(header, {"latents": (("F32",), shape)}),
        )
        assert answer.body is not None
        return self._finite(answer.body.tensors["latents"], "latents")

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Tensor]:
        """As of `VAE`."""
        from engine.remote.wire import BadBody, encoded, expect

        stride, rows, columns = self.told.facts["latent_stride"]
        batch, _, num_latents, height, width = latents.shape
        left = 1 + (num_latents - 1) * stride
        size = (height * rows, width * columns)

        def check(header: Header) -> None:
            if header.tensors:
                expect(header, {"frames": (("F32",), (batch, 3, None, *size))})
                if header.tensors["frames"].shape[2] > left:
                    raise BadBody("there are more frames than the latents make")

        with self._blamed():
            answers = self.host.stream(
                "vae_decode",
                self.told.digest,
                data=encoded({"latents": latents}),
                check=check,
                small=_is_small(),
            )
            done = 0
            for answer in answers:
                assert answer.body is not None
                self._tell(answer)
                progress = answer.body.metadata(Progress)
                if progress.done > done:
                    done = progress.done
                    on_chunk(done, progress.total)
                elif not (answer.body.tensors or progress.is_last):
                    raise Refused(f"{self.host.told} sent a part with nothing in it")
                if "frames" in answer.body.tensors:
                    frames = answer.body.tensors["frames"]
                    left -= frames.shape[2]
                    yield self._finite(frames, "frames")
        if left:
            raise ComponentError(
                f"{self.host.told} sent {left} frames too few", key=f"components.{self.kind}"
            )


def _conditions(branches: Mapping[str, Conditions]) -> dict[str, dict[str, _Sent]]:
    """The conditions as they are sent, each once, by their digests."""
    import hashlib

    from engine.remote.wire import encoded

    def sent(name: str, tensor: Tensor) -> _Sent:
        # as the first version of the contract had no other
        metadata = None if name == "text" else Condition(name=name)
        parts = encoded({"condition": tensor}, metadata)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return _Sent(digest.hexdigest(), parts)

    # branches share given frames, which are large
    known: dict[tuple[str, int], _Sent] = {}
    for named in branches.values():
        for name, tensor in named.items():
            if (name, id(tensor)) not in known:
                known[name, id(tensor)] = sent(name, tensor)
    return {
        branch: {name: known[name, id(tensor)] for name, tensor in named.items()}
        for branch, named in branches.items()
    }


def _is_small() -> bool:
    import torch

    return torch.get_num_threads() == 1


text_encoder = Provider("text_encoder", RemoteTextEncoder)
image_encoder = Provider("image_encoder", RemoteImageEncoder)
denoiser = Provider("denoiser", RemoteDenoiser)
vae = Provider("vae", RemoteVAE)
