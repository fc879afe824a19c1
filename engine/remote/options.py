"""Options that all have whose component asks a host. Torch-free."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Timeout = Annotated[
    float,
    Meta(
        ge=1,
        le=86400,
        description="seconds without a sign of life before the host counts as gone",
        extra={"place": True},
    ),
]
Retries = Annotated[
    int,
    Meta(
        ge=0,
        le=100,
        description="how often a call is made again that was not answered",
        extra={"place": True},
    ),
]
