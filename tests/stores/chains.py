"""Chains without models: components that are but their names, and links that somebody might have stored."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence
from typing import Any, cast

from engine.components.protocols import Description
from engine.graph import Targets
from engine.plan import Plan, make_plan
from engine.results import StoreRecords
from engine.tasks.route import route_of
from engine.tasks.targets import targets_of
from presets.identity import counting
from presets.library.loading import override
from presets.spec.run import RunSpec
from store.blobs import blobs
from store.lineage.records import COMPUTED, LinkRecord, Segment
from store.store import Store

# What lies in the files that the specs of these tests name; two names of one content are copies.
CONTENTS = {"": "", "a": "A", "copy of a": "A", "b": "B"}
FACTS: dict[str, dict[str, Any]] = {
    "text_encoder": {"text_dim": 8},
    "denoiser": {"latent_channels": 16, "text_dim": 8, "num_blocks": 4, "model": "micro"},
    "vae": {"latent_channels": 16, "latent_stride": [4, 8, 8]},
}

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


def describe(kind: str, part: Any) -> Description:
    tokenizer = getattr(part, "tokenizer", "")
    weights = f"wf1:{CONTENTS[part.checkpoint]}/{CONTENTS[tokenizer]}"
    return Description({**counting(part), "weights": weights}, FACTS[kind], resident="")


def fake_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def graph(
    spec: RunSpec, segments: Sequence[Segment] = (), *, stop_at: int | None = None
) -> Targets:
    return targets_of(route_of(spec, segments), cast(Any, describe), stop_at)


def plan_of(
    store: Store, spec: RunSpec, segments: Sequence[Segment] = (), *, stop_at: int | None = None
) -> Plan:
    return make_plan(StoreRecords(store), graph(spec, segments, stop_at=stop_at), describe)


def planned(
    store: Store, spec: RunSpec, segments: Sequence[Segment] = (), *, stop_at: int | None = None
) -> Plan:
    """The plan once somebody has encoded every prompt, so that the key of every step is known."""
    plan = functools.partial(plan_of, store, spec, segments, stop_at=stop_at)
    first = plan()
    run_id = ""
    for index, text in enumerate(first.nodes("text_encode")):
        if text not in first.links:
            run_id = run_id or any_run(store)
            key = first.keys[text]
            record(store, run_id, LinkRecord(key, "text", fake_digest(key)), "text", index)
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
    for index, node in enumerate(plan.chain[:total]):
        number, key = index + 1, plan.keys[node]
        has_velocity = journal is None or number in journal
        link = LinkRecord(
            key,
            "step",
            blobs.put(store.root, f"velocity {key}".encode()) if has_velocity else "",
            latents_of(key),
            blobs.put(store.root, f"state {key}".encode()) if number in keyframes else "",
        )
        record(store, run_id, link, "step", index)


def latents_of(key: str) -> str:
    """The digest of the latents after the step of that key."""
    return blobs.digest_of(f"latents {key}".encode())


def put_latents(store: Store, key: str) -> str:
    return blobs.put(store.root, f"latents {key}".encode())
