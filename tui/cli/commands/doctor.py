"""`modiff doctor`: what works on this machine, as found by `engine.doctor`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tui.cli.options import json_option
from tui.cli.output import print_json
from tui.describe.doctor import lines
from tui.errors import FAILED

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
    data = _data(report)
    if as_json:
        print_json(data)
    else:
        for line in lines(data, {"absent": "-"}):  # words need neither colour nor UTF-8
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
