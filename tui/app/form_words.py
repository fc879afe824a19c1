"""What the rules of a run say in the words of the command line, in those of the form. Pure."""

from __future__ import annotations

import re

from tui.describe.inputs import GIVEN
from tui.describe.runs.command_line import OPTIONS

# in this order: sentences first, then what is left of options
_SENTENCES = (
    ("(`--seed random` draws one)", "(r draws one)"),
    ("add --overwrite", "switch overwrite on"),
    ("give a file with --", "name a file in --"),
    ("name a step with --at to change the rest", "untick it to change the rest"),
)
_FIELDS = {option: GIVEN.get(key.removesuffix(".path"), key) for key, option in OPTIONS.items()}
_OPTION = re.compile(r"--[a-z][a-z-]*")


def form_words(line: str) -> str:
    """A refusal, or what is said of a preset, with the fields and keys of the form where it names options: `--set
    KEY=VALUE` is `KEY=VALUE`. Commands, which stand in backquotes, stay as they are."""
    for words, ours in _SENTENCES:
        line = line.replace(words, ours)
    parts = line.split("`")
    for at in range(0, len(parts), 2):
        parts[at] = _OPTION.sub(_field, parts[at].replace("--set ", ""))
    return "`".join(parts)


def _field(option: re.Match[str]) -> str:
    return _FIELDS.get(option[0], option[0])
