"""Types and limits that several parts of a run share."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated

from msgspec import Meta

# VAE stride (4, 8, 8) times the DiT's patch (1, 2, 2): what one token covers.
SIZE_STEP = 16
FRAME_STEP = 4

# The published rotary table has 1024 positions an axis (16384 pixels) and training stopped at
# 1280x720x81. These limits leave room for context windows (64 s at 16 fps) and refuse a typing
# slip such as 8320 or 8100 before it becomes an allocation.
MAX_SIDE = 4096
MAX_FRAMES = 1025

# 512 tokens, all that the text encoder reads, are about 2 KiB of English; eight times that is no
# accident.
MAX_PROMPT_BYTES = 16 * 1024

# `$(?!\n)` is the end of the text in Python and in JSON Schema alike; `$` alone allows a newline
# after it.
ComponentName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$(?!\n)",
        extra={"expected": "a name of letters, digits, '.', '_', '+' and '-'"},
    ),
]

FilePath = Annotated[str, Meta(max_length=4096)]
OptionName = Annotated[str, Meta(min_length=1, max_length=64)]

OptionValue = Annotated[
    bool
    | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    | float
    | Annotated[str, Meta(max_length=4096)],
    Meta(extra={"expected": "true, false, a number or text of at most 4096 characters"}),
]

Options = dict[OptionName, OptionValue]
