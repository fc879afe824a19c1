"""What is asked for a longer prompt."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated, Literal

from msgspec import Meta, Struct

from presets.spec.values import MAX_PROMPT_BYTES, ComponentName


class ExpansionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A longer prompt, written by `components.prompt_expander` before the text is encoded."""

    enabled: Annotated[
        bool, Meta(description="have the prompt written out by a language model before the run")
    ] = False
    template: Annotated[
        ComponentName,
        Meta(
            description="what the model is told to do: a file of `presets/templates` or of your own templates folder",
            extra={"role": "template"},
        ),
    ] = "t2v-en"
    instructions: Annotated[
        str,
        Meta(
            max_length=MAX_PROMPT_BYTES,
            description="the text of the template, which a run keeps; given here, it is used instead of the file",
            extra={"max_bytes": MAX_PROMPT_BYTES, "role": "prompt"},
        ),
    ] = ""
    temperature: Annotated[
        float, Meta(ge=0, le=2, description="how freely it writes; 0 takes the likeliest words")
    ] = 0.7
    top_p: Annotated[
        float, Meta(gt=0, le=1, description="the share of likely words that it chooses among")
    ] = 0.95
    max_tokens: Annotated[
        int,
        Meta(
            ge=16, le=32768, description="at most so many tokens of answer, its reasoning included"
        ),
    ] = 2048
    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            description="another one has it written anew",
            extra={"role": "seed"},
        ),
    ] = 0
    on_failure: Annotated[
        Literal["fail", "as-typed"],
        Meta(
            description="where the model cannot be asked: fail the run, or go on with the prompt as typed"
        ),
    ] = "fail"
    text: Annotated[
        str,
        Meta(
            max_length=MAX_PROMPT_BYTES,
            description="an expanded prompt that was edited by hand: nobody is asked, it is used as it is",
            extra={"max_bytes": MAX_PROMPT_BYTES, "role": "prompt"},
        ),
    ] = ""
