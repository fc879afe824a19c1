"""Asking for the word of somebody that a run waits for, whose prompt was expanded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.app.dialogs.review import ReviewPrompt
from tui.app.messages import Queued
from tui.describe.prompts.expansion import waiting_prompt

if TYPE_CHECKING:
    from tui.app.base import ModiffBase


async def review(app: ModiffBase, run_id: str) -> bool:
    """Show the expanded prompt of a run that waits, and do as is answered; whether the run goes on. Raises what the
    store does, and PresetError for a text that no prompt can be."""
    from engine import client

    with app.opening():
        waiting = await app.lab.read(waiting_prompt, run_id)
    if waiting is None:
        return False
    found = await app.push_screen_wait(
        ReviewPrompt(waiting.by, waiting.text, waiting.typed, waiting.warnings)
    )
    if found is None:
        return False
    await app.lab.change(
        client.review,
        run_id,
        text=found.text,
        again=found.word == "again",
        as_typed=found.word == "mine",
    )
    app.post_message(Queued(run_id, watch=True))
    return True
