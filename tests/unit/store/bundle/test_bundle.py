"""Bundles: what goes in, what comes out elsewhere, and that it is the same."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from engine.inputs.pictures.reading import Picture
from store.blobs import blobs
from store.blobs.tensors import _DTYPES, encode_tensors
from store.bundle import archive, contents, exporting
from store.bundle.exporting import export_bundle
from store.bundle.portable import portable_json, portable_preset, portable_spec, portable_text
from store.bundle.strict import BundleRefused
from store.database.database import immediate
from store.errors import BadRequest, StoreError, UnknownRun
from store.keys import derive_key
from store.lineage.events import LatentsStored, RunFinished
from store.lineage.links import find
from store.lineage.records import FINAL_STATUSES, LinkRecord
from store.store import open_store
from store.upkeep.contents import look
from store.upkeep.needs import NOT_NEEDED, chains, classify
from tests.stores import bundles
from tests.stores.bundles import (
    SECRETS,
    VIDEO,
    export,
    make_run,
    manifest_of,
    take,
    tensors,
    unpacked,
)

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def other(tmp_path):
    with open_store(tmp_path / "other") as opened:
        yield opened


@pytest.fixture
def path(tmp_path):
    return tmp_path / "star.modiff"


@pytest.fixture
def run_id(store):
    return make_run(store)


# Writing


def test_a_bundle_is_a_plain_zip_of_the_manifest_and_blobs_named_by_their_hash(store, run_id, path):
    done = export_bundle(store.lineage, [run_id], path)
    with zipfile.ZipFile(path) as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
    members = unpacked(path)
    data = members.pop("manifest.json")
    for name, blob in members.items():
        assert name == f"blobs/{hashlib.sha256(blob).hexdigest()}"
    manifest = json.loads(data)
    assert manifest["format"] == 1
    assert manifest["blobs"] == sorted(
        (
            {"digest": f"sha256:{name.removeprefix('blobs/')}", "size": len(blob)}
            for name, blob in members.items()
        ),
        key=lambda row: row["digest"],
    )
    assert (
        data
        == json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    assert (done.runs, done.num_blobs, done.num_bytes) == (
        (run_id,),
        len(members),
        path.stat().st_size,
    )
    assert (done.lost, done.num_thinned) == ((), 0)


def test_a_bundle_has_all_that_a_run_made(store, run_id, path):
    export(store, path, run_id)
    digests = {row["digest"] for row in manifest_of(path)["blobs"]}
    rows = store.links_of(run_id)
    known = find(store.lineage, [row.key for row in rows])
    wanted = {row.digest for row in rows} | {link.state for link in known.values() if link.state}
    assert digests == wanted | {store.run(run_id).latents}
    assert len(digests) == 2 + 4 + 1 + 1 + 1


def test_fewer_tensors_go_along_when_fewer_are_asked_for(store, run_id, path, tmp_path):
    latents, video = store.run(run_id).latents, blobs.digest_of(VIDEO + b"\0")
    for steps, wanted in (("last", {latents, video}), ("none", {video})):
        manifest = manifest_of(export(store, tmp_path / steps, run_id, steps=steps))
        assert {row["digest"] for row in manifest["blobs"]} == wanted
        # what the run saw stays known, what a link has is only what is there
        assert all(seen["digest"] for seen in manifest["runs"][0]["seen"])
        assert {link["digest"] for link in manifest["links"]} == {"", video}
        assert {link["state"] for link in manifest["links"]} == {""}
    with pytest.raises(ValueError, match="some"):
        export(store, path, run_id, steps="some")


def test_nothing_in_a_bundle_tells_whose_machine_it_was(store, run_id, path):
    parent = make_run(store, seed=1, status="failed")
    child = make_run(store, seed=2, parent=parent)
    export(store, path, run_id, child, with_ancestors=True)
    text = unpacked(path)["manifest.json"].decode()
    for secret in (*SECRETS, str(store.root), str(path.parent), os.uname().nodename):
        assert secret not in text
    run = next(run for run in json.loads(text)["runs"] if run["id"] == run_id)
    spec = json.loads(run["spec"])
    assert spec["prompt"] == "a red star/moon"
    assert spec["components"]["denoiser"]["checkpoint"] == "Wan2.1-T2V-1.3B"
    assert spec["components"]["text_encoder"]["checkpoint"] == "umt5-xxl.safetensors"
    assert spec["components"]["vae"]["checkpoint"] == "wan2.1-vae"
    assert spec["extensions"][0]["options"] == {
        "file": "star.safetensors",
        "server": "",
        "strength": 0.30000000000000004,
    }
    assert (spec["output"]["path"], spec["output"]["overwrite"]) == ("", False)
    assert json.loads(run["environment"]) == {"torch": "2.6"}
    assert run["preset"] == "star.toml"
    facts = [json.loads(link["facts"]) for link in json.loads(text)["links"]]
    assert {"prompt": "/a path? no, a prompt"} in facts
    assert {"weights": {"file": "dit.safetensors", "print": f"wf1:{0:064x}"}} in facts


def test_the_same_runs_give_the_same_bytes(store, run_id, path, tmp_path):
    second = make_run(store, seed=5)
    export(store, path, run_id, second)
    again = export(store, tmp_path / "again", second, run_id, run_id)
    assert path.read_bytes() == again.read_bytes()


def test_the_lineage_goes_along_when_asked_for(store, path, tmp_path):
    first = make_run(store, seed=1)
    second = make_run(store, seed=2, parent=first)
    third = make_run(store, seed=3, parent=second)
    make_run(store, seed=4, parent=third)
    manifest = manifest_of(export(store, path, third, with_ancestors=True))
    assert {run["id"] for run in manifest["runs"]} == {first, second, third}
    [alone] = manifest_of(export(store, tmp_path / "alone", third))["runs"]
    assert (alone["id"], alone["parent"], alone["parent_step"]) == (third, second, 2)
    assert len(alone["segments"]) == 1


@pytest.mark.parametrize("is_running", [False, True])
def test_a_run_that_may_still_change_is_not_exported(store, engine, path, is_running):
    run_id = store.enqueue(bundles.spec_text(), preset="", output="o")
    if is_running:
        store.lease(engine)
    with pytest.raises(StoreError, match=f"run {run_id} is (queued|running)"):
        export(store, path, run_id)
    assert not path.exists()


def test_an_unknown_run_is_told(store, path):
    with pytest.raises(UnknownRun):
        export(store, path, "aaaaaaaaaa")


def test_a_damaged_or_missing_blob_is_named_and_left_out_only_when_allowed(
    store, run_id, path, tmp_path
):
    latents = store.run(run_id).latents
    blobs.blob_path(store.root, latents).unlink()
    step = store.links_of(run_id)[1]
    damaged = blobs.blob_path(store.root, step.digest)
    damaged.chmod(0o600)
    damaged.write_bytes(b"\xff" + damaged.read_bytes()[1:])
    with pytest.raises(StoreError, match="--allow-missing") as told:
        export(store, path, run_id)
    assert "\n" not in str(told.value)
    assert list(tmp_path.glob("*.modiff")) == []
    assert list(tmp_path.glob(".modiff*")) == []
    done = export_bundle(store.lineage, [run_id], path, allow_missing=True)
    assert len(done.lost) == 2
    assert any(f"{step.stage} {step.index} of run {run_id}" in line for line in done.lost)
    assert any(f"the latents of run {run_id}" in line for line in done.lost)
    manifest = manifest_of(path)
    assert {latents, step.digest}.isdisjoint(row["digest"] for row in manifest["blobs"])
    assert next(row["digest"] for row in manifest["links"] if row["key"] == step.key) == ""
    with open_store(tmp_path / "third") as third:
        take(third, path, is_trusted=True)


def test_what_was_thinned_is_not_missing(store, run_id, path):
    rows = [row for row in store.links_of(run_id) if row.stage == "step"]
    store.forget_blob(rows[0].digest)
    blobs.blob_path(store.root, rows[0].digest).unlink()
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links WHERE key=?", (rows[2].key,))
    done = export_bundle(store.lineage, [run_id], path)
    assert (done.num_thinned, done.lost) == (1, ())
    assert rows[2].digest in {row["digest"] for row in manifest_of(path)["blobs"]}


def test_nothing_is_overwritten(store, run_id, path, tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "get", None)  # told before anything is copied
    path.write_text("mine")
    with pytest.raises(StoreError, match="is there already"):
        export(store, path, run_id)
    assert path.read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is there already"):
        export(store, link, run_id)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(
    store, run_id, path, tmp_path, monkeypatch, has_links
):
    def sync(draft):
        path.write_text("mine")

    def link(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(exporting, "sync_file", sync)
    if not has_links:
        monkeypatch.setattr(exporting.os, "link", link)
    with pytest.raises(StoreError, match="is there already"):
        export(store, path, run_id)
    assert path.read_text() == "mine"
    assert list(tmp_path.glob(".modiff*")) == []


def test_a_disk_without_hard_links_will_do(store, run_id, path, monkeypatch):
    def link(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(exporting.os, "link", link)
    export(store, path, run_id)
    assert zipfile.is_zipfile(path)


def test_a_folder_that_is_not_there_is_told(store, run_id, tmp_path):
    with pytest.raises(BadRequest, match=r"there is no folder .*none; make it"):
        export(store, tmp_path / "none" / "b.modiff", run_id)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, BadRequest), (errno.EROFS, BadRequest), (errno.EIO, StoreError)],
)
def test_a_place_that_takes_no_file_is_told_from_a_disk_that_fails(
    store, run_id, path, monkeypatch, number, kind
):
    def refuse(draft):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(exporting, "sync_file", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*; name another") as caught:
        export(store, path, run_id)
    assert type(caught.value) is kind


def test_a_limit_on_files_leaves_no_bundle(store, run_id, path, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*File too large.*name another"):
            export(store, path, run_id)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_the_bundle_is_durable_before_it_has_its_name(store, run_id, path, monkeypatch):
    calls = []
    for name in ("sync_file", "sync_folder"):
        real = getattr(exporting, name)
        monkeypatch.setattr(
            exporting, name, lambda at, name=name, real=real: (calls.append(name), real(at))
        )
    real_link = os.link
    monkeypatch.setattr(
        exporting.os, "link", lambda *names: (calls.append("link"), real_link(*names))
    )
    export(store, path, run_id)
    assert calls == ["sync_file", "link", "sync_folder"]


def test_too_many_runs_for_a_manifest_are_told_before_anything_is_copied(
    store, run_id, path, monkeypatch
):
    monkeypatch.setattr("store.bundle.manifest.MAX_MANIFEST_BYTES", 2000)
    monkeypatch.setattr(blobs, "get", None)
    with pytest.raises(StoreError, match=r"cannot be exported: .*fewer runs"):
        export(store, path, run_id)
    assert not path.exists()


# Reading


@pytest.mark.parametrize("steps", ["all", "last", "none"])
def test_a_trusted_import_exports_the_same_bytes_again(store, other, path, tmp_path, steps):
    parent = make_run(store, seed=1)
    child = make_run(store, seed=2, parent=parent)
    stopped = make_run(store, seed=3, status="paused", num_steps=2)
    options = {"steps": steps, "with_ancestors": True}
    export(store, path, child, stopped, **options)
    done = take(other, path, is_trusted=True)
    assert {run.id for run in done.runs} == {parent, child, stopped}
    assert all(run.is_new for run in done.runs)
    assert done.num_different == 0
    again = export(other, tmp_path / "again", child, stopped, **options)
    assert again.read_bytes() == path.read_bytes()


def test_an_import_without_trust_exports_all_but_the_links(store, other, path, tmp_path, run_id):
    export(store, path, run_id)
    take(other, path)
    first, second = manifest_of(path), manifest_of(export(other, tmp_path / "again", run_id))
    assert second["runs"] == first["runs"]
    assert (first["links"] != [], second["links"]) == (True, [])
    states = {link["state"] for link in first["links"]} - {""}
    assert second["blobs"] == [row for row in first["blobs"] if row["digest"] not in states]


def test_without_trust_no_other_run_finds_what_was_imported(store, other, path, run_id):
    export(store, path, run_id)
    done = take(other, path)
    keys = [row.key for row in store.links_of(run_id)]
    assert other.find_links(keys) == {}
    assert done.num_links == 0
    assert take(other, path, is_trusted=True).num_links == len(keys)
    ours, theirs = store.find_links(keys), other.find_links(keys)
    for key in keys:
        assert theirs[key].digest == ours[key].digest
        assert theirs[key].latents == ours[key].latents
        assert theirs[key].state == ours[key].state
        assert theirs[key].num_bytes == ours[key].num_bytes
        assert "alice" not in theirs[key].facts + theirs[key].environment


@pytest.mark.parametrize("is_true", [True, False])
def test_a_picture_needs_no_trust_where_it_has_the_pixels_of_its_key(store, other, path, is_true):
    run_id = make_run(store)
    pixels = torch.arange(2 * 3 * 3, dtype=torch.uint8).view(2, 3, 3)
    picture = Picture(3, 2, (pixels if is_true else pixels + 1).numpy().tobytes())
    facts = {"version": 1, "params": {"pixels": picture.digest}, "inputs": {}}
    key = derive_key("picture", facts)
    digest = blobs.put(store.root, encode_tensors({"pixels": pixels}))
    link = LinkRecord(key, "picture", digest, facts=json.dumps(facts), num_bytes=99)
    store.record_link(run_id, link, stage="picture", index=0, source="computed", seconds=0.0)
    done = take(other, export(store, path, run_id))
    assert done.num_links == is_true
    assert set(find(other.lineage, [key])) == ({key} if is_true else set())


def test_an_imported_run_is_there_to_see(store, other, path, run_id):
    export(store, path, run_id)
    take(other, path)
    ours, theirs = store.run(run_id), other.run(run_id)
    assert (theirs.origin, theirs.output, theirs.engine, theirs.error) == ("import", "", "", "")
    assert (theirs.status, theirs.is_finished, theirs.pinned) == ("done", True, False)
    for name in ("created_ns", "started_ns", "ended_ns", "latents", "note", "stop_at", "seconds"):
        assert getattr(theirs, name) == getattr(ours, name)
    assert other.tags_of([run_id]) == store.tags_of([run_id])
    assert other.links_of(run_id) == store.links_of(run_id)
    assert other.stages(run_id) == store.stages(run_id)
    events = [event for _, event in other.events(run_id)]
    assert events[-1] == RunFinished("done")
    assert LatentsStored(ours.latents) in events
    assert blobs.get(other.root, other.links_of(run_id)[-1].digest) == VIDEO + b"\0"
    assert other.runs(limit=5)[0].id == run_id
    other.check()


@pytest.mark.parametrize("status", FINAL_STATUSES)
def test_a_run_keeps_its_status(store, other, path, status):
    run_id = make_run(store, status=status)
    export(store, path, run_id)
    take(other, path)
    assert other.run(run_id).status == status
    assert [other.run(run_id).id] == [run.id for run in other.runs(limit=5, status=status)]


def test_a_lineage_stays_one(store, other, path):
    parent = make_run(store, seed=1)
    child = make_run(store, seed=2, parent=parent)
    export(store, path, child, with_ancestors=True)
    take(other, path)
    assert [run.id for run in other.ancestors(child)] == [parent]
    assert other.run(child).segments[0].stop == 2
    assert b"before" in other.run(child).segments[0].spec_json


@pytest.mark.parametrize("is_trusted", [False, True])
def test_importing_twice_changes_nothing(store, other, path, run_id, is_trusted):
    export(store, path, run_id)
    take(other, path, is_trusted=is_trusted)
    before = bundles.contents(other)
    done = take(other, path, is_trusted=is_trusted)
    assert [(run.id, run.is_new) for run in done.runs] == [(run_id, False)]
    assert (done.num_blobs, done.num_bytes, done.num_links, done.num_different) == (0, 0, 0, 0)
    assert bundles.contents(other) == before


def test_a_bundle_that_comes_home_changes_nothing(store, path, run_id):
    child = make_run(store, seed=3, parent=run_id)
    export(store, path, child, with_ancestors=True)
    before = bundles.contents(store)
    assert not any(run.is_new for run in take(store, path, is_trusted=True).runs)
    assert bundles.contents(store) == before


def test_labels_given_here_stay_and_make_no_other_run(store, other, path, run_id):
    export(store, path, run_id)
    take(other, path)
    other.note(run_id, "mine")
    other.untag(run_id, ["keep"])
    other.pin(run_id)
    assert [run.is_new for run in take(other, path).runs] == [False]
    assert (other.run(run_id).note, other.run(run_id).pinned) == ("mine", True)


def test_another_run_of_the_same_id_gets_company_not_replaced(store, other, path):
    parent = make_run(store, seed=1)
    child = make_run(store, seed=2, parent=parent)
    export(store, path, child, with_ancestors=True)
    mine = make_run(other, seed=9)
    with immediate(other.lineage) as connection:
        connection.execute("PRAGMA defer_foreign_keys=ON")
        for table in ("tags", "stages", "events", "run_links"):
            connection.execute(f"UPDATE {table} SET run_id=? WHERE run_id=?", (parent, mine))
        connection.execute("UPDATE runs SET id=? WHERE id=?", (parent, mine))
    before = other.run(parent)
    done = take(other, path)
    new = {run.bundled_id: run for run in done.runs}
    assert new[child].id == child
    assert new[parent].id != parent
    assert new[parent].is_new
    assert other.run(parent) == before
    assert other.run(child).parent == new[parent].id
    assert other.resolve(new[parent].id) == new[parent].id
    assert json.loads(other.run(new[parent].id).spec_json)["seed"] == 1
    state = bundles.contents(other)
    again = take(other, path)
    assert [(run.id, run.is_new) for run in again.runs] == [(run.id, False) for run in done.runs]
    assert bundles.contents(other) == state


def test_a_trusted_link_never_replaces_what_the_store_has(store, other, path, run_id):
    mine = make_run(other, seed=50)
    row = next(row for row in store.links_of(run_id) if row.stage == "step")
    kept = LinkRecord(row.key, "step", blobs.put(other.root, tensors(77)), num_bytes=5)
    other.record_link(mine, kept, stage="step", index=90, source="computed", seconds=0)
    export(store, path, run_id)
    done = take(other, path, is_trusted=True)
    assert done.num_different == 1
    assert other.find_links([row.key])[row.key].digest == kept.digest


def test_what_links_have_since_goes_along_and_is_left_out_where_it_is_nothing(
    store, other, path, run_id, tmp_path
):
    export(store, path, run_id)
    assert all({"resume_at", "keep"}.isdisjoint(link) for link in manifest_of(path)["links"])
    row = next(row for row in store.links_of(run_id) if row.stage == "step")
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET keep='chain' WHERE kind='step'")
        connection.execute("UPDATE links SET resume_at=0, keep='cache' WHERE key=?", (row.key,))
    export(store, tmp_path / "later", run_id)
    links = {link["key"]: link for link in manifest_of(tmp_path / "later")["links"]}
    assert (links[row.key]["resume_at"], links[row.key]["keep"]) == (0, "cache")
    for name in ("resume_at", "keep"):
        assert [key for key, link in links.items() if name in link] == [row.key]
    take(other, tmp_path / "later", is_trusted=True)
    found = other.find_links([row.key])[row.key]
    assert (found.resume_at, found.keep) == (0, "cache")
    again = export(other, tmp_path / "again", run_id)
    assert again.read_bytes() == (tmp_path / "later").read_bytes()


def test_a_run_that_verifies_another_is_never_exported(store, path, run_id):
    again = store.enqueue(b"{}", preset="p", output="o", parent=run_id, verifies=run_id)
    store.request_cancel(again)
    with pytest.raises(StoreError, match=f"only computed run {run_id} again; export that one"):
        export_bundle(store.lineage, [again], path)
    assert not path.exists()


def test_a_trusted_link_fills_one_that_was_lost(store, other, path, run_id):
    export(store, path, run_id)
    take(other, path, is_trusted=True)
    row = next(row for row in store.links_of(run_id) if row.stage == "text")
    other.forget_blob(row.digest)
    blobs.blob_path(other.root, row.digest).unlink()
    done = take(other, path, is_trusted=True)
    assert (done.num_blobs, done.num_links) == (1, 1)
    assert other.find_links([row.key])[row.key].digest == row.digest


def test_a_damaged_blob_of_the_store_is_healed_by_an_import(store, other, path, run_id):
    export(store, path, run_id)
    take(other, path)
    digest = store.run(run_id).latents
    target = blobs.blob_path(other.root, digest)
    target.chmod(0o600)
    target.write_bytes(b"bad")
    assert take(other, path).num_blobs == 1
    assert blobs.digest_of(blobs.get(other.root, digest)) == digest
    assert stat.S_IMODE(target.stat().st_mode) == 0o400


@pytest.mark.parametrize("is_trusted", [False, True])
@pytest.mark.parametrize("steps", ["all", "last", "none"])
def test_every_blob_that_comes_in_is_needed_by_a_row(store, other, path, run_id, steps, is_trusted):
    export(store, path, run_id, steps=steps)
    take(other, path, is_trusted=is_trusted)
    found = look(other.lineage)
    stored = classify(found, chains(found))
    assert len(stored) == len(bundles.contents(other)["blobs"]) > 0
    assert all(each.need != NOT_NEEDED for each in stored.values())


def test_a_note_is_text_whatever_it_looks_like(store, other, path, run_id):
    text = "'); DROP TABLE runs; -- %s {0} \" ; DELETE FROM links"
    store.note(run_id, text)
    export(store, path, run_id)
    take(other, path)
    assert other.run(run_id).note == text
    other.check()


def test_stars_travel_and_are_no_word_of_a_bundle_without_them(store, other, path, run_id):
    assert (
        "rating" not in manifest_of(export(store, path.with_name("none.modiff"), run_id))["runs"][0]
    )
    store.rate(run_id, 4)
    export(store, path, run_id)
    take(other, path)
    assert other.run(run_id).rating == 4
    other.rate(run_id, 2)
    [again] = take(other, path).runs
    assert not again.is_new
    assert other.run(run_id).rating == 2


def test_what_a_terminal_would_obey_does_not_leave(store, other, path, run_id):
    store.note(run_id, "red \x1b[31m\x07 \u202e 👨‍👩‍👧 naïve")
    export(store, path, run_id)
    take(other, path)
    assert other.run(run_id).note == "red [31m  👨‍👩‍👧 naïve"


def test_every_blob_is_durable_before_a_row_names_it(store, other, path, run_id, monkeypatch):
    from store.bundle import importing

    export(store, path, run_id)
    synced = set()
    real_file, real_insert = importing.sync_file, importing.insert_runs

    def sync(draft):
        synced.add(draft.stat().st_ino)
        real_file(draft)

    def insert(*arguments):
        names = [name for name in (other.root / "blobs").rglob("*") if name.is_file()]
        assert {name.stat().st_ino for name in names} == synced
        assert len(names) == 8  # without the keyframe
        return real_insert(*arguments)

    monkeypatch.setattr(importing, "sync_file", sync)
    monkeypatch.setattr(importing, "insert_runs", insert)
    take(other, path)


IMPORT = """
import sys
from pathlib import Path
from store.bundle.importing import import_bundle
from store.store import open_store
with open_store(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    done = import_bundle(
        store.lineage, Path(sys.argv[2]), check_spec=bytes, is_trusted=True, max_bytes=10**9
    )
    print(sum(run.is_new for run in done.runs), done.num_links)
"""


def test_processes_that_import_at_once_import_once(start, store, other, path, tmp_path, run_id):
    export(store, path, run_id)
    processes = [start(IMPORT, other.root, path) for _ in range(3)]
    for process in processes:
        assert process.read() == "ready"
    for process in processes:
        process.go()
    told = sorted(process.finish() for process in processes)
    assert told == [["0 0"], ["0 0"], ["1 7"]]
    again = export(other, tmp_path / "again", run_id)
    assert again.read_bytes() == path.read_bytes()
    assert bundles.contents(other)["tmp"] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from store.bundle import importing
from store.store import open_store
with open_store(sys.argv[1]) as store:
    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(importing, sys.argv[3], die)
    print("ready", flush=True)
    importing.import_bundle(
        store.lineage, Path(sys.argv[2]), check_spec=bytes, is_trusted=True, max_bytes=10**9
    )
"""


@pytest.mark.parametrize("where", ["_write", "_placed", "insert_runs", "insert_links"])
def test_an_import_that_is_killed_leaves_no_row_and_can_be_done_again(
    start, store, other, path, tmp_path, run_id, where
):
    export(store, path, run_id)
    process = start(KILLED, other.root, path, where)
    process.read()
    process.child.wait(60)
    left = bundles.contents(other)
    assert (left["runs"], left["links"], left["run_links"]) == ([], [], [])
    other.sweep()
    assert bundles.contents(other)["tmp"] == []
    take(other, path, is_trusted=True)
    assert export(other, tmp_path / "again", run_id).read_bytes() == path.read_bytes()
    other.check()


def test_no_torch_is_imported():
    code = (
        "import sys, store.bundle.exporting, store.bundle.importing\n"
        "assert not {'torch', 'numpy', 'presets', 'engine', 'tui'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# What leaves this machine


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/alice/a.safetensors", "a.safetensors"),
        ("models/a/", "a"),
        ("~alice", ""),
        ("~/a", "a"),
        ("..", ""),
        ("a/..", ""),
        (r"C:\Users\alice\a.pth", "a.pth"),
        (r"\\server\share\a", "a"),
        ("https://host/a?token=1", ""),
        ("builtin:micro", "builtin:micro"),
        ("wan2.1-t2v-1.3b", "wan2.1-t2v-1.3b"),
        ("cuda:1", "cuda:1"),
    ],
)
def test_paths_in_a_spec_become_names(given, kept):
    spec = {"components": {"vae": {"checkpoint": given}}, "prompt": given}
    cleaned = portable_spec(json.dumps(spec))
    assert json.loads(cleaned) == {"components": {"vae": {"checkpoint": kept}}, "prompt": given}
    assert portable_spec(cleaned) == cleaned


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"source": "wan/cuda", "x": "a/b"}, {"source": "wan/cuda", "x": "a/b"}),
        ({"x": ["/usr/lib/a.so", "file:///a"]}, {"x": ["a.so", ""]}),
        ({"HOST": "a", "Node": 1, "gpu": {"user": "b", "name": "H100"}}, {"gpu": {"name": "H100"}}),
        ({"negative_prompt": "/a"}, {"negative_prompt": "/a"}),
    ],
)
def test_facts_keep_what_is_of_no_machine(given, kept):
    cleaned = portable_json(json.dumps(given))
    assert json.loads(cleaned) == kept
    assert portable_json(cleaned) == cleaned


def test_texts_that_have_nothing_to_hide_stay_as_they_were():
    text = '{"b": 1e-05,  "a": [1.50]}'
    assert portable_json(text) == text
    assert portable_spec(text) == text
    assert portable_json("no json") == "{}"
    assert portable_json("[1]") == "{}"
    assert portable_text("a\n\tb") == "a\n\tb"
    assert portable_preset("/x/y/my\npreset.toml") == "mypreset.toml"


# The file


def test_any_zip_reader_agrees_on_the_members(tmp_path):
    path = tmp_path / "a.zip"
    names = {"manifest.json": b"{}", f"blobs/{'0' * 64}": b"", f"blobs/{'a' * 64}": b"x" * 5000}
    with path.open("wb") as file, archive.new_archive(file) as written:
        for name, data in names.items():
            archive.add_member(written, name, data)
    assert unpacked(path) == names
    with path.open("rb") as file:
        members = archive.read_members(file, path.stat().st_size)
        found = {
            name: b"".join(archive.read_slices(file, member)) for name, member in members.items()
        }
    assert found == names


@pytest.mark.parametrize("limit", [10, 200, 1 << 40])
@pytest.mark.parametrize("is_forced", [False, True])
def test_sizes_of_more_than_32_bits_are_read(tmp_path, monkeypatch, limit, is_forced):
    """zipfile made to believe that everything is large."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = tmp_path / "a.zip"
    names = {f"blobs/{i:064x}": bytes([i]) * 60 * i for i in range(5)}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in names.items():
            with file.open(
                zipfile.ZipInfo(name), "w", force_zip64=is_forced or len(data) > limit
            ) as out:
                out.write(data)
    with path.open("rb") as file:
        members = archive.read_members(file, path.stat().st_size)
        for name, data in names.items():
            assert b"".join(archive.read_slices(file, members[name])) == data


def test_comments_are_fine(store, run_id, path):
    export(store, path, run_id)
    forged = bundles.forgery(path)
    forged.comment = b"a comment with PK\x05\x06 in it"
    forged.blob.central["comment"] = b"another"
    data = bytes(forged)
    assert set(archive.read_members(io.BytesIO(data), len(data))) == set(unpacked(path))


def test_the_limits_of_tensor_files_are_those_of_the_reader():
    import store.blobs.tensors as reader

    assert contents.MAX_HEADER_BYTES == reader.MAX_HEADER_BYTES
    assert contents.MAX_TENSORS == reader.MAX_TENSORS
    assert contents.MAX_DIMS == reader.MAX_DIMS
    assert {name: dtype.itemsize for name, dtype in _DTYPES.items()} == contents._ITEM_BYTES


def test_what_the_store_writes_is_a_tensor_file():
    import torch

    for name, dtype in _DTYPES.items():
        data = encode_tensors({name: torch.zeros(3, 2).to(dtype), "": torch.zeros(0, dtype=dtype)})
        contents.check_contents("it", "tensors", data, len(data))
        with pytest.raises(BundleRefused):
            contents.check_contents("it", "tensors", data, len(data) + 1)
    empty = encode_tensors({})
    contents.check_contents("it", "tensors", empty, len(empty))


def test_keys_of_links_have_the_form_that_a_bundle_wants(store, run_id, path):
    export(store, path, run_id)
    manifest = manifest_of(path)
    assert derive_key("step", 1).startswith("k1:")
    assert {link["key"] for link in manifest["links"]} == {
        row.key for row in store.links_of(run_id)
    }
