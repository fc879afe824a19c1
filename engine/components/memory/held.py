"""The name of a component in memory, by which an engine tells what it holds, and a plan knows what need not be loaded.
Torch-free."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.components.protocols import Description

_DIGITS = 16


def held_name(kind: str, part: Any, about: Description) -> str:
    """Of what is loaded for a spec, on the device as it is named there: `auto` and `cuda:0` are two names."""
    text = "\0".join((kind, str(part.device), about.resident))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
