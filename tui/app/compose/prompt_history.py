"""The prompts of before, to search and take again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.dialogs.picker import Item, Picker

if TYPE_CHECKING:
    from collections.abc import Sequence


def in_order(remembered: Sequence[str], ran: Sequence[str]) -> list[str]:
    """Each prompt once, newest last. remembered: by the app. ran: of the runs, also of those that were started
    elsewhere; they are the newer ones."""
    newest_first = dict.fromkeys(reversed([*remembered, *ran]))
    return [prompt for prompt in reversed(newest_first) if prompt.strip()]


class PromptHistory(Picker):
    """Ends with a prompt, or None."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """prompts: newest last, shown newest first."""
        super().__init__("prompts of before", [Item(prompt) for prompt in reversed(prompts)])
