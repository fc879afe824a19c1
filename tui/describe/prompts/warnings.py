"""What is said of a run's prompts before it starts: words that are cut off, and words that mean nothing to the micro
model, which knows one small world. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.checkpoints.locate import is_builtin
from engine.cut_prompts import cut_line, cut_prompts, read_prompts
from engine.micro.grammar import unknown_words
from presets.expansion import expands, known_prompt
from presets.tasks import PICTURES
from tui.describe.inputs import inputs_of
from tui.describe.prompts.micro_world import combination_warning, random_sentence
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from presets.spec.run import RunSpec

_WORDS_SHOWN = 12
_CELLS_SHOWN = 60


def prompt_warnings(spec: RunSpec) -> list[str]:
    """A line for each thing that is wrong with the prompts of a run, which keeps nothing from starting."""
    found = [
        cut_line(name, cut, shorten(printable(cut.text), _CELLS_SHOWN))
        for name, cut in cut_prompts(spec).items()
    ]
    if is_builtin(spec.components.denoiser.checkpoint):
        found.append(
            _unknown_words_warning(read_prompts(spec).values())
            or ("" if expands(spec) else combination_warning(known_prompt(spec)))
        )
    return [line for line in found if line]


def prompt_of_preset(spec: RunSpec, own: str) -> str:
    """That a run which begins from a picture or a clip has the prompt that came with its preset; "" where it does not.
    own: the preset's prompt."""
    if not own or spec.prompt != own or not inputs_of(spec):
        return ""
    what = "picture" if PICTURES[spec.task] else "video"
    return f"the prompt still is the preset's, whatever the {what} shows"


def random_prompt(spec: RunSpec) -> str:
    """A sentence that the model of a run was trained to understand, "" for one that takes any."""
    is_micro = is_builtin(spec.components.denoiser.checkpoint)
    return random_sentence() if is_micro else ""


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
