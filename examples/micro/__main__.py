"""Runs the recipe's command line: `python -m examples.micro COMMAND`."""

from __future__ import annotations

import sys

from engine.errors import EngineError
from examples.micro.commands import main
from examples.micro.recipe import GateMissed

if __name__ == "__main__":
    try:
        main(prog_name="python -m examples.micro")
    except (ValueError, OSError, FloatingPointError, EngineError, GateMissed) as error:
        sys.exit(f"error: {error}")
