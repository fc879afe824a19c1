"""Picking a preset, by name or by what is said of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from presets.library import listing
from tui.app.dialogs.picker import Item, Picker
from tui.app.form_words import form_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.app.base import ModiffBase

# How long the list waits for what is to be downloaded, so that it is seen before one picks; on a slow disk it follows.
MARK_SECONDS = 0.5


async def pick_preset(app: ModiffBase, present: str) -> str | None:
    """The name of the one that is picked, None for none. present: the one that is highlighted first."""
    with app.opening():
        found = await asyncio.to_thread(listing.list_presets)
        items = [
            Item(info.name, f"✖ {info.error}" if info.error else form_words(info.description))
            for info in found
        ]
        marking = asyncio.create_task(_with_missing(app, items))
        with suppress(TimeoutError):
            items = await asyncio.wait_for(asyncio.shield(marking), MARK_SECONDS)
    return await app.push_screen_wait(
        Picker("presets", items, present, None if marking.done() else marking)
    )


async def _with_missing(app: ModiffBase, items: Sequence[Item]) -> list[Item]:
    """The presets, each with what is to be downloaded for it."""
    from tui.describe.models.missing import by_preset

    try:
        sizes = await asyncio.to_thread(by_preset)
    except Exception as error:  # noqa: BLE001  # told, whatever it is
        app.tell_error(error)
        sizes = {}
    return [
        replace(item, note=f"{item.note} ✖ {sizes[item.value]}".strip())
        if item.value in sizes
        else item
        for item in items
    ]
