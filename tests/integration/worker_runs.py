"""Engines as real processes for the tests of the worker: how one is started, and what is seen of it.

An engine with the command ENGINE is a fork: what such a process does once it has begun is its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil

from engine.process.launch import ensure_engine
from engine.process.logs import log_path
from engine.runs.following import follow
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from tests.integration.forker import ROOT, forker

ENGINE = (
    sys.executable,
    str(Path(__file__).with_name("engine_process.py")),
    "--as",
    "engine.process.worker",
)
# The same as a process that was never anything else: the system knows its environment, and of what store it is.
BEGUN = (ENGINE[0], "-u", *ENGINE[1:])
TEST_SECONDS = 300


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def enqueue(store, prompt):
    spec = msgspec.structs.replace(load_preset("micro"), prompt=prompt)
    return store.enqueue(encode_spec(spec), preset="micro", output="/videos/{run}.mp4")


def start(store, **options):
    return ensure_engine(store, command=ENGINE, **options)


def start_directly(processes, store, *arguments):
    process = forker().start(
        "tests.integration.engine_process",
        *(*ENGINE[2:], "--store", str(store.root), *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    processes.append(process)
    return process


def begin_directly(processes, store):
    """As `start_directly`, with the command BEGUN."""
    process = subprocess.Popen(
        [*BEGUN, "--store", str(store.root)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def suspend(process):
    process.send_signal(signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.005)


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
