"""Bundles, brought into a store: they come in whole and sound, or nothing of them does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from store.bundle.exporting import export_bundle
from store.errors import StoreError
from store.store import Store, open_store
from store.upkeep.verify import verify
from tests.fuzz import mutating
from tests.fuzz.running import Fault
from tests.stores import bundles

MAX_BYTES = 10**8


def make(folder: Path) -> Callable[[Random, Path], str]:
    with open_store(folder / "sender") as store:
        parent = bundles.make_run(store, seed=1, num_steps=2)
        child = bundles.make_run(store, seed=2, num_steps=2, parent=parent)
        genuine = [bundles.export(store, folder / "two.modiff", parent, child)]
        genuine += [bundles.export(store, folder / "one.modiff", parent)]
    root = folder.parent / "scratch" / "receiver"
    held: list[Store] = []

    def attempt(random: Random, place: Path) -> str:
        if not held:
            shutil.rmtree(root, ignore_errors=True)
            held.append(open_store(root))
        store = held[0]
        path = place / "x.modiff"
        path.write_bytes(_changed(random, random.choice(genuine)))
        before = bundles.contents(store)
        try:
            bundles.take(store, path, is_trusted=random.random() < 0.5, max_bytes=MAX_BYTES)
        except StoreError as error:
            if bundles.contents(store) != before:
                raise Fault("a refused bundle changed the store") from error
            return str(error)
        _check(store, place)
        held.pop().close()  # the next begins with an empty one
        return ""

    return attempt


def _changed(random: Random, path: Path) -> bytes:
    match random.randrange(10):
        case 0 | 1:
            return mutating.of_bytes(random, path.read_bytes())
        case 2 | 3:
            return mutating.of_bytes(random, path.read_bytes(), within=400)
        case 4:
            return mutating.of_zip(random, path.read_bytes(), mutating.of_bytes)
    forged = bundles.forgery(path)
    match random.randrange(8):
        case 0:
            _change_field(random, forged)
        case 1:
            _change_blob(random, forged)
        case _:
            forged.manifest = mutating.of_json(random, forged.find("manifest.json").data)
    return bytes(forged)


def _change_field(random: Random, forged: bundles.Forgery) -> None:
    part = random.choice(forged.parts)
    name = random.choice(
        ("flags", "method", "crc", "packed", "unpacked", "offset", "system", "attributes")
    )
    bits = {"flags": 16, "method": 16, "system": 8}.get(name, 32)
    number = random.choice(mutating.NUMBERS) % (1 << bits)
    held = random.choice((part.local, part.central))
    held[name] = number
    if random.random() < 0.2:
        forged.comment = random.randbytes(random.randint(0, 40))


def _change_blob(random: Random, forged: bundles.Forgery) -> None:
    """A blob with other bytes, under the hash that they have, of which the manifest knows."""
    part = forged.blob
    old = part.name[6:].decode()
    changed = bundles.Forgery([])
    new = changed.add_blob(mutating.of_bytes(random, part.data, within=300))
    text = json.dumps(forged.manifest).replace(old, new[7:])
    if random.random() < 0.8:
        text = text.replace(f'"size": {len(part.data)}', f'"size": {len(changed.blob.data)}')
    forged.parts[forged.parts.index(part)] = changed.blob
    forged.manifest = text.encode()


def _check(store: Store, place: Path) -> None:
    """All that came in can be read, and goes out again."""
    store.check()
    verdict = verify(store.lineage)
    if not verdict.is_sound:
        raise Fault(f"an imported bundle is not sound: {verdict.problems} {verdict.rows}")
    found = store.runs(limit=100)
    for run in found:
        store.events(run.id)
        store.log(run.id, limit=1000)
        store.links_of(run.id)
        store.stages(run.id)
        store.tree(run.id)
        store.tags_of([run.id])
    export_bundle(store.lineage, [run.id for run in found], place / "again.modiff", made_by="fuzz")
