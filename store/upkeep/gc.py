"""Giving space back safely: what store.upkeep.removal says is removed, and nothing that is in use.

The order is the invariant: the rows forget, durably, and only then the files go. A process that
dies between the two leaves blobs that no row needs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from store import locks
from store.blobs.blobs import blob_path
from store.blobs.files import disk_error, sweep_drafts
from store.breaker import Breaker
from store.database.database import Lineage, immediate, open_lineage, shrink
from store.errors import StoreBusy, StoreError, StoreFull
from store.paths import QUANTISED
from store.upkeep.contents import (
    look,
    read_rows,
    scan_blobs,
    scan_quantised,
    scan_quarantine,
)
from store.upkeep.removal import Plan, Policy, make_plan
from store.upkeep.space import default_budget, free_bytes, reserve_bytes, steps_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from store.upkeep.contents import Blob, SetAside
    from store.upkeep.needs import Stored

# A clean-up tries for a moment, a writer waits until one is through.
COLLECTOR_SECONDS = 2.0
WRITER_SECONDS = 120.0
BUSY_SECONDS = 10.0
# Even a transaction that only deletes needs room on the disk.
HEADROOM_BYTES = 64 * 1024 * 1024


@contextlib.contextmanager
def writing(root: Path, breaker: Breaker | None = None) -> Iterator[None]:
    """No blob is collected inside: to be held from the first byte of a blob, or the look at one
    that is there, to the commit of the row that names it. Any number may write at once.

    breaker: of whoever writes often; it decides how long to wait for a clean-up. Raises StoreBusy.
    """
    path, turn = _lock_path(root), _turn_path(root)

    def attempt() -> locks.HeldLock | None:
        # flock is not fair: without the turn, those who come while a clean-up waits would go before it for ever
        passed = locks.try_acquire(turn, shared=True)
        if passed is None:
            return None
        with passed:
            return locks.try_acquire(path, shared=True)

    # one wait for both: a breaker that the turn had closed again would wait for the other in full each time
    held = (breaker or Breaker(WRITER_SECONDS)).wait(attempt)
    if held is None:
        by = locks.holder(path if locks.holders(path) else turn)
        raise StoreBusy(f"{path} is held by {by} for too long; try again, or end that process")
    with held:
        yield


def preview(lineage: Lineage, policy: Policy) -> Plan:
    """What `clean` would do now."""
    aside = _aside(lineage.root)
    return make_plan(look(lineage), policy, now_ns=time.time_ns(), aside=aside)


def clean(lineage: Lineage, policy: Policy, *, rebuilds: bool = False) -> Plan:
    """Remove what the policy says; returns what was removed.

    The database then gives back what rows took that are gone. rebuilds: as of `store.database.database.shrink`.
    Raises StoreBusy, with nothing done, while a run writes or another clean-up is at work.
    """
    now_ns = time.time_ns()
    with _alone(lineage.root):
        blobs, _ = scan_blobs(lineage.root)
        try:
            plan = _forget(lineage, blobs, policy, now_ns)
        except StoreFull:
            sweep_drafts(lineage.root)
            aside = _aside(lineage.root)
            plan = make_plan(read_rows(lineage, blobs), policy, now_ns=now_ns, aside=aside)
            if plan.is_empty:
                return plan
            _remove_aside(plan.aside)
            # The rows follow; should they not, whoever reads one finds a miss.
            _make_room(lineage.root, plan)
            plan = replace(_forget(lineage, blobs, policy, now_ns), aside=plan.aside)
        _unlink(lineage.root, plan.removals)
        _remove_aside(plan.aside)
        sweep_drafts(lineage.root)
    with contextlib.suppress(StoreError):  # the next clean-up will
        shrink(lineage, rebuilds=rebuilds)
    return plan


def collect(root: Path, budget_bytes: int) -> int:
    """Bring the steps in the store at `root` under a budget; returns how many bytes that freed.

    Raises as `clean` does; not to be called inside `writing`.
    """
    with contextlib.closing(open_lineage(root, busy_seconds=BUSY_SECONDS)) as lineage:
        return clean(lineage, Policy(budget_bytes)).freed_bytes


def make_room(root: Path, num_bytes: int = 0) -> int:
    """Clean up the store at `root` as nobody asked for; returns how many bytes that freed.

    The steps are brought under their default budget, and below it by what the disk lacks to its
    reserve or, if that is more, by num_bytes: what somebody found no room for. While the store is
    within its budget and the disk has its reserve, nothing is done and no blob is looked at.
    Raises as `clean` does; not to be called inside `writing`.
    """
    with contextlib.closing(open_lineage(root, busy_seconds=BUSY_SECONDS)) as lineage:
        held = steps_bytes(lineage)
    budget = default_budget(root)
    lacking = max(0, num_bytes, reserve_bytes(root) - free_bytes(root))
    if held <= budget and not lacking:
        return 0
    return collect(root, min(budget, max(0, held - lacking)))


def sweep(root: Path) -> int:
    """Remove what writers that are gone left unfinished; returns how many files that was.

    Nothing while anybody is `writing`: a pid does not tell whether a writer lives, which may be one in a container.
    """
    lock = locks.try_acquire(_lock_path(root))
    if lock is None:
        return 0
    with lock:
        return sweep_drafts(root)


def with_room(root: Path, num_bytes: int, store: Callable[[], None]) -> None:
    """`store()`, which takes `writing` itself; where it finds no room for num_bytes, once more after a clean-up.

    Raises as `store` does.
    """
    try:
        store()
    except StoreFull:
        try:
            freed = make_room(root, num_bytes)
        except StoreError:
            freed = 0  # what is told is that there was no room
        if not freed:
            raise
        store()


def _forget(lineage: Lineage, blobs: Mapping[str, Blob], policy: Policy, now_ns: int) -> Plan:
    """Plan by the rows of this very moment, and let them forget what will be removed."""
    aside = _aside(lineage.root)
    with immediate(lineage, durable=True) as connection:
        plan = make_plan(read_rows(lineage, blobs), policy, now_ns=now_ns, aside=aside)
        connection.executemany(
            "UPDATE links SET digest=?, state=?, bytes=? WHERE key=?", plan.changes
        )
        connection.executemany("DELETE FROM links WHERE key=?", [(key,) for key in plan.dropped])
        # A write even where no row changes: its fsync is also that of earlier commits by which
        # something came to be needed no more.
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        connection.execute(f"PRAGMA user_version={int(version)}")
    return plan


def _make_room(root: Path, plan: Plan) -> None:
    """Remove so much at once that the database can be written again."""
    freed = 0
    first = []
    for each in plan.removals:
        if freed >= HEADROOM_BYTES:
            break
        first.append(each)
        freed += each.num_bytes
    _unlink(root, first)


def _unlink(root: Path, removals: Iterable[Stored]) -> None:
    for each in removals:
        path = blob_path(root, each.digest)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(error, path) from error


def _aside(root: Path) -> list[SetAside]:
    """What goes by its age alone, without weights that somebody reads from."""
    idle = []
    for each in scan_quantised(root):
        with _unused(each.path) as is_unused:
            idle += [each] if is_unused else []
    return scan_quarantine(root) + idle


def _remove_aside(aside: Iterable[SetAside]) -> None:
    for each in aside:
        with _unused(each.path) as is_unused:
            try:
                if each.path.is_dir():
                    shutil.rmtree(each.path)
                elif is_unused:
                    each.path.unlink(missing_ok=True)
            except OSError as error:
                raise disk_error(error, each.path) from error


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether nobody uses what was set aside, or begins to while the block runs."""
    if path.parent.name != QUANTISED:
        yield True
        return
    held = locks.try_use(path, alone=True)
    with held or contextlib.nullcontext():
        yield held is not None


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    try:
        with locks.acquire(_turn_path(root), timeout_seconds=COLLECTOR_SECONDS):
            lock = locks.acquire(_lock_path(root), timeout_seconds=COLLECTOR_SECONDS)
    except StoreBusy:
        raise StoreBusy(
            f"a run is writing into the store at {root}, or another clean-up is at work; "
            "nothing was removed, try again"
        ) from None
    with lock:
        yield


def _turn_path(root: Path) -> Path:
    """The lock that a clean-up holds while it waits for the writers before it."""
    return root / "locks" / "gc-turn"


def _lock_path(root: Path) -> Path:
    return root / "locks" / "gc"
