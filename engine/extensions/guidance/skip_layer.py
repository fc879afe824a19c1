"""Skip-layer guidance, as it is used with Wan: the negative branch leaves some blocks out.

A prediction by fewer blocks is a worse one, and guidance leads away from it: better motion and anatomy at no cost
(the negative branch even gets cheaper). Source: ComfyUI-WanVideoWrapper (60a3875), `WanVideoSLG` in nodes.py, and
the loop over the blocks in wanvideo/modules/model.py: a listed block is bypassed in the unconditional pass while
start <= step / total <= end; blocks "10" from 0.1 to 1.0 are its defaults. (diffusers' class of this name is another
method, with a third pass, as in Stable Diffusion 3.5, where the idea was published.)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from engine.errors import ComponentError
from engine.extensions.extension import Facts
from presets.errors import PresetError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.seams import At, Tokens

NEGATIVE = "negative"


class SkipLayerGuidance:
    exact: ClassVar[bool] = False
    version: ClassVar[int] = 1

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        blocks: Annotated[
            str,
            Meta(
                pattern=r"^(0|[1-9][0-9]{0,2})(,(0|[1-9][0-9]{0,2})){0,99}$(?!\n)",
                description="numbers of the blocks that the negative branch leaves out, counted from 0",
                extra={"expected": 'numbers of blocks, ascending, as in "9,10"'},
            ),
        ] = "10"
        start: Annotated[
            float,
            Meta(
                ge=0, le=1, description="share of the steps before the first", extra={"when": True}
            ),
        ] = 0.1
        end: Annotated[
            float,
            Meta(ge=0, le=1, description="share of the steps up to the last", extra={"when": True}),
        ] = 1.0

    def __init__(self, options: Options, facts: Facts) -> None:
        self.options = options
        self.skipped = _numbers(options.blocks, facts)
        if options.end < options.start:
            raise PresetError(f"expected at least start, {options.start}", key="end")

    def is_active(self, step: int, total: int) -> bool:
        return self.options.start <= step / total <= self.options.end

    def block(
        self,
        next: Callable[[Tensor, int, Tokens, At], Tensor],
        x: Tensor,
        i: int,
        tokens: Tokens,
        at: At,
    ) -> Tensor:
        if at.branch == NEGATIVE and i in self.skipped:
            return x
        return next(x, i, tokens, at)


def _numbers(text: str, facts: Facts) -> frozenset[int]:
    """The blocks that `text` names. Raises as an extension's constructor does."""
    if "num_blocks" not in facts:
        raise ComponentError(
            "the denoiser does not tell its number of blocks, so none can be skipped"
        )
    numbers, num_blocks = [int(word) for word in text.split(",")], int(facts["num_blocks"])
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise PresetError(f'expected ascending numbers, got "{text}"', key="blocks")
    if numbers[-1] >= num_blocks:
        raise PresetError(
            f"there is no block {numbers[-1]}; this model has blocks 0 to {num_blocks - 1}",
            key="blocks",
        )
    return frozenset(numbers)
