"""Prompts into token states."""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine.environment import environment_of
from engine.execution.jobs import Job
from engine.reports import NodeResult
from engine.stages.finite import not_finite


def encode(job: Job) -> Iterator[NodeResult]:
    """Token states [L, text_dim] of one prompt. Raises RunFailed where they are not finite."""
    (node,) = job.nodes
    prompt = job.data(node.inputs["prompt"]).decode()
    with job.component(node) as encoder:
        begun = time.perf_counter()
        states = encoder.encode(prompt)
        seconds = time.perf_counter() - begun
    if not bool(states.isfinite().all()):
        raise not_finite(job, node, "the text encoder's output is not finite")
    yield NodeResult(
        node,
        {"states": {"states": states}},
        seconds,
        environment=environment_of(encoder, states.device),
    )
