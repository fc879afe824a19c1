"""alt with a digit as a key. Textual takes what terminals send for it (esc and the digit) for what a Mac's option key
types in the American layout, such as a pound sign for alt+3."""

from __future__ import annotations

from enum import Enum

from textual._ansi_sequences import ANSI_SEQUENCES_KEYS

_AltDigit = Enum("_AltDigit", [(f"ALT_{digit}", f"alt+{digit}") for digit in range(10)])  # type: ignore[misc]


def read_alt_digits() -> None:
    """From now on, for all of this process."""
    for digit, key in enumerate(_AltDigit):
        ANSI_SEQUENCES_KEYS[f"\x1b{digit}"] = (key,)  # type: ignore[index]
