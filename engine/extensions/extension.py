"""What an extension is, and what a denoising loop does with several of them. Torch-free to import.

A module of an extension must be torch-free to import too (torch only inside functions): whoever shows or checks a
run asks for its options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import msgspec

from engine.models.seams import SEAMS

if TYPE_CHECKING:
    from torch import Tensor

Facts = Mapping[str, Any]
"""What the denoiser's provider tells of it: "num_blocks" (int), "dim" (int), and "model": the name of the published
model that it is ("wan2.1-t2v-1.3b"), "micro", or "" where that is not known. "seams": of one that cannot be wrapped
everywhere, where it can. Any of them may be missing."""

_OF_ONE_BRANCH = ("model", "blocks", "block", "self_attention", "cross_attention")


class Extension(Protocol):
    """Besides these an extension has methods named as seams (`SEAMS`), and perhaps those of `Stateful`.

    exact: changes no number; then it is in no key, and tests hold it to that. version: enters keys, goes up when
    its numbers change. Options: a frozen msgspec Struct whose fields carry `Meta(description=..., limits)`, and in
    its `extra` one of
        "neutral": value   with this value the option is as if it did not exist, and is left out of keys; never
                           changed later, even where the default is,
        "place": True      says where something runs or is held, and never changes a number,
        "when": True       decides only at which steps it is active, which the steps' own keys say.
    A class may also have `facts_in_key`: a tuple of the facts that its numbers depend on.
    """

    exact: ClassVar[bool]
    version: ClassVar[int]
    Options: ClassVar[type[msgspec.Struct]]

    def __init__(self, options: Any, facts: Facts) -> None:
        """options: valid by themselves. Raises PresetError (key: the option's name) where they do not suit the
        denoiser, ComponentError where the denoiser does not suit the extension."""
        ...

    def is_active(self, step: int, total: int) -> bool:
        """Whether it takes part in this step, counted from 0. Its seams are called, and it is in keys, only then."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An extension whose steps depend on steps before, so that a run can go on after any of them."""

    def state(self) -> dict[str, Tensor]:
        """What is small of its state after the last step, to be stored beside it; {} before its first step."""
        ...

    def resume_at(self) -> int | None:
        """After how many steps the run must be taken up for the rest of the state, which is too large to store:
        with `restore` of the state stored there, computing the steps since gives everything again, bit for bit.
        None where nothing is needed but `state`."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes the state that `state` gave, on any device; with {} it begins anew."""
        ...


def active(extensions: Sequence[Extension], step: int, total: int) -> tuple[Extension, ...]:
    """Those that take part in a step, in their order."""
    return tuple(extension for extension in extensions if extension.is_active(step, total))


def needs_own_calls(extensions: Sequence[Extension]) -> bool:
    """Whether each branch of the guidance must be a model call of its own (`At.branch` its name), because an
    extension may treat them differently. Else both may go through in one batch (`At.branch` "")."""
    return any(
        not extension.exact and any(hasattr(type(extension), seam) for seam in _OF_ONE_BRANCH)
        for extension in extensions
    )


assert set(_OF_ONE_BRANCH) < set(SEAMS)
