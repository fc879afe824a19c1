"""What the components of a run are, without loading any. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.checkpoints.formats.reading import facts_at
from engine.components import registry
from engine.components.protocols import Description
from engine.errors import ComponentError, RunFailed
from store.index.index import Index


class Descriptions:
    """Descriptions of components, each found out once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[tuple[str, bytes], Description] = {}
        self._facts: dict[tuple[str, bytes], list[tuple[int, ...]]] = {}

    def __call__(self, kind: str, part: Any) -> Description:
        """Raises ComponentError or CheckpointError, one line naming the key, for a part that cannot be met."""
        place = (kind, msgspec.json.encode(part))
        if place not in self._known:
            about = registry.provider(kind, part.name).describe(part, self._index)
            self._facts[place] = _facts(about.files)
            self._known[place] = about
        return self._known[place]

    def check_unchanged(self, kind: str, part: Any) -> None:
        """Raises RunFailed where a file of a component is no longer the one that the keys were made from: its results
        would be stored as the other's."""
        if _facts(self(kind, part).files) != self._facts[kind, msgspec.json.encode(part)]:
            raise RunFailed(
                f"a file of components.{kind} changed during the run; run it again to use the new one"
            )


def check_fit(descriptions: Mapping[str, Description]) -> None:
    """Refuses components that cannot work together, however well each of them loads: those that tell different
    values of one fact. Raises ComponentError."""
    told: dict[str, tuple[str, Any]] = {}
    for kind, about in descriptions.items():
        for fact, value in about.facts.items():
            other, expected = told.setdefault(fact, (kind, value))
            if value != expected:
                raise ComponentError(
                    f"its {fact} is {value}, but that of components.{other} is {expected}; "
                    "choose components of one model",
                    key=f"components.{kind}",
                )


def _facts(files: Sequence[Path]) -> list[tuple[int, ...]]:
    return [tuple(facts_at(path)) for path in files]
