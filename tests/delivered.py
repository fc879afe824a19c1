"""What is in the files that runs wrote, without what those say of their runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from engine.output.ffmpeg import program


def content(path: Path) -> bytes:
    """The packets of a video, or the tensors of a safetensors file with their names: equal work gives equal ones."""
    return _tensors(path) if path.suffix == ".safetensors" else streams(path)


def streams(path: Path) -> bytes:
    """The SHA-256 of all packets of each stream, as ffmpeg copies them."""
    command = [
        program(), "-loglevel", "error", "-nostdin", "-i", f"file:{path}", "-map", "0", "-c", "copy",
        "-f", "streamhash", "-hash", "sha256", "pipe:1",
    ]  # fmt: skip
    return subprocess.run(command, check=True, capture_output=True).stdout


def _tensors(path: Path) -> bytes:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    table.pop("__metadata__", None)
    return json.dumps(table, sort_keys=True).encode() + data[end:]
