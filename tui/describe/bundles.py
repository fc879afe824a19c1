"""What comes of bringing in a bundle, in words, from the data of `modiff store import --json`. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tui.text import counted, printable
from tui.units import size

if TYPE_CHECKING:
    from collections.abc import Mapping

TRUST = "Let other runs use what these made; nobody can check that without computing it again."
NO_TRUST = (
    "Without that they can be seen, replayed and branched, and no other run uses what they made."
)


def imported_lines(data: Mapping[str, Any], *, is_trusted: bool) -> list[str]:
    """A line for each run, then what is new in the store."""
    lines = []
    for run in data["runs"]:
        run_id, bundled_id = printable(run["run"]), printable(run["bundled_run"])
        if not run["new"]:
            lines.append(f"run {run_id} is here already")
        elif run_id == bundled_id:
            lines.append(f"run {run_id} is imported")
        else:
            lines.append(f"run {bundled_id} is another one here; it is now {run_id}")
    if data["differing_links"]:
        count = counted(data["differing_links"], "link")
        lines.append(f"{count} of the bundle differ from the store's, which stay")
    lines.append(f"{counted(data['new_blobs'], 'blob')} new here, {size(data['new_bytes'])}")
    if is_trusted:
        lines.append(_trusted_line(data["new_links"]))
    elif any(run["new"] for run in data["runs"]):
        lines.append("other runs do not reuse its steps; `--trust` allows that")
    return lines


def _trusted_line(num_links: int) -> str:
    """What `--trust` did, which is the same for runs that were here already."""
    if num_links:
        return f"other runs reuse {counted(num_links, 'result')} of this bundle from now on"
    return "`--trust` changed nothing: the bundle holds no result that is new here"
