"""Where an execution finds results and leaves its own: a store, or memory alone. Torch-free to import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from store.blobs import blobs
from store.blobs.blobs import blob_path
from store.breaker import Breaker
from store.errors import BlobCorrupt, BlobMissing, StoreError
from store.lineage.records import COMPUTED, REUSED, LinkRecord, RunRecord
from store.store import Store
from store.upkeep.gc import WRITER_SECONDS, with_room, writing

if TYPE_CHECKING:
    from engine.chain.journal import Entry
    from engine.reports import Control
    from store.index.index import Index
    from store.index.previews import Preview

Warn = Callable[[str], None]


class Takes(Protocol):
    def put(self, entry: Entry) -> None: ...


class Known(Protocol):
    """What a plan needs to know of the place where results are."""

    def find(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        """The links of these keys that are on record."""
        ...

    def has(self, digest: str) -> bool:
        """Whether bytes are there; only reading them tells whether they are whole."""
        ...


class Results(Known, Protocol):
    """What an execution needs of it."""

    def read(self, digest: str) -> bytes | bytearray:
        """Raises BlobMissing or BlobCorrupt, and knows from then on that they are not there."""
        ...

    def keep(self, data: bytes | bytearray, warn: Warn) -> None:
        """Keeps bytes that links speak of already."""
        ...

    def show(self, key: str, preview: Preview) -> None:
        """Keeps what people see of the result with that key; what cannot be kept is not seen."""
        ...

    def record(
        self,
        link: LinkRecord,
        parts: Sequence[bytes | memoryview],
        warn: Warn,
        *,
        stage: str,
        index: int,
        replaces: bool,
    ) -> None:
        """Keeps a result and its link. What cannot be kept costs the reuse, not the run."""
        ...

    def reuse(
        self,
        link: LinkRecord,
        warn: Warn,
        *,
        stage: str,
        index: int,
        sigma: float | None,
        timestep: float | None,
    ) -> None:
        """Records that the run took a result from here."""
        ...

    def journal(self, control: Control) -> AbstractContextManager[Takes]:
        """What takes the steps of a chain."""
        ...

    def note_environment(self, environment: str, warn: Warn) -> None:
        """Records what the steps of the run are computed on."""
        ...

    def note_latents(self, digest: str, warn: Warn) -> None:
        """Records which latents the run came to."""
        ...


def is_stored(store: Store, digest: str) -> bool:
    """Whether a file of that name is there; only reading it tells whether it is whole."""
    return bool(digest) and os.path.isfile(blob_path(store.root, digest))


class StoreRecords:
    """What is on record in a store, for plans."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        return self._store.find_links(list(keys))

    def has(self, digest: str) -> bool:
        return is_stored(self._store, digest)


class StoreResults(StoreRecords):
    """The results of one run in its store. Not to be shared between threads. previews: gives the index that takes
    pictures of steps and videos, which nobody else uses meanwhile. breaker: of the lock that keeps clean-ups away."""

    def __init__(
        self,
        store: Store,
        run: RunRecord,
        previews: Callable[[], Index],
        breaker: Breaker | None = None,
    ) -> None:
        super().__init__(store)
        self._run = run
        self._previews = previews
        self._breaker = breaker or Breaker(WRITER_SECONDS)

    def read(self, digest: str) -> bytearray:
        try:
            return blobs.get(self._store.root, digest)
        except (BlobMissing, BlobCorrupt):
            with suppress(StoreError):  # its file is gone, which is what plans look at
                self._store.forget_blob(digest)
            raise

    def keep(self, data: bytes | bytearray, warn: Warn) -> None:
        try:
            with writing(self._store.root, self._breaker):
                blobs.put(self._store.root, data)
        except StoreError as error:
            warn(f"the latents could not be stored: {error}")

    def show(self, key: str, preview: Preview) -> None:
        from store.index.previews import put_preview

        put_preview(self._previews(), key, preview)

    def record(
        self,
        link: LinkRecord,
        parts: Sequence[bytes | memoryview],
        warn: Warn,
        *,
        stage: str,
        index: int,
        replaces: bool,
    ) -> None:
        store = self._store

        def store_it() -> None:
            with writing(store.root, self._breaker):
                known = store.find_links([link.key]).get(link.key)
                if known is not None and known.digest and not is_stored(store, known.digest):
                    store.forget_blob(known.digest)  # else the new bytes would not replace it
                blobs.put(store.root, *parts)
                store.record_link(
                    self._run.id,
                    link,
                    stage=stage,
                    index=index,
                    source=COMPUTED,
                    seconds=link.seconds,
                    replaces=replaces,
                )

        try:
            with_room(store.root, link.num_bytes, store_it)
        except StoreError as error:
            warn(f"the {stage} could not be stored: {error}")

    def reuse(
        self,
        link: LinkRecord,
        warn: Warn,
        *,
        stage: str,
        index: int,
        sigma: float | None,
        timestep: float | None,
    ) -> None:
        store = self._store
        try:
            with writing(store.root, self._breaker):
                # as it is now, since a clean-up may have thinned it
                store.record_link(
                    self._run.id,
                    store.find_links([link.key]).get(link.key, link),
                    stage=stage,
                    index=index,
                    source=REUSED,
                    seconds=0.0,
                    sigma=sigma,
                    timestep=timestep,
                )
        except StoreError as error:
            warn(f"what was reused could not be recorded: {error}")

    def journal(self, control: Control) -> AbstractContextManager[Takes]:
        from engine.chain.journal import Journal

        return Journal(self._store.root, self._run.id, control, self._previews(), self._breaker)

    def note_environment(self, environment: str, warn: Warn) -> None:
        try:
            self._store.set_environment(self._run.id, environment)
        except StoreError as error:
            warn(f"the environment could not be recorded: {error}")

    def note_latents(self, digest: str, warn: Warn) -> None:
        try:
            self._store.set_latents(self._run.id, digest)
        except StoreError as error:
            warn(f"the latents could not be recorded: {error}")


class Seen:
    """What is on record, and before it what this execution has made: its bytes are the ones in hand."""

    def __init__(self, results: Known, made: Mapping[str, LinkRecord]) -> None:
        self._results = results
        self._made = made

    def find(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        found = self._results.find(keys)
        for key in keys:
            if key in self._made:
                made, row = self._made[key], found.get(key, LinkRecord(key, ""))
                digest, state = made.digest or row.digest, made.state or row.state
                found[key] = replace(made, digest=digest, state=state)
        return found

    def has(self, digest: str) -> bool:
        return self._results.has(digest)


class MemoryResults:
    """Results that end with their process. on_link: told of each, with the tensors of a step's latents."""

    def __init__(self, on_link: Callable[[LinkRecord, str, int, Any], None] | None = None) -> None:
        self._links: dict[str, LinkRecord] = {}
        self._blobs: dict[str, bytes | bytearray] = {}
        self._on_link = on_link

    def take(self, link: LinkRecord, data: bytes | bytearray) -> None:
        """A result that is not to be made again."""
        self._links[link.key] = link
        self._blobs[link.digest] = data

    def find(self, keys: Sequence[str]) -> dict[str, LinkRecord]:
        return {key: self._links[key] for key in keys if key in self._links}

    def has(self, digest: str) -> bool:
        return digest in self._blobs

    def read(self, digest: str) -> bytes | bytearray:
        return self._blobs[digest]

    def keep(self, data: bytes | bytearray, warn: Warn) -> None:
        self._blobs[blobs.digest_of(data)] = data

    def show(self, key: str, preview: Preview) -> None:
        pass

    def record(
        self,
        link: LinkRecord,
        parts: Sequence[bytes | memoryview],
        warn: Warn,
        *,
        stage: str,
        index: int,
        replaces: bool,
    ) -> None:
        self._blobs[link.digest] = b"".join(parts)
        self._take(link, stage, index, None)

    def reuse(self, link: LinkRecord, warn: Warn, **place: Any) -> None:
        pass

    def journal(self, control: Control) -> AbstractContextManager[Takes]:
        return nullcontext(self)

    def note_environment(self, environment: str, warn: Warn) -> None:
        pass

    def note_latents(self, digest: str, warn: Warn) -> None:
        pass

    def put(self, entry: Entry) -> None:
        """A step: its latents' digest is all that is kept of it."""
        from engine.chain.rebuild import latents_digest

        link = replace(entry.link, latents=latents_digest(entry.latents))
        self._take(link, "step", entry.index, entry.latents)

    def _take(self, link: LinkRecord, stage: str, index: int, latents: Any) -> None:
        self._links[link.key] = link
        if self._on_link is not None:
            self._on_link(link, stage, index, latents)
