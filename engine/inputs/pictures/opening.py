"""Opens a file that somebody names: a regular one, and never for ever. Torch-free."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from engine.inputs.refusal import Refusal

# 100 megapixels of 16 bits without compression fit in, but for the alpha.
MAX_FILE_BYTES = 640 << 20


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A picture's file, open at its start. Raises Refusal where there is none, or one that is too large."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):  # opening a device may already do something
            file = open(path, "rb", opener=_open)  # noqa: SIM115
            mode = os.fstat(file.fileno()).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal("is not there; check the path") from None
    except PermissionError:
        raise Refusal(
            "may not be read; change its permissions (chmod) or run as its owner"
        ) from None
    except OSError as error:
        raise Refusal(f"cannot be read ({error.strerror or error}); check the path") from None
    except ValueError:  # a zero byte, or half a surrogate pair
        raise Refusal("is not a path of this system; check its spelling") from None
    if stat.S_ISDIR(mode):
        raise Refusal("is a folder, expected a picture; name a file inside it")
    if not stat.S_ISREG(mode):
        raise Refusal("is a pipe, a socket or a device, expected a picture; name a regular file")
    with file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise Refusal("is empty; save or download it again")
        if size > MAX_FILE_BYTES:
            raise Refusal(
                f"has {size:,} bytes, expected at most {MAX_FILE_BYTES:,}; save it smaller or as JPEG"
            )
        yield file


def _open(path: str, flags: int) -> int:
    """Does not wait for the other end of a pipe that was put there meanwhile."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
