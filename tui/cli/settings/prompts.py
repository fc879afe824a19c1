"""The text of `--prompt`, as it is given or with @ that of a file, and what is said of it before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from presets.spec.values import MAX_PROMPT_BYTES
from tui.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from presets.spec.run import RunSpec


def prompt_option(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """What an option says: `@FILE` is the text of a file, `@@...` a text that begins with one @. Raises
    click.BadParameter where the file has no text that a prompt can be."""
    if text is None or not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    return _text_of(text[1:])


def warn_of_prompts(specs: Iterable[RunSpec]) -> None:
    """Each warning about the prompts of some runs once, on stderr."""
    from tui.describe.prompts.warnings import prompt_warnings

    by_prompts = {
        (spec.prompt, spec.negative_prompt, spec.components.text_encoder, spec.guidance): spec
        for spec in specs
    }
    warn(line for spec in by_prompts.values() for line in prompt_warnings(spec))


def prompt_of_preset(spec: RunSpec, preset: str, prompt: str | None) -> tuple[str, ...]:
    """What to say of a run that begins from a picture or a clip, and whose prompt is that of its preset: a line, or
    none.

    preset: "" for the settings of a file, whose prompt is meant. prompt: that of the command.
    """
    from presets.library.loading import load_preset
    from tui.describe.prompts import warnings as prompt_warnings

    if prompt is not None or not preset:
        return ()
    own = load_preset(preset).prompt
    line = prompt_warnings.prompt_of_preset(spec, own)
    return (f'{line}: "{own}"; --prompt says another',) if line else ()


def warn(lines: Iterable[str]) -> None:
    for line in dict.fromkeys(lines):
        click.echo(f"warning: {line}", err=True)


def tell(lines: Iterable[str], *, quiet: bool) -> None:
    """What is said of what a run begins from, on stderr."""
    for line in lines if not quiet else ():
        click.echo(printable(line), err=True)


def _text_of(path: str) -> str:
    if not path:
        raise click.BadParameter("expected the name of a file after @; @@ begins a text with @")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PROMPT_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise click.BadParameter(
            f"cannot read the prompt from {path} ({reason}); write @@ where the text itself begins with @"
        ) from None
    if len(data) > MAX_PROMPT_BYTES:
        raise click.BadParameter(
            f"{path} has more than the {MAX_PROMPT_BYTES} bytes that a prompt can have; shorten it"
        )
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.BadParameter(
            f"{path} is not text in UTF-8 (byte {error.object[error.start]:#04x} at {error.start}); "
            "save it as UTF-8"
        ) from None
