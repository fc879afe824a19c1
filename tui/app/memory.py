"""Asks a process beside the app what a run takes in memory. It is started at the first question, and again where it has
died; the app waits for no answer, and takes none to an older question."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.fit.answering import Device

if TYPE_CHECKING:
    from presets.spec.run import RunSpec

_COMMAND = (sys.executable, "-P", "-m", "engine.fit.answering")


class Unanswered(Exception):
    """One line: why nothing is known."""


class MemoryAnswers:
    """root: of the store. command: what is started, before the store's folder."""

    def __init__(self, root: Path, command: tuple[str, ...] = _COMMAND) -> None:
        self._command = (*command, str(root))
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = count(1)
        self._turn = asyncio.Lock()

    async def ask(self, spec: RunSpec) -> tuple[Device, ...]:
        """What a run needs of each device. Raises Unanswered."""
        import msgspec

        async with self._turn:
            process = await self._started()
            number = next(self._numbers)
            asked = json.dumps({"id": number, "spec": msgspec.to_builtins(spec)})
            told = await self._answered(process, asked, number)
        if "error" in told:
            raise Unanswered(str(told["error"]))
        return tuple(msgspec.convert(told["devices"], list[Device]))

    def close(self) -> None:
        """The process ends with its input."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the app's terminal is the app's
            )
        return self._process

    async def _answered(
        self, process: asyncio.subprocess.Process, asked: str, number: int
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{asked}\n".encode())
            await process.stdin.drain()
            while line := await process.stdout.readline():
                told: dict[str, Any] = json.loads(line)
                # those to questions that nobody waited for come first
                if told["id"] == number:
                    return told
        except (ConnectionError, ValueError) as error:
            self._process = None
            raise Unanswered(f"what was told of memory cannot be read ({error})") from None
        await process.wait()
        self._process = None
        raise Unanswered(f"what tells of memory has ended ({process.returncode})")
