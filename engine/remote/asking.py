"""Whether hosts answer, what they serve and how busy they are: all asked at once. Torch-free."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from engine.errors import ComponentError
from engine.remote.client import Host
from engine.remote.contract import CONTRACT, Load, one_line
from engine.remote.hosts import KnownHost

MOST_AT_ONCE = 16
# For which the answer of each is waited.
ASK_SECONDS = 3.0


@dataclass(frozen=True)
class Asked:
    """A host's answer. kinds: of the components that it serves. seconds: until the answer was there, None where there
    was none; error: why there was none, or why it is of no use. load: by kind, how busy each component is."""

    host: KnownHost
    kinds: tuple[str, ...] = ()
    seconds: float | None = None
    error: str = ""
    load: Mapping[str, Load] = field(default_factory=dict)

    @property
    def num_waiting(self) -> int:
        """Requests at all of its components, those that they work at among them."""
        return sum(each.waiting for each in self.load.values())


def ask(hosts: Sequence[KnownHost]) -> list[Asked]:
    """The answers of all, in order."""

    def asked(host: KnownHost) -> Asked:
        begun = time.perf_counter()
        server = Host(host.url)
        try:
            told = server.fingerprint(ASK_SECONDS)
            took = time.perf_counter() - begun
            health = server.health(ASK_SECONDS)
        except ComponentError as error:
            return Asked(host, error=one_line(str(error)))
        kinds = tuple(one_line(kind, 40) for kind in sorted(told.components)[:16])
        if told.contract != CONTRACT:
            other = f"speaks version {told.contract} of the contract, this is version {CONTRACT}"
            return Asked(host, kinds, took, other)
        load = {kind: each for kind, each in health.components.items() if kind in told.components}
        return Asked(host, kinds, took, load=load)

    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        return list(pool.map(asked, hosts))
