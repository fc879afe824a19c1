"""What commands import, seen from inside a fresh interpreter: each is a fork of one that has imported the `modiff`
command and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import json, os, sys
from tui.cli.main import main
%s
told = []
for arguments in json.loads(sys.argv[1]):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(2, 1)
        code = main(arguments)
        with os.fdopen(write, "w") as stream:
            json.dump([code, sorted(sys.modules)], stream)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        told.append(json.load(stream))
    os.waitpid(pid, 0)
print(json.dumps(told))
"""


def imported_by(*commands: Sequence[str], first: str = "") -> dict[str, set[str]]:
    """Top-level and dotted names of all that each command line imported, by its words; each must exit with 0. They are
    run in turn, on the same store. first: code that is run before, such as an import of what all need."""
    given = [[str(word) for word in command] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", CODE % first, json.dumps(given)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    for command, (code, _) in zip(given, told, strict=True):
        assert code == 0, (command, done.stderr)
    return {" ".join(command): set(names) for command, (_, names) in zip(given, told, strict=True)}
