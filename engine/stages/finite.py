"""Why what a component made is not finite: the fault of its file, or of the arithmetic."""

from __future__ import annotations

from engine.checkpoints.finite import NoNumbers, no_numbers
from engine.checkpoints.locate import locate
from engine.checkpoints.opened import layout_at
from engine.components import registry
from engine.dtypes import torch_dtype
from engine.errors import CheckpointError, RunFailed
from engine.execution.jobs import Job
from engine.graph import Node
from engine.models.diffusion.config import keeps_fp32


def not_finite(job: Job, node: Node, what: str) -> RunFailed:
    """The error for a result of a node that is not finite, once the component's weights were read.

    what: of it, "the decoded video is not finite". Raises what job.check raises.
    """
    part, kind = node.part, node.stage.component
    settings = f"dtype {part.dtype}"
    if hasattr(part, "attention"):
        settings += f", attention {part.attention}"
    return RunFailed(f"{what} ({settings}); {_reason(job, node, kind)}")


def _reason(job: Job, node: Node, kind: str) -> str:
    part = node.part
    if not registry.reads_weights(kind, part.name):
        return _advice(node, kind)
    try:
        bad = _bad_weights(job, node, kind)
    except CheckpointError as error:
        return f"its weights cannot be looked at ({error}); {_advice(node, kind)}"
    if bad is None:
        return f"its weights are finite, so that the arithmetic made it: {_advice(node, kind)}"
    if bad.is_stored:
        return (
            f"it is the fault of the file {bad.file}, whose tensor {bad.name} holds {bad.what}: download it again "
            "(`modiff models verify` looks for more)"
        )
    wider = "bf16 or fp32" if part.dtype == "fp16" else "fp32"
    return (
        f"numbers of the tensor {bad.name} of {bad.file} are too large for {part.dtype}: try "
        f"--set components.{kind}.dtype={wider}"
    )


def _bad_weights(job: Job, node: Node, kind: str) -> NoNumbers | None:
    source, layout = layout_at(locate(kind, node.part.checkpoint))
    wanted, fp32 = torch_dtype(node.part.dtype), torch_dtype("fp32")
    return no_numbers(
        source,
        layout,
        lambda name: fp32 if kind == "denoiser" and keeps_fp32(name) else wanted,
        job.check,
    )


def _advice(node: Node, kind: str) -> str:
    part = node.part
    tries = []
    if part.dtype != "fp32":
        wider = "bf16 or fp32" if part.dtype == "fp16" else "fp32"
        tries.append(f"--set components.{kind}.dtype={wider}")
    if getattr(part, "attention", "plain") != "plain":
        tries.append(f"--set components.{kind}.attention=plain")
    if node.extensions:
        names = ", ".join(extension.name for extension in node.extensions)
        tries.append(f"leaving out its extensions ({names})")
    tries = tries or [f"another device, --set components.{kind}.device=cpu"]
    return f"try {', or '.join(tries)}"
