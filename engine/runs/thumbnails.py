"""The preview that stands for a whole run. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from store.index.index import Index
from store.index.previews import Preview, get_preview
from store.lineage.records import RunLink

# Previews are disposable, and those of neighbours go together: further back there are rarely any.
_STEPS_LOOKED_AT = 4


def thumbnail(index: Index, links: Sequence[RunLink]) -> tuple[Preview, RunLink] | None:
    """The preview of the decoded video, else of the last step that has one, with its link; None where there is none.

    index: as for `store.index.previews.put_preview`. links: all of the run's.
    """
    videos = [link for link in links if link.stage == "video"]
    steps = [link for link in links if link.stage == "step"]
    for link in (*videos, *reversed(steps[-_STEPS_LOOKED_AT:])):
        preview = get_preview(index, link.key)
        if preview is not None:
            return preview, link
    return None
