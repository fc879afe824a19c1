"""What a text encoder leaves out of a run's prompts, to be told before the run. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import CheckpointError
from engine.prompt import MAX_TOKENS, cut_of, is_short
from presets.expansion import expands, known_prompt
from presets.guidance import scales

if TYPE_CHECKING:
    from engine.prompt import Cut
    from presets.spec.components import TextEncoderSpec
    from presets.spec.run import RunSpec


def read_prompts(spec: RunSpec) -> dict[str, str]:
    """The prompts that a run reads and that are known before it, by what they are called: the negative one only where
    it is guided."""
    prompts = {} if expands(spec) else {"the prompt": known_prompt(spec)}
    if any(scale != 1 for scale in scales(spec.guidance, spec.scheduler.steps)):
        prompts["the negative prompt"] = spec.negative_prompt
    return prompts


def cut_prompts(spec: RunSpec) -> dict[str, Cut]:
    """What is cut off the prompts of a run, by what they are called; those that are read whole are left out."""
    encoder = spec.components.text_encoder
    found = {name: cut_text(encoder, text) for name, text in read_prompts(spec).items()}
    return {name: cut for name, cut in found.items() if cut is not None}


def cut_text(encoder: TextEncoderSpec, text: str) -> Cut | None:
    """What a text encoder cuts off a text; None where it reads all of it, and where that is not known here."""
    # of a text encoder of another package nobody knows the limit
    if encoder.name != "umt5" or is_short(text):
        return None
    from engine.components.providers.umt5 import tokenizer_file

    try:
        return cut_of(tokenizer_file(encoder), text)
    except (CheckpointError, ValueError):  # a run with it is refused, and says so better
        return None


def cut_line(name: str, cut: Cut, shown: str) -> str:
    """The warning about it. shown: as much of what is cut off as there is room for."""
    num_words = len(cut.text.split())
    words = "1 word" if num_words == 1 else f"{num_words} words"
    return (
        f"{name} has {cut.num_tokens} tokens, the text encoder reads {MAX_TOKENS}; "
        f"its last {words} are cut off: {shown}"
    )
