"""Why a file that somebody gives is not taken, in words. Torch-free."""

from __future__ import annotations

_MAX_REASON = 120


class Refusal(Exception):
    """Why a file is not taken and what to do: the rest of the sentence that its path begins."""


def damaged(format: str, reason: str) -> Refusal:
    """Of a file of a format that is read. reason: in the words of who reads it."""
    format = format.replace("WEBP", "WebP")
    if "truncated" in reason:
        return Refusal(f"is a truncated {format}, its end is missing; save or download it again")
    return Refusal(
        f"is a {format} that cannot be read ({reason[:_MAX_REASON]}); save it again as PNG"
    )


def printable(text: str) -> str:
    """One line that does nothing to a terminal, whatever a path or a file holds."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
