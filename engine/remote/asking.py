"""Whether hosts answer, and what they serve: all asked at once. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from engine.errors import ComponentError
from engine.remote.client import Host
from engine.remote.contract import CONTRACT, one_line
from engine.remote.hosts import KnownHost

MOST_AT_ONCE = 16
# For which the answer of each is waited.
ASK_SECONDS = 3.0


@dataclass(frozen=True)
class Asked:
    """A host's answer. kinds: of the components that it serves. seconds: until the answer was there, None where there
    was none; error: why there was none, or why it is of no use."""

    host: KnownHost
    kinds: tuple[str, ...] = ()
    seconds: float | None = None
    error: str = ""


def ask(hosts: Sequence[KnownHost]) -> list[Asked]:
    """The answers of all, in order."""

    def asked(host: KnownHost) -> Asked:
        begun = time.perf_counter()
        try:
            told = Host(host.url).fingerprint(ASK_SECONDS)
        except ComponentError as error:
            return Asked(host, error=one_line(str(error)))
        kinds = tuple(one_line(kind, 40) for kind in sorted(told.components)[:16])
        took = time.perf_counter() - begun
        if told.contract != CONTRACT:
            other = f"speaks version {told.contract} of the contract, this is version {CONTRACT}"
            return Asked(host, kinds, took, other)
        return Asked(host, kinds, took)

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        return list(pool.map(asked, hosts))
