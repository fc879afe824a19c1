"""The conditions that a denoiser was sent, by their digests, for the requests that name them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from engine.remote.contract import MAX_CONDITIONS, Denoise
from engine.serve.refusals import Refused


class Conditions:
    """max_body_bytes: of a request. The least recently used are let go of."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        # with their names, the least recently used first
        self.held: OrderedDict[str, tuple[str, Tensor]] = OrderedDict()

    def put(self, digest: str, name: str, condition: Tensor) -> None:
        """Keeps one that came, and lets go of others where there is no room."""
        self.held[digest] = name, condition
        self.held.move_to_end(digest)
        while len(self.held) > MAX_CONDITIONS or self._are_large():
            self.held.popitem(last=False)

    def of_branches(
        self, asked: Denoise, takes: Sequence[str], size: Sequence[int]
    ) -> dict[str, dict[str, Tensor]]:
        """The conditions of each branch that is asked for, by name. takes: what the denoiser takes; size: frames, rows
        and columns of the noisy latents. Raises Refused."""
        wanted = {digest for named in asked.branches.values() for digest in named.values()}
        missing = tuple(sorted(wanted - self.held.keys()))
        if missing:
            raise Refused(409, "conditions are missing; send them first", missing=missing)
        for call in asked.calls:
            if call.branch not in asked.branches:
                raise Refused(
                    400, f"a call is for the branch {call.branch!r}, which has no conditions"
                )
            if call.step >= call.total:
                raise Refused(400, f"a call is for step {call.step} of {call.total}")
        for digest in sorted(wanted):
            self.held.move_to_end(digest)
        for branch, given in asked.branches.items():
            if given.keys() != set(takes):
                raise Refused(400, f"{branch} has the conditions {sorted(given)}, expected {takes}")
            for name, digest in given.items():
                sent_as, condition = self.held[digest]
                if sent_as != name:
                    raise Refused(400, f"the condition {name} of {branch} was sent as {sent_as}")
                if name == "latents" and condition.shape[1:] != tuple(size):
                    raise Refused(
                        400,
                        f"the condition latents of {branch} is {list(condition.shape[1:])} large, expected "
                        f"{list(size)}, as x is",
                    )
        return {
            branch: {name: self.held[digest][1] for name, digest in given.items()}
            for branch, given in asked.branches.items()
        }

    def _are_large(self) -> bool:
        """Whether conditions take more than those of one request may: a body's worth, and what is beside it."""
        taken = sum(condition.nbytes for _, condition in self.held.values())
        return taken > 2 * self._max_body_bytes
