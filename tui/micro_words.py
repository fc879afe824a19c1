"""The warning about words that mean nothing to the micro model, which knows one small world. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.checkpoints.locate import BUILTIN_MICRO
from engine.micro.grammar import unknown_words
from presets.guidance import scales
from tui.text import printable

if TYPE_CHECKING:
    from presets.spec import RunSpec

_WORDS_SHOWN = 12


def unknown_words_warning(spec: RunSpec) -> str:
    """One line that names the words of a run's prompts that the micro model does not know; empty where it is not
    the micro model, or knows them all."""
    if spec.components.denoiser.checkpoint != BUILTIN_MICRO:
        return ""
    is_guided = any(scale != 1 for scale in scales(spec.guidance, spec.scheduler.steps))
    prompts = [spec.prompt, spec.negative_prompt] if is_guided else [spec.prompt]
    unknown = list(dict.fromkeys(word for text in prompts for word in unknown_words(text)))
    if not unknown:
        return ""
    shown = ", ".join(printable(word) for word in unknown[:_WORDS_SHOWN])
    more = f" and {len(unknown) - _WORDS_SHOWN} more" if len(unknown) > _WORDS_SHOWN else ""
    return (
        "the micro model knows only coloured shapes that move; "
        f"these words mean nothing to it: {shown}{more}"
    )
