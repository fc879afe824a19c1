"""A run computed once more from its noise, nothing reused, and compared link by link with what is on record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.pipelines import stages
from engine.pipelines.chain import Route, prompts_of, route_of_run
from engine.pipelines.models import Models, environment
from engine.pipelines.plan import StepLink
from engine.pipelines.walk import Unfaithful, latents_digest, rebuilt
from engine.schedulers.scheduler import follow_course
from presets.spec import RunSpec
from store.blobs.blobs import digest_of
from store.blobs.tensors import encoded_parts
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.lineage.records import RunRecord
from store.store import Store

LATENT_CHANNELS = (
    16  # of every denoiser that runs so far; a blob of another shape is refused by the scheduler
)


@dataclass(frozen=True)
class Verdict:
    """What came of it. identical: whether every link has the bytes on record. first: what differs first, such as
    "step 7" or "text 1", "" where nothing does. relative_l2: how far the latents of that step are from those on
    record, None where they are not stored. environment: what differs in it, as name -> (then, now).
    checked: how many links were compared.
    """

    identical: bool
    first: str
    relative_l2: float | None
    environment: dict[str, tuple[Any, Any]]
    checked: int


def verify(
    store: Store, run: RunRecord, *, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Verdict:
    """Computes `run` again and compares. on_step: called with how many of how many steps are compared.

    Stops at the first difference. Raises StoreError where nothing of the run is on record, and as loading and
    denoising do.
    """
    seen = {(link.stage, link.index): link for link in store.links_of(run.id)}
    if not any(stage == "step" for stage, _ in seen):
        raise StoreError(f"run {run.id} has no steps on record; there is nothing to compare with")
    total = 1 + max(index for stage, index in seen if stage == "step")
    known_texts = {link.digest for (stage, _), link in seen.items() if stage == "text"}
    recorded = _recorded_environment(
        store, run, [link.key for (stage, _), link in seen.items() if stage == "step"]
    )
    route = route_of_run(run)
    models = Models()
    models.set_threads(route.parts[-1].spec)
    checked = 0
    texts: dict[tuple[Any, str], Tensor] = {}
    for part in route.parts:
        encoder_spec = part.spec.components.text_encoder
        for prompt in prompts_of(part.spec):
            if part.start >= total or (encoder_spec, prompt) in texts:
                continue
            encoder = models.component("text_encoder", encoder_spec)
            states = texts[encoder_spec, prompt] = stages.encode_prompt(encoder, part.spec, prompt)
            if not known_texts:
                continue
            checked += 1
            # by content: prompts that clean to the same text, or encoders that differ in their device, have one link
            if digest_of(*encoded_parts({"states": states})) not in known_texts:
                changed = _changed_environment(recorded, environment(states.device))
                return Verdict(False, f"text {len(texts)}", None, changed, checked)

    def contexts_of(spec: RunSpec) -> list[Tensor]:
        return [texts[spec.components.text_encoder, prompt] for prompt in prompts_of(spec)]

    def denoiser_of(spec: RunSpec) -> Any:
        return models.component("denoiser", spec.components.denoiser)

    scheduler = follow_course(route.course)
    root = route.parts[0].spec
    state = scheduler.start(stages.initial_noise(root, denoiser_of(root)))
    changed = _changed_environment(recorded, environment(state.latents.device))
    for step in stages.advance(denoiser_of, route, scheduler, state, contexts_of, total):
        number = step.state.step
        link = seen.get(("step", number - 1))
        on_step(number, total)
        if link is None or not link.latents:
            continue
        checked += 1
        if link.latents != latents_digest(step.state.latents):
            error = _distance(store, run, route, number, step.state.latents)
            return Verdict(False, f"step {number}", error, changed, checked)
    return Verdict(True, "", None, changed, checked)


def recorded_latents(store: Store, run: RunRecord, number: int, device: Any) -> Tensor | None:
    """The latents after `number` steps of a run as its journal has them; None where it cannot be rebuilt."""
    route = route_of_run(run)
    seen = [link for link in store.links_of(run.id) if link.stage == "step"][:number]
    links = store.find_links([link.key for link in seen])
    steps = [StepLink(link.index, link.key, {}, links.get(link.key)) for link in seen]
    scheduler = follow_course(route.course)
    noise = noise_of(route, device)
    if noise is None:
        return None
    latents = None
    try:
        for step in rebuilt(store, scheduler, noise, steps):
            latents = step.state.latents if step.state.step == number else None
    except (BlobMissing, BlobCorrupt, Unfaithful):
        return None
    return latents


def noise_of(route: Route, device: Any) -> Tensor | None:
    """The initial noise of a route, drawn without its denoiser; None for one that only the denoiser's device can
    draw."""
    spec = route.parts[0].spec
    if spec.noise != "cpu":
        return None
    return stages.draw_noise(spec, LATENT_CHANNELS, device)


def _distance(
    store: Store, run: RunRecord, route: Route, number: int, latents: Tensor
) -> float | None:
    recorded = recorded_latents(store, run, number, latents.device)
    if recorded is None:
        return None
    return float((latents - recorded).norm() / recorded.norm())


def _recorded_environment(store: Store, run: RunRecord, keys: Sequence[str]) -> str:
    """Of the run, or of the links that it took from others."""
    links = store.find_links(keys).values()
    return run.environment or next((link.environment for link in links if link.environment), "")


def _changed_environment(recorded: str, now: str) -> dict[str, tuple[Any, Any]]:
    before = json.loads(recorded or "{}")
    after = json.loads(now)
    names = sorted(before.keys() | after.keys())
    if not before:
        return {}
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }
