"""Engines as real processes for the tests of the worker: how one is started, and what is seen of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from engine.client import follow
from engine.process.launch import ensure_engine
from engine.process.logs import log_path
from presets.encoding import encode_spec
from presets.library import load_preset

ROOT = Path(__file__).resolve().parents[2]
ENGINE = (
    sys.executable,
    str(Path(__file__).with_name("engine_process.py")),
    "--as",
    "engine.process.worker",
)
TEST_SECONDS = 90


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def enqueue(store, prompt):
    spec = msgspec.structs.replace(load_preset("micro"), prompt=prompt)
    return store.enqueue(encode_spec(spec), preset="micro", output="/videos/{run}.mp4")


def start(store, **options):
    return ensure_engine(store, command=ENGINE, **options)


def start_directly(processes, store, *arguments):
    process = subprocess.Popen(
        [*ENGINE, "--store", str(store.root), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def wait_registered(store, process):
    while process.pid not in [engine.pid for engine in store.engines()]:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def until(events, kind):
    """Reads on to the first event of that kind and returns it."""
    return next(event for event in events if isinstance(event, kind))


def ending(store, run_id):
    *_, last = follow(store, run_id, poll_seconds=0.01)
    return last


def log_of(store, engine):
    return log_path(store.root, engine.pid).read_text()
