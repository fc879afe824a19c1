"""What the commands say that listen at an address."""

from __future__ import annotations

from tui.cli.bad_input import BadInput

# What Python and its event loop raise where nothing can be listened at.
REFUSED = (OSError, OverflowError, UnicodeError)


def cannot_listen(host: str, port: int, error: Exception) -> BadInput:
    """What is raised then: it says why not."""
    # Python adds what it was doing
    reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
    line = f"cannot listen at {host}, port {port} ({reason}); choose others with --host and --port"
    return BadInput(line)
