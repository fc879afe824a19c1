"""What a stage runs on, and who provides it: protocols, silent about where a component runs. Torch-free to import.

A provider tells what a component *is* (`describe`: from headers or over the network, never from weights) apart from
having it (`load`), so that a viewer plans with components that it could never load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from engine.expansion.answer import Answer, Asked
    from engine.graph import Identity, Plain
    from engine.models.seams import At
    from engine.models.vae.wanvae import Part
    from store.index.index import Index

KINDS = ("text_encoder", "image_encoder", "denoiser", "vae", "prompt_expander")

Conditions = Mapping[str, "Tensor"]
"""What a denoiser is told beside the latents, by name: "text" [L, text_dim], real tokens only; "image" [tokens,
image_dim], of all its pictures; "latents" [C,F,h,w], masks and latents of the frames that are given."""


class TextEncoder(Protocol):
    def encode(self, prompt: str) -> Tensor:
        """A cleaned prompt (`engine.prompt.clean_prompt`) -> token states [L, text_dim], real tokens only, in the
        encoder's dtype."""
        ...


class ImageEncoder(Protocol):
    def encode(self, pictures: Sequence[Tensor]) -> Tensor:
        """pictures: [3,H,W] float in [-1,1] each, at their own sizes, on the CPU -> tokens [sum of tokens, image_dim],
        in their order, in the encoder's dtype."""
        ...


class Predict(Protocol):
    def __call__(self, x: Tensor, timestep: Tensor, ats: Sequence[At]) -> list[Tensor]:
        """latents fp32 [1,C,F,H,W] on any device, timestep [1] in [0,1000] -> velocities fp32 [1,C,F,H,W], one for
        each of `ats`, whose branches are those that `begin` was given.

        How many model calls, batches or devices that takes is the denoiser's affair. What is returned belongs to
        the caller: it is never written to again.
        """
        ...


class Denoiser(Protocol):
    def begin(
        self, branches: Mapping[str, Conditions], extensions: Sequence[Any] = ()
    ) -> AbstractContextManager[Predict]:
        """Once for each part of a run. branches: conditions by name, "positive" and, with guidance, "negative".
        extensions: what wraps the model's seams, in order, whether or not it is active at every step
        (engine.extensions.extension)."""
        ...


class VAE(Protocol):
    """One that is a `VAEOfParts` never needs what it encodes as a whole."""

    def encode(self, video: Tensor) -> Tensor:
        """video [B,3,4n+1,H,W] in [-1,1] -> normalised latents fp32 [B,C,1+n,H/8,W/8]."""
        ...

    def decode(
        self, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Tensor]:
        """normalised latents [B,C,F,h,w] -> video fp32 [B,3,t,8h,8w] in [-1,1], a few frames at a time, in order,
        4F-3 in all.

        on_chunk: called after every piece of work with how many of how many are done; may raise to stop.
        """
        ...


class VAEOfParts(VAE, Protocol):
    def encode_parts(self, part: Part, shape: Sequence[int]) -> Tensor:
        """As `encode`, of a video of that shape whose frames `part` gives."""
        ...


class PromptExpander(Protocol):
    def expand(self, asked: Asked) -> Answer:
        """A longer prompt in the words of a language model. Raises ComponentError, with a key that begins with
        `components.prompt_expander`, where it gives none. What is wrong with the words is for the caller to find."""
        ...


@dataclass(frozen=True)
class InMemory:
    """What a loaded component takes of a device. packed: what its large matrices are held as ("int8", "Q4_K"), empty
    where they are numbers in its dtype. moved_bytes: of its blocks that come to the device for each call."""

    num_bytes: int = 0
    packed: str = ""
    moved_bytes: int = 0


@dataclass(frozen=True)
class Description:
    """What a component is.

    identity: all that its numbers depend on; with the kind it enters the keys of what it makes.
    facts: what others must agree with ("text_dim", "image_dim", "latent_channels"): components that tell a fact of one
    name fit where they tell the same value. What only one kind tells is its own affair.
    resident: what `load` holds in memory, beside the device; two specs with one of it share it.
    num_bytes: what that takes. files: what it is read from; a change of one of them ends the run.
    packed, moved_bytes: as of `InMemory`. off_cpu: what it takes on another device than the CPU, where that is not the
    same. kept: where `load` may keep what it makes of the files, for the next time. work_bytes: for `load`, what it is
    about to take of its device beside its weights, None where nobody knows.
    """

    identity: Identity
    facts: Mapping[str, Plain]
    resident: str
    num_bytes: int = 0
    files: tuple[Path, ...] = field(default=())
    packed: str = ""
    moved_bytes: int = 0
    off_cpu: InMemory | None = None
    kept: Path | None = None
    work_bytes: int | None = None

    def on(self, device_type: str) -> InMemory:
        """What it takes of a device of that type ("cpu", "cuda", "mps")."""
        if device_type != "cpu" and self.off_cpu is not None:
            return self.off_cpu
        return InMemory(self.num_bytes, self.packed, self.moved_bytes)


class Provider(Protocol):
    """A module or an object: a row of the registry, or an entry point named `kind.name`.

    It may have two functions more. `settle(spec, scan) -> spec` names its files by absolute paths; the engine may
    have been started in another folder. `use(loaded, spec) -> component` makes the component of what `load` gave,
    where two specs that share what is loaded use it differently; without it that is the component.

    One whose component asks somebody else may have `check_can_ask(spec)`, which raises ComponentError where there is
    nobody to ask: before the first thing of a run is computed, and for a prompt expander before anything is queued;
    `describe` is asked for what is stored too. And `away(spec)`: why nobody could be asked when it was last described.

    One of ours that reads weights may have `check_here(spec)`, which raises ComponentError where what it is to run with
    does not run on its device: before the first thing of a run is computed.

    A component may have an attribute `told`: a line for the log of the run that loads it.

    A component that waits for somebody else may have a method `watched(control) -> component`: the same for one run,
    which gives up where `control.check` raises, and tells `control.emit` of its calls; and an attribute `environment`:
    what its last result depends on beside its identity, as of `engine.environment.environment`.
    """

    def describe(self, spec: Any, index: Index) -> Description:
        """Torch-free, and without weights. index: remembers what is dear to find out.

        Raises ComponentError or CheckpointError, one line naming the key, for a spec that cannot be met.
        """
        ...

    def load(self, spec: Any, about: Description) -> Any: ...
