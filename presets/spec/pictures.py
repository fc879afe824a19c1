"""Pictures and clips that a run is given beside words."""

# No `from __future__ import annotations`: each start reads them, and would have to compile what is text.

from typing import Annotated

from msgspec import Meta, Struct

from presets.spec.values import FilePath

Digest = Annotated[
    str,
    Meta(
        pattern=r"^(sha256:[0-9a-f]{64})?$(?!\n)",
        extra={"setting": False, "expected": "sha256: and 64 hexadecimal digits"},
    ),
]


class PictureSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture that is given. digest: of its pixels, once the run is queued: whatever becomes of the file."""

    path: Annotated[
        FilePath, Meta(description="a picture of any size", extra={"role": "picture"})
    ] = ""
    background: Annotated[
        str,
        Meta(
            pattern=r"^#[0-9a-fA-F]{6}$(?!\n)",
            description="the colour behind its transparent parts",
            extra={"expected": 'a colour such as "#000000"'},
        ),
    ] = "#000000"
    digest: Digest = ""


class ClipSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video that is given to begin from. digest: of its file, once the run is queued."""

    path: Annotated[
        FilePath,
        Meta(
            description="a video to begin from; taken at `fps`, cut to the size and at most `frames`",
            extra={"role": "clip"},
        ),
    ] = ""
    strength: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="share of the steps that are done on it: more of them keep less of the clip",
        ),
    ] = 0.6
    sigma: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="the noise level to begin at, instead of a strength: the first of the schedule that is not "
            "above it; 0 goes by strength",
        ),
    ] = 0.0
    digest: Digest = ""
