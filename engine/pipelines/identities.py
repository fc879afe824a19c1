"""What the components of a run are, for its keys, without loading any that need not be. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine import registry
from engine.checkpoints.digests import fingerprint_of, identity
from engine.checkpoints.known.expected import dit_shape
from engine.checkpoints.layout import lay_out
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.errors import RunFailed
from engine.pipelines.chain import Identity, identity_of
from presets.spec import RunSpec
from store.index.index import Index


class Identities:
    """Identities of components, each found out once.

    load: (kind, spec) -> the component, for third-party ones, which alone know what their numbers depend on.
    """

    def __init__(self, index: Index, load: Callable[[str, Any], Any]) -> None:
        self._index = index
        self._load = load
        self._known: dict[tuple[str, Any], Identity] = {}
        self._facts: dict[tuple[str, Any], list[tuple[int, ...]]] = {}

    def __call__(self, kind: str, part: Any) -> Identity:
        """Raises CheckpointError where a file is gone."""
        known = self._known.get((kind, part))
        if known is None:
            files = registry.files(kind, part)
            self._facts[kind, part] = _facts(files)
            fingerprint = (
                fingerprint_of(self._index, files)
                if files
                else self._load(kind, part).fingerprint()
            )
            known = self._known[kind, part] = identity_of(kind, part, fingerprint)
        return known

    def check_unchanged(self, kind: str, part: Any) -> None:
        """Raises RunFailed where a file of a component is no longer the one that the keys were made from: its results
        would be stored as the other's."""
        self(kind, part)
        if _facts(registry.files(kind, part)) != self._facts[kind, part]:
            raise RunFailed(
                f"a file of components.{kind} changed during the run; run it again to use the new one"
            )

    def latent_channels(self, part: Any) -> int:
        """Of a denoiser."""
        if not registry.is_builtin("denoiser", part.name):
            channels: int = self._load("denoiser", part).latent_channels
            return channels
        layout = lay_out(open_source(locate("denoiser", part.checkpoint)))
        return dit_shape({name: entry.shape for name, entry in layout.entries.items()}).out_dim


def device_type(spec: RunSpec) -> str:
    """The type of the device that draws the noise of a run: the CPU, or the denoiser's with `noise = "wan"`, which
    for a device of `auto` only torch can tell."""
    if spec.noise == "cpu":
        return "cpu"
    device = spec.components.denoiser.device
    if device != "auto":
        return device.partition(":")[0]
    from engine.dtypes import torch_device

    return torch_device("auto").type


def _facts(files: Sequence[Path]) -> list[tuple[int, ...]]:
    return [identity(path).facts for path in files]
