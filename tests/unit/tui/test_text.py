"""What is done to text before a terminal gets it."""

from __future__ import annotations

import json
import tomllib

import tomli_w

from tui.text import columns, escaped, printable, shorten


def test_no_control_character_survives():
    everything = "".join(map(chr, range(0x110000)))
    shown = printable(everything)
    assert shown.isprintable()
    shown.encode()
    assert printable("a\x1b]0;title\x07 b\nc\td\u202e") == "a\\x1b]0;title\\x07 b c d\\u202e"
    assert printable("größer 星 ⭐") == "größer 星 ⭐"


def test_a_document_keeps_its_meaning_without_what_a_terminal_obeys():
    everything = "".join(map(chr, range(1, 0xD800)))
    for text, read in (
        (json.dumps({"a": everything}, ensure_ascii=False), json.loads),
        (tomli_w.dumps({"a": everything}), tomllib.loads),
    ):
        shown = escaped(text)
        assert read(shown) == {"a": everything}
        assert not set(shown) & set(map(chr, (*range(0x7F, 0xA0), *range(0x202A, 0x202F))))
        assert not set(shown) & set(map(chr, range(0x2066, 0x206A)))
    assert escaped('"\x9b31m \u202e"') == '"\\u009b31m \\u202e"'


def test_columns_are_aligned_in_cells_not_in_characters():
    assert columns([("星", "x"), ("abc", "y")]) == ["星   x", "abc  y"]
    assert columns([]) == []


def test_a_line_is_cut_in_cells():
    assert shorten("short", 5) == "short"
    assert shorten("longer", 5) == "long…"
    assert shorten("星星星", 5) == "星星…"
