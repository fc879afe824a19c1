"""Errors of the store. `str(error)` is one line: what was found, what was expected, what to do."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The store could not do what was asked; every error of this package is one of these."""


class StoreBusy(StoreError):
    """Another process held a lock for longer than this one was willing to wait."""


class EngineRetired(StoreError):
    """The engine is not registered, or was asked to lease no more runs and to leave."""


class StoreFull(StoreError):
    """No space (or quota) left where the store lives."""


class StoreUnwritable(StoreError):
    """The store's path is not a folder that this user may write."""


class FileTooLarge(StoreUnwritable):
    """This process may make no file as large as one of the store would have to be."""


class StoreFailing(StoreError):
    """The disk did not do what it was asked to, as one that is dying or was pulled."""


# What may be otherwise in a moment: a long-lived process waits for it, but for FileTooLarge.
PASSING = (StoreBusy, StoreFull, StoreUnwritable, StoreFailing)


class StoreDamaged(StoreError):
    """The database is not readable, not ours, or gone although the store was in use."""


class StoreFromFuture(StoreError):
    """The database was written by a newer version; it is never migrated down."""


class BadRequest(StoreError):
    """What was asked for is wrong, a name, a value or a place: the store is fine."""


class UnknownRun(BadRequest):
    """A run id or prefix names no run, or more than one."""


class BlobMissing(StoreError):
    """No blob of that digest is stored."""


class BlobCorrupt(StoreError):
    """The stored bytes do not match their digest; they were moved to quarantine."""
