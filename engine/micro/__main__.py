"""Runs the recipe's command line: `python -m engine.micro COMMAND`."""

from __future__ import annotations

import sys

from engine.errors import EngineError
from engine.micro.commands import main
from engine.micro.recipe import GateMissed

if __name__ == "__main__":
    try:
        main(prog_name="python -m engine.micro")
    except (ValueError, OSError, FloatingPointError, EngineError, GateMissed) as error:
        sys.exit(f"error: {error}")
