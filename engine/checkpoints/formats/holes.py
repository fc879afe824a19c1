"""Files whose length is there and whose content is not: what a download has reserved and not filled. Torch-free.

File systems tell where a file has no content, without that anything is read. What lies there would read as zeros.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from engine.checkpoints.formats.reading import opened, refusal, shortened
from engine.checkpoints.formats.table import TensorInfo

# Less of zeros may be meant, and a copy may have left it out.
MIN_HOLE_BYTES = 1 << 20
# A file of more pieces than this is being filled at many places; the first ones tell enough.
_MAX_HOLES = 1024


def check_no_holes(tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError where a part of a matrix was never written to its file. Where a file system does not tell,
    nothing is checked."""
    holes = {path: list(_holes(path)) for path in {info.file for info in tensors.values()}}
    for name, info in tensors.items():
        # what lies within one tensor may be zeros that a copy or a file system left out
        if len(info.shape) > 1 and any(
            start < info.stop <= stop and info.stop - max(start, info.start) >= MIN_HOLE_BYTES
            for start, stop in holes[info.file]
        ):
            raise refusal(
                info.file,
                f"a half-finished download: its length was reserved, but {shortened(name)} was not written whole; "
                "let it finish, or download it again",
            )


def _holes(path: Path) -> Iterator[tuple[int, int]]:
    """(start, stop) of the large stretches of a file that have no content."""
    with opened(path) as (file, facts):
        position = 0
        for _ in range(_MAX_HOLES):
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_HOLE)
                if start >= facts.size:
                    return
                position = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # a file system that cannot tell
                    return
                position = facts.size  # nothing but a hole up to its end
            if position - start >= MIN_HOLE_BYTES:
                yield start, position
            if position >= facts.size:
                return
