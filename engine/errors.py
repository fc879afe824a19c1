"""Errors of the engine. `str(error)` is one line: what was given, what was expected, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.graph import Node


class EngineError(RuntimeError):
    """A run, a component or the engine process could not do what was asked.

    key: of the setting that is to blame, with which the line begins; empty where no single one is. parts: what is
    told together in it, a line each; empty for an error of one line.
    """

    def __init__(self, *texts: object, key: str = "", parts: Sequence[EngineError] = ()) -> None:
        super().__init__(*(f"{key}: {text}" if key else text for text in texts))
        self.key = key
        self.parts = tuple(parts)


class RunFailed(EngineError):
    """A run cannot go on: its numbers are not finite, or the machine has too little memory."""


class OutOfMemory(RunFailed):
    """Memory ended in a stage. stage: as events call it. kind: of the component at work, "" where there is none. copy:
    which of the component's copies was, as of `engine.components.memory.halves.copies`."""

    def __init__(self, text: str, stage: str, kind: str = "", copy: int = 0) -> None:
        super().__init__(text)
        self.stage, self.kind, self.copy = stage, kind, copy


class CheckpointError(EngineError):
    """A checkpoint is missing, damaged, or not of the kind that was asked for."""


def together(errors: Sequence[CheckpointError], advice: str = "") -> CheckpointError:
    """Several errors as one with a line for each, and last what to do about them. Its key is that of the first."""
    flat = [part for error in errors for part in error.parts or (error,)]
    parts = list({str(part): part for part in flat}.values())
    lines = [*map(str, parts), *([advice] if advice else [])]
    error = CheckpointError("\n".join(lines), parts=parts)
    error.key = parts[0].key
    return error


class DownloadFailed(EngineError):
    """A file could not be downloaded, or is not what it was to be."""


class InputError(EngineError):
    """A picture or a video that was given cannot be read, or does not fit the run."""


class ComponentError(EngineError):
    """A component is unknown, cannot be imported, or cannot do what the run asks of it."""


class EngineUnavailable(EngineError):
    """No engine process could be started, reached or stopped."""


class Unfaithful(Exception):
    """What is stored of a node does not lead to the latents on record: another machine's rounding, or another code's.
    Never an error of a run, which computes the node again."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.node = node


class RunCancelled(Exception):
    """Raised by a stage that noticed that its run should stop: not an error of anything."""


class RunPaused(Exception):
    """Raised between steps when somebody asked for the run to pause: not an error of anything."""
