"""The options of servers that speak like OpenAI's, told without what asks them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.remote.options import Retries


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    timeout: Annotated[
        float,
        Meta(
            ge=1,
            le=86400,
            description="seconds of silence before the server counts as gone; it may have to load its model first",
            extra={"place": True},
        ),
    ] = 300.0
    retries: Retries = 3
