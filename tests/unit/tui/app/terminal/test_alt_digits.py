"""What a terminal sends for alt and a digit is that key, and what is typed stays what it is."""

from __future__ import annotations

from textual import _ansi_sequences
from textual._xterm_parser import XTermParser

from tui.app.terminal.alt_digits import read_alt_digits


def keys(text):
    return [(event.key, event.character) for event in XTermParser().feed(text)]


def test_alt_with_a_digit(monkeypatch):
    for digit in "0123456789":
        sequence = f"\x1b{digit}"
        table = _ansi_sequences.ANSI_SEQUENCES_KEYS
        monkeypatch.setitem(table, sequence, table.get(sequence, ""))  # put back after the test
    read_alt_digits()
    assert [keys(f"\x1b{digit}") for digit in "123"] == [[(f"alt+{d}", None)] for d in "123"]
    assert keys("£") == [("pound_sign", "£")]
    assert keys("1") == [("1", "1")]
