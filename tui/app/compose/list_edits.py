"""Lists in a draft: items added, taken out and moved. Pure.

Each makes the list one edit of the draft, with what was typed in its items; what is wrong in one of them must be
mended first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from presets.fields.keys import parse_key, value_at
from presets.settings.overrides import toml_value
from presets.validation import to_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tui.app.compose.draft import Checked, Draft


class Unmended(ValueError):
    """An item of the list is wrong: the line says what."""


def items_of(checked: Checked, key: str) -> list[Any]:
    """The items of a list as plain data."""
    items: list[Any] = to_plain(value_at(checked.shown, parse_key(key) or ()))
    return items


def added(draft: Draft, checked: Checked, key: str, item: object) -> Draft:
    """With another item at the end. Raises Unmended."""
    return _with_items(draft, checked, key, [*items_of(checked, key), item])


def removed(draft: Draft, checked: Checked, key: str, index: int) -> Draft:
    """Without an item, wrong or not. Raises Unmended where another one is."""
    items = items_of(checked, key)
    del items[index]
    return _with_items(draft, checked, key, items, but=f"{key}[{index}]")


def moved(draft: Draft, checked: Checked, key: str, index: int, by: int) -> Draft:
    """With an item in another place; the same draft where it would leave the list. Raises Unmended."""
    items = items_of(checked, key)
    if not 0 <= index + by < len(items):
        return draft
    items.insert(index + by, items.pop(index))
    return _with_items(draft, checked, key, items)


def _with_items(
    draft: Draft, checked: Checked, key: str, items: Sequence[object], but: str = ""
) -> Draft:
    for wrong, line in checked.errors.items():
        if wrong.startswith(f"{key}[") and not (but and wrong.startswith(but)):
            raise Unmended(line)
    return draft.without(key).typed(key, toml_value(items))
