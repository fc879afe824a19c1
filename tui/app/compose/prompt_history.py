"""The prompts of before, to search and take again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.dialogs.picker import Item, Picker

if TYPE_CHECKING:
    from collections.abc import Sequence


class PromptHistory(Picker):
    """Ends with a prompt, or None."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """prompts: newest last, shown newest first."""
        super().__init__("prompts of before", [Item(prompt) for prompt in reversed(prompts)])
