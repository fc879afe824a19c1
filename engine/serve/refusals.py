"""What is answered where a request cannot be met: a status and a line of JSON."""

from __future__ import annotations

import msgspec
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.errors import EngineError
from engine.remote.contract import JSON, Refusal, one_line
from engine.remote.wire import BadBody
from engine.serve.incoming import Slow
from engine.serve.served import Busy, Gone, refusal_of


class Refused(Exception):
    """status, and what is wrong. missing: digests of conditions."""

    def __init__(self, status: int, text: str, *, missing: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.missing = missing


def answer_to(error: Exception) -> Response:
    """Of whatever a request ended in."""
    match error:
        case Refused():
            return refusal(error.status, str(error), error.missing)
        case BadBody():
            return refusal(error.status, str(error))
        case Slow():
            return refusal(408, "the body comes too slowly")
        case Busy():
            return refusal(429, "too many requests wait; try again", after=2)
        case Gone() | ClientDisconnect():
            return refusal(499, "the connection was closed")
        case EngineError():
            return refusal(500, str(error))
    return refusal(500, refusal_of(error))


def refusal(status: int, text: str, missing: tuple[str, ...] = (), after: int = 0) -> Response:
    """after: seconds after which it may be tried again, 0 for none."""
    data = msgspec.json.encode(Refusal(error=one_line(text), missing=list(missing)))
    return Response(data, status, {"Retry-After": str(after)} if after else {}, JSON)
