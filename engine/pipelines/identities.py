"""What the components of a run are, for its keys, without loading any that need not be. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine import registry
from engine.checkpoints.digests import fingerprint_of
from engine.checkpoints.expected import dit_shape
from engine.checkpoints.layout import lay_out
from engine.checkpoints.locate import locate
from engine.checkpoints.source import open_source
from engine.pipelines.chain import Identity, identity_of
from store.index import Index


class Identities:
    """Identities of components, each found out once.

    load: (kind, spec) -> the component, for third-party ones, which alone know what their numbers depend on.
    """

    def __init__(self, index: Index, load: Callable[[str, Any], Any]) -> None:
        self._index = index
        self._load = load
        self._known: dict[tuple[str, Any], Identity] = {}

    def __call__(self, kind: str, part: Any) -> Identity:
        """Raises CheckpointError where a file is gone."""
        known = self._known.get((kind, part))
        if known is None:
            files = registry.files(kind, part)
            fingerprint = (
                fingerprint_of(self._index, files)
                if files
                else self._load(kind, part).fingerprint()
            )
            known = self._known[kind, part] = identity_of(kind, part, fingerprint)
        return known

    def latent_channels(self, part: Any) -> int:
        """Of a denoiser."""
        if not registry.is_builtin("denoiser", part.name):
            channels: int = self._load("denoiser", part).latent_channels
            return channels
        layout = lay_out(open_source(locate("denoiser", part.checkpoint)))
        return dit_shape({name: entry.shape for name, entry in layout.entries.items()}).out_dim


def device_type(device: str) -> str:
    """The type of device that a component named `auto`, `cuda:1` and so on will run on, without torch as far as
    that can be told: its answer counts only for noise that is drawn on the device."""
    if device != "auto":
        return device.partition(":")[0]
    import sys

    if "torch" in sys.modules:
        from engine.dtypes import torch_device

        return torch_device("auto").type
    from importlib.metadata import version
    from pathlib import Path

    if sys.platform == "darwin":
        return "mps"
    has_driver = Path("/proc/driver/nvidia/version").exists()
    return "cuda" if has_driver and "+cpu" not in version("torch") else "cpu"
