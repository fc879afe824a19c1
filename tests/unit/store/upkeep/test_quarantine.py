"""What was set aside as damaged: kept for a month to be looked at, then planned, shown and removed with the rest."""

from __future__ import annotations

import os
import time

import pytest

from store.blobs import blobs
from store.database.database import immediate
from store.errors import BlobCorrupt, StoreFull
from store.upkeep import gc
from store.upkeep.contents import scan_quarantine
from store.upkeep.gc import clean, preview
from store.upkeep.removal import Policy
from store.upkeep.verify import verify
from tests.stores.made_stores import DAY_NS, make_run


def set_aside(store, name, *, days, num_bytes=100):
    ns = time.time_ns() - int(days * DAY_NS)
    path = store.root / "quarantine" / name.format(ns=ns)
    if name.startswith("index"):
        path.mkdir()
        (path / "cache.db").write_bytes(bytes(num_bytes))
    else:
        path.write_bytes(bytes(num_bytes))
        path.chmod(0o400)
    return path


NAMES = ["a" * 64 + ".{ns}.hash", "index.{ns}", "rows-{ns}.jsonl"]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_set_aside_goes_a_month_later(store, name):
    young, old = set_aside(store, name, days=29), set_aside(store, name, days=31)
    planned = preview(store.lineage, Policy())
    assert [each.path for each in planned.aside] == [old]
    assert not planned.is_empty
    assert planned.freed_bytes == 100
    assert old.exists()
    assert clean(store.lineage, Policy()) == planned
    assert list((store.root / "quarantine").iterdir()) == [young]


@pytest.mark.parametrize(("older_than", "num_left"), [(60, 2), (20, 1), (0, 0)])
def test_an_age_that_is_asked_for_counts_for_it_too(store, older_than, num_left):
    for days in (10, 40):
        set_aside(store, NAMES[0], days=days)
    clean(store.lineage, Policy(older_than_ns=older_than * DAY_NS))
    assert len(list((store.root / "quarantine").iterdir())) == num_left


def test_what_has_no_name_of_ours_stays(store):
    for name in ("mine.txt", "rows-x.jsonl", ".123456789012345678", "rows-123.jsonl"):
        (store.root / "quarantine" / name).write_text("x")
    link = store.root / "quarantine" / "index.1234567890123456789"
    link.symlink_to(store.root)
    assert scan_quarantine(store.root) == []
    assert clean(store.lineage, Policy(older_than_ns=0)).is_empty
    assert len(list((store.root / "quarantine").iterdir())) == 5


def test_what_the_store_itself_sets_aside_is_found(store):
    made = make_run(store, "a")
    path = blobs.blob_path(store.root, made.steps[0])
    path.chmod(0o600)
    path.write_bytes(b"x")
    with pytest.raises(BlobCorrupt):
        blobs.get(store.root, made.steps[0])
    with immediate(store.lineage) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("UPDATE runs SET spec='{'")
    verify(store.lineage, repairs=True)
    names = {each.path.suffix for each in scan_quarantine(store.root)}
    assert names == {".hash", ".jsonl"}


def test_a_full_disk_gets_room_from_it(store, monkeypatch):
    old = set_aside(store, NAMES[0], days=31)
    real, refused = gc.immediate, []

    def full_at_first(*arguments, **options):
        if not refused:
            refused.append(True)
            raise StoreFull("no space left")
        assert not old.exists()
        return real(*arguments, **options)

    monkeypatch.setattr(gc, "immediate", full_at_first)
    assert [each.path for each in clean(store.lineage, Policy()).aside] == [old]
    assert not os.path.exists(old)
