"""The walk before the first step of it: what of a run is stored, what is to be computed, what nobody needs. Torch-free.

One function decides it for reuse, replay, resume, branching and sweeps alike: derive the keys of the chain as far as
they are known, look them up, and go on from the deepest place that can be rebuilt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.pipelines.chain import (
    Identity,
    Route,
    latent_size,
    noise_key,
    prompts_of,
    step_facts,
    step_key,
    text_key,
    video_key,
)
from engine.prompt import clean_prompt
from presets.spec import RunSpec, TextEncoderSpec
from store.blobs.blobs import blob_path
from store.lineage.records import LinkRecord
from store.store import Store

Identify = Callable[[str, Any], Identity]
"""(kind, spec of that component) -> its identity."""


@dataclass(frozen=True)
class TextLink:
    """One prompt that is to be encoded, or was. digest: of its token states, "" where nobody knows it yet.
    is_stored: whether they are in the store. parts: every (text encoder's spec, prompt) of the run whose states
    these are: another device or spelling makes no other key."""

    spec: RunSpec
    prompt: str
    key: str
    digest: str
    is_stored: bool
    parts: frozenset[tuple[TextEncoderSpec, str]]


@dataclass(frozen=True)
class StepLink:
    """One step. key and facts are empty where they depend on what is not computed yet."""

    index: int
    key: str
    facts: Mapping[str, Any]
    link: LinkRecord | None


@dataclass(frozen=True)
class Plan:
    """What a run needs. total: steps to have done in the end. start: how many of them can be rebuilt from the
    store. texts: each prompt once. final: digest of the stored latents after `total` steps, else "".
    video: the key of the encoded video, "" where it is not known yet; video_digest: of the stored one, else "".
    """

    route: Route
    total: int
    texts: tuple[TextLink, ...]
    root: str
    steps: tuple[StepLink, ...]
    start: int
    final: str
    video: str
    video_digest: str
    latent_channels: int

    @property
    def wants_frames(self) -> bool:
        """Whether anybody asked for more than the video, which is all that is stored of what was decoded."""
        return "frames" in self.spec.output.kinds

    @property
    def spec(self) -> RunSpec:
        return self.route.parts[-1].spec

    @property
    def is_partial(self) -> bool:
        return self.total < self.route.num_steps

    @property
    def is_whole(self) -> bool:
        """Whether all that was asked for is stored, as bytes to be copied."""
        return not self.needs and (
            not self._needs_latents or bool(self.final and not self.is_partial)
        )

    @property
    def needs(self) -> tuple[str, ...]:
        """The kinds of components to load; more than needed only where a prompt's states were lost."""
        is_open = (
            self._needs_latents
            and self.start < self.total
            and not (self.final and not self.is_partial)
        )
        wanted = {
            "text_encoder": is_open and self._lacks_text,
            "denoiser": is_open,
            "vae": self._needs_vae,
        }
        return tuple(kind for kind, is_wanted in wanted.items() if is_wanted)

    @property
    def _needs_vae(self) -> bool:
        kinds = self.spec.output.kinds
        return "frames" in kinds or ("video" in kinds and not self.video_digest)

    @property
    def _needs_latents(self) -> bool:
        return self._needs_vae or "latents" in self.spec.output.kinds

    @property
    def _lacks_text(self) -> bool:
        return not all(text.is_stored for text in self.texts)

    @property
    def stages(self) -> dict[str, str]:
        """Stage -> `stored`, `compute`, or `skip` where nothing needs it."""
        needs = self.needs
        is_denoised = "denoiser" not in needs
        return {
            "text_encode": "compute"
            if "text_encoder" in needs
            else "skip"
            if is_denoised
            else "stored",
            "denoise": "stored" if is_denoised else "compute",
            "decode": "compute" if "vae" in needs else "stored" if self.video_digest else "skip",
        }


def make_plan(
    store: Store,
    route: Route,
    identify: Identify,
    *,
    latent_channels: int,
    device_type: str,
    stop_at: int | None = None,
) -> Plan:
    """The plan of a route on this store. latent_channels, device_type: of the denoiser; see `noise_key`."""
    total = route.num_steps if stop_at is None else min(stop_at, route.num_steps)
    spec = route.parts[-1].spec
    texts = _texts(store, route, total, identify)
    root = noise_key(route.parts[0].spec, latent_channels, device_type)
    keyed = list(_keyed_steps(route, total, root, texts, identify))
    links = store.find_links([key for key, _ in keyed if key])
    steps = tuple(
        StepLink(index, key, facts, links.get(key)) for index, (key, facts) in enumerate(keyed)
    )
    start = _deepest(store, steps)
    if start == total < route.num_steps and not is_stored(store, _digest_of(steps[-1])):
        start = _deepest(
            store, steps[:-1]
        )  # a keyframe does not tell where its last velocity points to
    last = steps[-1].link if steps else None
    final = last.latents if last is not None and is_stored(store, last.latents) else ""
    vae = identify("vae", spec.components.vae)
    shown = last.latents if last is not None else ""
    if shown and total < route.num_steps:
        shown = f"prediction/{steps[-1].key}"
    video = video_key(vae, shown, spec.fps) if shown else ""
    stored = store.find_links([video]).get(video) if video else None
    video_digest = stored.digest if stored is not None and is_stored(store, stored.digest) else ""
    return Plan(
        route, total, tuple(texts), root, steps, start, final, video, video_digest, latent_channels
    )


def _texts(store: Store, route: Route, total: int, identify: Identify) -> list[TextLink]:
    """Every prompt of the steps that count, once for each encoder."""
    found: dict[str, TextLink] = {}
    for part in route.parts:
        if part.start >= total and part is not route.parts[-1]:
            continue
        encoder = part.spec.components.text_encoder
        identity = identify("text_encoder", encoder)
        for prompt in prompts_of(part.spec):
            key = text_key(identity, clean_prompt(prompt))
            text = found.get(key, TextLink(part.spec, prompt, key, "", False, frozenset()))
            found[key] = replace(text, parts=text.parts | {(encoder, prompt)})
    digests = {key: link.digest for key, link in store.find_links(list(found)).items()}
    return [
        replace(text, digest=digests.get(key, ""), is_stored=is_stored(store, digests.get(key, "")))
        for key, text in found.items()
    ]


def text_digests(texts: Iterable[TextLink], encoder: Identity, spec: RunSpec) -> list[str]:
    """The digests of a spec's prompts, in order; "" for those that nobody knows yet."""
    by_key = {text.key: text.digest for text in texts}
    return [by_key.get(text_key(encoder, clean_prompt(prompt)), "") for prompt in prompts_of(spec)]


def _keyed_steps(
    route: Route, total: int, root: str, texts: Sequence[TextLink], identify: Identify
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(key, facts) of every step up to `total`; both empty from the first on that is not known."""
    parent = root
    for part in route.parts:
        encoder = identify("text_encoder", part.spec.components.text_encoder)
        denoiser = identify("denoiser", part.spec.components.denoiser)
        conditioning = text_digests(texts, encoder, part.spec)
        for index in range(part.start, min(part.stop, total)):
            if not parent or not all(conditioning):
                parent = ""
                yield "", {}
                continue
            facts = step_facts(parent, route.course, index, part.spec, denoiser, conditioning)
            parent = step_key(facts)
            yield parent, facts


def _deepest(store: Store, steps: Sequence[StepLink]) -> int:
    """The largest number of steps after which the solver's state can be rebuilt from what is stored."""
    deepest, is_reached = 0, True
    for step in steps:
        if step.link is None:
            break
        has_journal = is_reached and is_stored(store, step.link.digest)
        is_reached = has_journal or is_stored(store, step.link.state)
        if is_reached:
            deepest = step.index + 1
    return deepest


def _digest_of(step: StepLink) -> str:
    return step.link.digest if step.link is not None else ""


def is_stored(store: Store, digest: str) -> bool:
    """Whether a file of that name is there; only reading it tells whether it is whole."""
    return bool(digest) and os.path.isfile(blob_path(store.root, digest))


def step_bytes(spec: RunSpec, latent_channels: int) -> int:
    """What the journal entry of one step takes: one fp32 latent."""
    frames, rows, columns = latent_size(spec)
    return 4 * latent_channels * frames * rows * columns


def encode_facts(facts: Mapping[str, Any]) -> str:
    """The facts of a key as JSON, for people who ask what a key was derived from."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)
