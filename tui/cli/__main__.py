"""`modiff`, and `python -m tui.cli`: a process that an interrupt ends with an exit code and no stack trace, at any
moment. Nothing of ours is imported before that holds.
"""

import atexit
import os
import signal
import sys
from typing import NoReturn


def run() -> NoReturn:
    """Run the command line of this process and leave it."""
    try:
        from tui.cli.main import main

        code = main()
    except KeyboardInterrupt:  # while it was imported, or while it told of something else
        code = 130
    # What is left is leaving: another interrupt only hurries that, and Python ends by the signal where it comes last.
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


if __name__ == "__main__":
    run()
