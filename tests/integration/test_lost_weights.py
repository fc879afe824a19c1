"""A weight file that is cut short while it is mapped ends its process: that is told as the file's fault."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from store.store import open_store

ENGINE = """
import mmap, sys
from pathlib import Path
from engine.process.logs import start_logging
start_logging(Path(sys.argv[1]))
with open(sys.argv[2], "r+b") as file:
    held = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    file.truncate(0)
sys.stdin.read()
held[-1]
"""


def test_a_file_that_is_cut_short_in_use_is_told_as_the_reason(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(100_000))
    with open_store(tmp_path / "store") as store:
        process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(store.root), str(weights)], stdin=subprocess.PIPE
        )
        with store.register_engine("engineaaaa", pid=process.pid):
            run_id = store.enqueue(b"{}", preset="p", output="o")
            store.lease("engineaaaa")
            process.communicate()
        assert process.returncode == -signal.SIGBUS
        assert store.recover() == [run_id]
        run = store.run(run_id)
    assert run.status == "interrupted"
    assert "lost a weight file while it was using it" in run.error
    assert f"engine-{process.pid}.log" in run.error
