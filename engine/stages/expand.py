"""A prompt into a longer one. The answer of the language model is one result, the prompt in it another: what follows
depends on the text alone, as if it had been typed."""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine.cut_prompts import cut_line, cut_text
from engine.execution.jobs import Job
from engine.expansion.answer import Answer, Asked, Record, decode_record, encode_record, prompt_in
from engine.reports import NodeResult
from presets.spec.components import TextEncoderSpec
from store.lineage.events import Message

_CHARACTERS_SHOWN = 60


def expand(job: Job) -> Iterator[NodeResult]:
    """The answer, with all that is to be known of it, as JSON. Nothing is kept of one that holds no prompt. Raises
    ComponentError with a key of the prompt expander."""
    (node,) = job.nodes
    params = node.params
    asked = Asked(
        instructions=job.data(node.inputs["instructions"]).decode(),
        prompt=job.data(node.inputs["prompt"]).decode(),
        temperature=params["temperature"],
        top_p=params["top_p"],
        max_tokens=params["max_tokens"],
        seed=params["seed"],
    )
    with job.component(node) as expander:
        begun = time.perf_counter()
        answer = expander.expand(asked)
        seconds = time.perf_counter() - begun
    text = prompt_in(answer)
    record = Record(
        raw=answer.raw,
        model=answer.model,
        is_cut=answer.is_cut,
        provider=node.part.name,
        asked_model=node.part.checkpoint,
        template=node.hints["template"],
        seed=asked.seed,
        temperature=asked.temperature,
        top_p=asked.top_p,
    )
    told = _told(answer, text, node.hints["text_encoder"])
    yield NodeResult(node, {"answer": encode_record(record)}, seconds, told=tuple(told))


def read(job: Job) -> Iterator[NodeResult]:
    """The prompt in an answer, in UTF-8."""
    (node,) = job.nodes
    record = decode_record(job.data(node.inputs["answer"]))
    begun = time.perf_counter()
    text = prompt_in(record)
    yield NodeResult(node, {"text": text.encode()}, time.perf_counter() - begun)


def _told(answer: Answer, text: str, text_encoder: TextEncoderSpec) -> Iterator[Message]:
    """What came of it, and what of that is not read."""
    yield Message(level="info", text=f"{answer.model} expanded the prompt: {text}")
    if answer.is_cut:
        line = "the expanded prompt ends where expansion.max_tokens ended the answer; raise that"
        yield Message(level="warning", text=f"{line}, and change expansion.seed")
    if (cut := cut_text(text_encoder, text)) is not None:
        line = cut_line("the expanded prompt", cut, cut.text[:_CHARACTERS_SHOWN])
        yield Message(level="warning", text=line)
