"""`modiff doctor`: what works on this machine, as found by `engine.doctor`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tui.cli.options import json_option
from tui.cli.output import print_json
from tui.errors import FAILED
from tui.text import printable

if TYPE_CHECKING:
    from engine.doctor import Report


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check what works on this machine.

    Versions, devices, attention backends, ffmpeg and the store, each tried for real, which takes
    some seconds. Exit code 1 when something that is needed does not work.
    """
    from engine.doctor import examine
    from store.paths import store_root

    os.getcwd()  # where there is none, a library of torch ends the process without a word
    report = examine(store_root())
    if as_json:
        print_json(_data(report))
    else:
        for line in _lines(report):
            click.echo(line)
    return 0 if report.is_healthy else FAILED


def _data(report: Report) -> dict[str, object]:
    return {
        "ok": report.is_healthy,
        "sections": [
            {
                "name": section.title,
                "rows": [
                    {"name": row.name, "value": row.value, "status": row.status, "hint": row.hint}
                    for row in section.rows
                ],
            }
            for section in report.sections
        ],
    }


def _lines(report: Report) -> list[str]:
    """Sections with aligned rows. The status is a word, so that it needs neither colour nor UTF-8."""
    width = max(len(row.name) for section in report.sections for row in section.rows)
    lines: list[str] = []
    for section in report.sections:
        lines += ["", section.title] if lines else [section.title]
        for row in section.rows:
            mark = "-" if row.status == "absent" else row.status
            lines.append(f"  {mark:<4}  {row.name:<{width}}  {printable(row.value)}")
            if row.hint:
                lines.append(f"{'':<8}{'':<{width}}  -> {printable(row.hint)}")
    return lines
