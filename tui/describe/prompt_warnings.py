"""What is said of a run's prompts before it starts: words that are cut off, and words that mean nothing to the micro
model, which knows one small world. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.checkpoints.locate import BUILTIN_MICRO
from engine.errors import CheckpointError
from engine.micro.grammar import unknown_words
from engine.prompt import MAX_TOKENS, cut_of, is_short
from presets.guidance import scales
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from presets.spec import RunSpec, TextEncoderSpec

_WORDS_SHOWN = 12
_CELLS_SHOWN = 60


def prompt_warnings(spec: RunSpec) -> list[str]:
    """A line for each thing that is wrong with the prompts of a run, which keeps nothing from starting."""
    is_guided = any(scale != 1 for scale in scales(spec.guidance, spec.scheduler.steps))
    prompts = {"the prompt": spec.prompt}
    if is_guided:
        prompts["the negative prompt"] = spec.negative_prompt
    encoder = spec.components.text_encoder
    found = [_cut_warning(encoder, name, text) for name, text in prompts.items()]
    if spec.components.denoiser.checkpoint == BUILTIN_MICRO:
        found.append(_unknown_words_warning(prompts.values()))
    return [line for line in found if line]


def _cut_warning(encoder: TextEncoderSpec, name: str, text: str) -> str:
    # of a text encoder of another package nobody knows the limit
    if encoder.name != "umt5" or is_short(text):
        return ""
    from engine.components.umt5 import tokenizer_file

    try:
        cut = cut_of(tokenizer_file(encoder), text)
    except (CheckpointError, ValueError):  # a run with it is refused, and says so better
        return ""
    if cut is None:
        return ""
    num_words = len(cut.text.split())
    words = "1 word" if num_words == 1 else f"{num_words} words"
    return (
        f"{name} has {cut.num_tokens} tokens, the text encoder reads {MAX_TOKENS}; "
        f"its last {words} are cut off: {shorten(printable(cut.text), _CELLS_SHOWN)}"
    )


def _unknown_words_warning(prompts: Iterable[str]) -> str:
    unknown = list(dict.fromkeys(word for text in prompts for word in unknown_words(text)))
    if not unknown:
        return ""
    shown = ", ".join(printable(word) for word in unknown[:_WORDS_SHOWN])
    more = f" and {len(unknown) - _WORDS_SHOWN} more" if len(unknown) > _WORDS_SHOWN else ""
    return (
        "the micro model knows only coloured shapes that move; "
        f"these words mean nothing to it: {shown}{more}"
    )
