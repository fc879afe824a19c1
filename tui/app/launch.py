"""Starting the app: whether this terminal can show it, what it can show, and what is said once it is left."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from tui.errors import BAD_INPUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tui.describe.health import Status

_INSTEAD = "`modiff run micro` makes a video anywhere, `modiff --help` lists all commands"


def refusal(environ: Mapping[str, str], *, has_terminal: bool) -> str:
    """Why the app cannot be shown here, "" where it can. Textual itself would write into any pipe."""
    if "TEXTUAL_DRIVER" in environ:  # as under `modiff web`, which brings a terminal of its own
        return ""
    if not has_terminal:
        return f"the app needs a terminal on its input and both of its outputs; {_INSTEAD}"
    if environ.get("TERM", "") in ("", "dumb", "unknown"):
        return (
            f"the terminal ({environ.get('TERM') or 'no TERM'}) cannot move its cursor; {_INSTEAD}"
        )
    return ""


def start() -> int:
    """Show the app until it is left; its exit code."""
    # Textual draws on stderr
    has_terminal = all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))
    if reason := refusal(os.environ, has_terminal=has_terminal):
        _say(f"modiff: {reason}")
        return BAD_INPUT
    gc.disable()  # until the first screen is there: starting makes much, and no garbage
    from tui.app.app import ModiffApp
    from tui.app.preferences import load_preferences
    from tui.app.terminal.alt_digits import read_alt_digits
    from tui.app.widgets.graphics import load_graphics, wanted_graphics

    if has_terminal:
        for name in (
            "COLUMNS",
            "LINES",
        ):  # exported by some shells; would hold the app at that size
            os.environ.pop(name, None)
    read_alt_digits()
    preferences = load_preferences()
    graphics = None
    if wanted_graphics(os.environ, is_tty=has_terminal, choice=preferences.images):
        graphics = load_graphics()  # asks the terminal, while the keyboard is still ours
    app = ModiffApp(preferences=preferences, graphics=graphics)
    code = app.run()
    if not code and app.status is not None and (line := left_line(app.status, app.cancelled)):
        _say(line)
    return code or app.return_code or 0


def left_line(status: Status, cancelled: Sequence[str]) -> str:
    """What becomes of the work that was there when the app was left, "" where there was none.

    cancelled: the ids of the runs that were to be, on leaving.
    """
    if len(cancelled) > 1:
        return f"{len(cancelled)} runs are cancelled; `modiff runs` lists them"
    if cancelled:
        return f"run {cancelled[0]} is cancelled; `modiff resume {cancelled[0]}` goes on with it"
    if len(status.running) > 1:
        return f"{len(status.running)} runs go on; `modiff` shows them again"
    if status.running:
        return f"run {status.running[0].id} goes on; `modiff` shows it again"
    if status.num_queued and status.engines:
        return f"{status.num_queued} queued runs go on; `modiff` shows them again"
    return ""


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
