"""An engine process whose runner does what the prompt says: run by worker_runs.py, never imported.

It is the worker's own `serve` with another runner, so that the process, its locks and its signals
are the real ones. Prompts: "steps N" runs N steps, "forever" runs until cancelled, "deaf" for ever,
"child" starts a program that outlives it and goes on for ever, "hang" does not return from a library, "raise KIND"
raises.
--version-file: holds what the version of the installed code is, for this process.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import time
from pathlib import Path

from engine.errors import RunCancelled, RunFailed, RunPaused
from engine.process import worker
from engine.process.logs import start_logging
from engine.process.worker import begin_anew, serve
from store.errors import StoreFull
from store.lineage.events import Message, StageFinished, StageStarted, StepFinished

ERRORS = {
    "RunFailed": RunFailed("latents are not finite at step 3"),
    "StoreFull": StoreFull("no space left for the blob"),
    "OSError": PermissionError(13, "Permission denied", "/videos/v.mp4"),
    "MemoryError": MemoryError(),
    "ZeroDivisionError": ZeroDivisionError("first line\nsecond line"),
    "SystemExit": SystemExit(3),
    "secret": RunFailed("401 for https://me:CANARY-1@host/v1?api_key=CANARY-2 (CANARY-token-3)"),
}


class ScriptedRunner:
    def __init__(self, store):
        self.store = store

    def execute(self, run, spec, *, emit, cancelled, paused, between):
        word, _, argument = spec.prompt.partition(" ")
        emit(StageStarted("denoise"))
        if word == "raise":
            raise ERRORS[argument]
        if word == "child":
            child = subprocess.Popen(["sleep", "600"], close_fds=False, stdin=subprocess.DEVNULL)
            emit(Message("info", str(child.pid)))
        if word == "hang":
            mutex = ctypes.create_string_buffer(64)
            emit(Message("info", "hangs"))
            for _ in range(
                2
            ):  # its own, so that the second time is for ever; no Python code runs meanwhile
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
        total = int(argument) if word == "steps" else 1
        for step in range(1, total + 1):
            emit(StepFinished(step, total, 1.0, 1000.0, 0.0, 0.0, 1.0))
            if cancelled():
                raise RunCancelled
            if paused():
                raise RunPaused
        while word != "steps":
            time.sleep(0.005)
            if word != "deaf" and cancelled():
                raise RunCancelled
        emit(StageFinished("denoise", 0.0, False))
        return run.output


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument("--as", help="engine.process.worker: the name by which an engine is known")
    parser.add_argument("--version-file", type=Path)
    options = parser.parse_args()
    if options.version_file is not None:
        worker.installed_version = options.version_file.read_text
    start_logging(options.store)
    if serve(options.store, ScriptedRunner, options.idle_seconds):
        begin_anew()


if __name__ == "__main__":
    main()
