"""Values that need several lines."""

from __future__ import annotations

import pytest
from rich.console import Console

from tui.app.widgets.hanging import Hanging


def drawn(*lines: str, width: int = 32) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(Hanging(lines), end="")
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("size  12 MB", ["size  12 MB"]),
        (
            "chosen by  components.vae.name, with its weights",
            ["chosen by  components.vae.name,", "           with its weights"],
        ),
        ("fingerprint  wf1:" + "a" * 20, ["fingerprint  wf1:" + "a" * 15, " " * 13 + "a" * 5]),
        ("    → install it with pip, then try", ["    → install it with pip, then", "      try"]),
        ("one sentence that is too long for it", ["one sentence that is too long", "for it"]),
        ("星星  星星星星星星星星星星星星星星", ["星星  星星星星星星星星星星星星星", "      星"]),
        ("a name that leaves it no room  value", ["a name that leaves it no room", "value"]),
    ],
)
def test_a_value_stays_in_its_column(line, shown):
    assert drawn(line) == shown


def test_it_is_its_text():
    assert str(Hanging(("a  1", "b  2"))) == "a  1\nb  2"
