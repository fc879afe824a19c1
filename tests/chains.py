"""Chains without models: components that are but their names, and links that somebody might have stored."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.pipelines.chain import identity_of, route_of
from engine.pipelines.identities import device_type
from engine.pipelines.plan import Plan, make_plan

from presets.library import override
from presets.spec import RunSpec
from store.blobs import blobs
from store.lineage.records import COMPUTED, LinkRecord, Segment
from store.store import Store

CHANNELS = 16
# What lies in the files that the specs of these tests name; two names of one content are copies.
CONTENTS = {"": "", "a": "A", "copy of a": "A", "b": "B"}

SPEC = override(
    RunSpec(),
    [
        "prompt=a red circle",
        "negative_prompt=blurred",
        "components.text_encoder.checkpoint=a",
        "components.denoiser.checkpoint=a",
        "components.vae.checkpoint=a",
        "components.denoiser.device=cuda:0",
        "scheduler.steps=6",
        "width=64",
        "height=64",
        "frames=17",
    ],
)


def identify(kind: str, part: Any) -> Mapping[str, Any]:
    tokenizer = getattr(part, "tokenizer", "")
    return identity_of(kind, part, f"wf1:{CONTENTS[part.checkpoint]}/{CONTENTS[tokenizer]}")


def fake_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def plan_of(
    store: Store, spec: RunSpec, segments: Sequence[Segment] = (), *, stop_at: int | None = None
) -> Plan:
    return make_plan(
        store,
        route_of(spec, segments),
        identify,
        latent_channels=CHANNELS,
        device_type=device_type(route_of(spec, segments).parts[0].spec),
        stop_at=stop_at,
    )


def planned(
    store: Store, spec: RunSpec, segments: Sequence[Segment] = (), *, stop_at: int | None = None
) -> Plan:
    """The plan once somebody has encoded every prompt, so that every key is known."""
    plan = functools.partial(plan_of, store, spec, segments, stop_at=stop_at)
    texts = [text for text in plan().texts if not text.digest]
    if texts:
        run_id = any_run(store)
        for index, text in enumerate(texts):
            record(
                store, run_id, LinkRecord(text.key, "text", fake_digest(text.key)), "text", index
            )
    return plan()


def any_run(store: Store) -> str:
    return store.enqueue(b"{}", preset="", output="")


def record(store: Store, run_id: str, link: LinkRecord, stage: str, index: int) -> None:
    store.record_link(run_id, link, stage=stage, index=index, source=COMPUTED, seconds=0.1)


def make_steps(
    store: Store,
    plan: Plan,
    *,
    total: int,
    journal: Collection[int] | None = None,
    keyframes: Collection[int] = (),
) -> None:
    """Links of the first `total` steps of a plan, with blobs for some of them. journal: numbers of steps done whose
    velocity is stored, all where it is None; keyframes: those whose state is."""
    run_id = any_run(store)
    for step in plan.steps[:total]:
        number = step.index + 1
        has_velocity = journal is None or number in journal
        link = LinkRecord(
            step.key,
            "step",
            blobs.put(store.root, f"velocity {step.key}".encode()) if has_velocity else "",
            latents_of(step.key),
            blobs.put(store.root, f"state {step.key}".encode()) if number in keyframes else "",
        )
        record(store, run_id, link, "step", step.index)


def latents_of(key: str) -> str:
    """The digest of the latents after the step of that key."""
    return blobs.digest_of(f"latents {key}".encode())


def put_latents(store: Store, key: str) -> str:
    return blobs.put(store.root, f"latents {key}".encode())
