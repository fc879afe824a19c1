"""What runs take is asked of a process beside the app."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from engine.fit.answering import Device
from presets.library.loading import load_preset
from presets.spec.run import RunSpec
from tui.app.memory import MemoryAnswers, Unanswered

# answers with the width of a run as bytes; of 64 with an error, and at 128 it ends
CHILD = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    width = asked["spec"]["width"]
    if width == 128:
        sys.exit(3)
    print(json.dumps({"id": 0, "devices": []}))
    told = {"error": "no such thing"} if width == 64 else {
        "devices": [{"name": "cpu", "needed_bytes": width, "free_bytes": None, "stage": "denoise"}]}
    print(json.dumps({"id": asked["id"], **told}), flush=True)
"""


def of_width(width: int) -> RunSpec:
    return load_preset("micro", (f"width={width}",))


def test_answers_errors_and_a_child_that_dies(tmp_path: Path) -> None:
    async def play() -> None:
        answers = MemoryAnswers(tmp_path, (sys.executable, "-c", CHILD))
        assert await answers.ask(of_width(32)) == (Device("cpu", 32, None, "denoise"),)
        with pytest.raises(Unanswered, match="no such thing"):
            await answers.ask(of_width(64))
        with pytest.raises(Unanswered, match=r"has ended \(3\)"):
            await answers.ask(of_width(128))
        assert await answers.ask(of_width(96)) == (Device("cpu", 96, None, "denoise"),)
        process = answers._process
        assert process is not None
        answers.close()
        assert await process.wait() == 0

    asyncio.run(play())
