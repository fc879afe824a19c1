"""What takes space, for whom; and `verify`: what is damaged, missing or no blob at all."""

from __future__ import annotations

import os
import time

import pytest

from store.blobs import blobs
from store.blobs.files import write_durably
from store.database.database import immediate, rows
from store.errors import StoreDamaged
from store.lineage.records import LinkRecord
from store.store import open_store
from store.upkeep.contents import look, scan_blobs
from store.upkeep.gc import clean, preview
from store.upkeep.needs import CACHE, CHAIN, KEPT, OUTPUT, chains, classify
from store.upkeep.removal import Policy
from store.upkeep.space import by_age, by_kind, by_run, default_budget, survey
from store.upkeep.verify import DAMAGED, MISSING, UNREADABLE, verify
from tests.counting import instructions
from tests.stores.made_stores import STEP_BYTES, large, make_run, on_disk, promised, put, put_rows


def classified(store):
    contents = look(store.lineage)
    return classify(contents, chains(contents))


def shares_of_runs(store):
    contents = look(store.lineage)
    known = chains(contents)
    found = by_run(contents, known, classify(contents, known))
    return {share.run.id: (share.alone_bytes, share.shared_bytes, share.seconds) for share in found}


# Space


def test_every_blob_is_of_a_kind(store):
    made = make_run(store, "a", keyframes=(1,))
    orphan = put(store, "orphan")
    kinds = {each.digest: each.kind for each in classified(store).values()}
    assert kinds == {
        made.text: "text",
        **dict.fromkeys(made.steps, "step"),
        made.keyframes[1]: "keyframe",
        made.latents: "latents",
        made.video: "video",
        orphan: "unreferenced",
    }
    shares = by_kind(classified(store).values())
    assert next(iter(shares)) == "step"
    assert (shares["step"].num_blobs, shares["step"].num_bytes) == (4, 4 * STEP_BYTES)
    assert sum(share.num_bytes for share in shares.values()) == sum(
        blob.num_bytes for blob in look(store.lineage).blobs.values()
    )


def test_a_kind_of_a_later_version_is_shown_and_can_be_made_again(store):
    made = make_run(store, "a", num_steps=1)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET kind='depth' WHERE kind='text'")
    found = classified(store)[made.text]
    assert (found.kind, found.need) == ("depth", CACHE)
    assert survey(store.root, look(store.lineage)).budgeted_bytes == STEP_BYTES + 300
    clean(store.lineage, Policy(0))
    assert on_disk(store) == {made.latents, made.video}


@pytest.mark.parametrize(
    ("keep", "need"),
    [("small", KEPT), ("output", OUTPUT), ("chain", CHAIN), ("cache", CACHE), ("later", CACHE)],
)
def test_a_link_says_itself_what_a_clean_up_makes_of_it(store, keep, need):
    made = make_run(store, "a", num_steps=1)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET kind='depth', keep=? WHERE kind='text'", (keep,))
        connection.execute("UPDATE links SET keep=? WHERE kind='video'", (keep,))
    assert [classified(store)[digest].need for digest in (made.text, made.video)] == [need] * 2
    clean(store.lineage, Policy(0))
    is_there = need in (KEPT, OUTPUT)
    assert (made.text in on_disk(store), made.video in on_disk(store)) == (is_there, is_there)
    clean(store.lineage, Policy(0, outputs=True))
    assert (made.text in on_disk(store)) == (need == KEPT)


def test_what_a_run_saw_of_an_unknown_kind_alone_can_be_made_again_too(store):
    made = make_run(store, "a", num_steps=1)
    with immediate(store.lineage) as connection:
        connection.execute("DELETE FROM links")
        connection.execute("UPDATE run_links SET stage='depth' WHERE stage='text'")
    needs = {digest: each.need for digest, each in classified(store).items()}
    assert (needs[made.text], needs[made.video]) == (CACHE, OUTPUT)


def test_what_only_saves_work_goes_before_the_steps_and_after_what_nobody_names(store):
    gone = make_run(store, "gone", num_steps=1, outputs=False)
    store.remove([gone.id])
    made = make_run(store, "a", num_steps=2, outputs=False, age_days=9)
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET keep='cache' WHERE digest=?", (made.text,))
    order = [each.digest for each in preview(store.lineage, Policy(0)).removals]
    assert set(order[:2]) == {gone.text, gone.steps[0]}
    assert order[2:] == [made.text, *made.steps[::-1]]


def test_a_run_takes_space_alone_and_with_others(store):
    trunk = make_run(store, "trunk", num_steps=4, seconds=2.0)
    branch = make_run(store, "branch", parent=trunk, at=3, num_steps=4)
    rest = 300 + 500 + 700  # prompt, latents, video
    assert shares_of_runs(store) == {
        trunk.id: (STEP_BYTES + rest, 3 * STEP_BYTES, 6 * 2.0),
        branch.id: (STEP_BYTES + rest, 3 * STEP_BYTES, 3 * 2.0 + 3 * 1.0),
    }
    store.remove([trunk.id])
    assert shares_of_runs(store) == {branch.id: (4 * STEP_BYTES + rest, 0, 9.0)}


def test_a_run_that_verifies_another_takes_no_space_of_the_users(store):
    made = make_run(store, "a", num_steps=2)
    before, found = shares_of_runs(store), survey(store.root, look(store.lineage))
    again = store.enqueue(b"{}", preset="p", output="o", verifies=made.id)
    link = store.find_links(made.keys)[made.keys[0]]
    store.record_link(again, link, stage="step", index=0, source="reused", seconds=0.0)
    assert shares_of_runs(store) == before
    after = survey(store.root, look(store.lineage))
    assert (after.num_runs, found.num_runs) == (1, 1)
    # while it waits, what it is to be compared with stays
    assert after.protected_bytes == 2 * STEP_BYTES + 1500
    clean(store.lineage, Policy(0, 0, outputs=True))
    assert set(made.steps) <= on_disk(store)


def test_bytes_that_two_keys_share_are_stored_and_counted_once(store):
    a = make_run(store, "a", num_steps=1, contents=["same"], outputs=False)
    b = make_run(store, "b", num_steps=1, contents=["same"], outputs=False)
    assert shares_of_runs(store) == {
        a.id: (300, STEP_BYTES, 2.0),
        b.id: (300, STEP_BYTES, 2.0),
    }
    assert by_kind(classified(store).values())["step"].num_blobs == 1


def test_blobs_by_when_they_were_used(store):
    for days in (0.1, 3, 20, 400):
        make_run(store, f"{days}", num_steps=1, outputs=False, age_days=days)
    shares = by_age(classified(store).values(), time.time_ns())
    assert {name: share.num_blobs for name, share in shares.items()} == dict.fromkeys(
        ("day", "week", "month", "longer"), 2
    )


def test_the_early_video_of_a_run_that_was_finished_is_of_no_run_any_more(store):
    run = make_run(store, "a", num_steps=2)
    [early] = [link for link in store.links_of(run.id) if link.stage == "video"]
    assert survey(store.root, look(store.lineage)).leftover_bytes == 0
    late = LinkRecord("late", "video", digest=blobs.put(store.root, b"y" * 321), keep="output")
    store.record_link(run.id, late, stage="video", index=0, source="computed", seconds=0.1)
    left = survey(store.root, look(store.lineage)).leftover_bytes
    assert left == len(blobs.get(store.root, early.digest))


def test_a_survey_counts_everything_once(store):
    make_run(store, "a", pinned=True)
    gone = make_run(store, "gone")
    store.remove([gone.id])
    (store.root / "logs" / "engine-1.log").write_bytes(b"x" * 11)
    (store.root / "quarantine" / "damaged").write_bytes(b"x" * 12)
    (store.root / "tmp" / "draft").write_bytes(b"x" * 13)
    found = survey(store.root, look(store.lineage))
    assert (found.num_runs, found.num_pinned, found.num_blobs) == (1, 1, 14)
    of_a_run = 4 * STEP_BYTES + 1500
    assert found.protected_bytes == of_a_run
    assert found.leftover_bytes == of_a_run
    assert found.budgeted_bytes == 4 * STEP_BYTES + of_a_run
    files = {name: found.files[name] for name in ("logs", "quarantine", "tmp", "index")}
    assert files == {"logs": 11, "quarantine": 12, "tmp": 13, "index": 0}
    on_the_disk = sum(
        path.stat().st_size
        for folder in ("blobs", "logs", "quarantine", "tmp")
        for path in (store.root / folder).rglob("*")
        if path.is_file()
    )
    assert found.num_bytes == on_the_disk + found.files["database"]
    assert found.files["database"] >= (store.root / "lineage.db").stat().st_size


def test_the_default_budget_is_a_fifth_of_what_is_free_up_to_50_gb(store, monkeypatch):
    class Disk:
        free = 100 * 10**9

    monkeypatch.setattr("store.upkeep.space.shutil.disk_usage", lambda _: Disk)
    assert default_budget(store.root) == 20 * 10**9
    Disk.free = 10**13
    assert default_budget(store.root) == 50 * 10**9


def test_only_blobs_are_blobs(store, tmp_path):
    digest = put(store, "blob")
    folder = blobs.blob_path(store.root, digest).parent
    name = digest.removeprefix("sha256:")
    (folder / "notes.txt").write_text("x")
    (folder / ("0" * 64 if not name.startswith("0000") else "f" * 64)).write_text("x")
    (store.root / "blobs" / "zz").mkdir()
    (store.root / "blobs" / "ab").symlink_to(tmp_path, target_is_directory=True)
    (folder / (name[:-1] + ("0" if name[-1] != "0" else "1"))).symlink_to("/etc/passwd")
    found, strays = scan_blobs(store.root)
    assert set(found) == {digest}
    assert len(strays) == 5
    clean(store.lineage, Policy(0, 0, outputs=True))
    assert all(os.path.lexists(path) for path in strays)


# Verify


def problems(store, **options):
    return {each.digest: each.what for each in verify(store.lineage, **options).problems}


def test_a_sound_store_is_read_whole(store):
    make_run(store, "a", keyframes=(2,))
    told = []
    verdict = verify(store.lineage, on_progress=lambda *progress: told.append(progress))
    assert verdict.problems == ()
    assert (verdict.read.num_blobs, verdict.present.num_blobs) == (8, 8)
    total = verdict.present.num_bytes
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def flip(path):
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    path.chmod(0o600)
    os.truncate(path, 0)


def replace_by_link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip, truncate, empty, replace_by_link, replace_by_fifo])
def test_a_damaged_blob_is_set_aside_and_forgotten(store, damage):
    made = make_run(store, "a")
    damage(blobs.blob_path(store.root, made.steps[1]))
    assert problems(store) == {made.steps[1]: DAMAGED}
    assert made.steps[1] not in promised(store)
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert problems(store) == {}
    assert set(made.steps) - on_disk(store) == {made.steps[1]}


@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_blob_is_told_and_forgotten(store, quick):
    made = make_run(store, "a", keyframes=(3,))
    for digest in (made.steps[0], made.keyframes[3]):
        blobs.blob_path(store.root, digest).unlink()
    assert problems(store, quick=quick) == {made.steps[0]: MISSING, made.keyframes[3]: MISSING}
    assert promised(store) <= on_disk(store)
    assert problems(store, quick=quick) == {}


@pytest.mark.parametrize(("damage", "is_seen"), [(truncate, True), (empty, True), (flip, False)])
def test_quick_reads_only_blobs_of_an_odd_size(store, damage, is_seen):
    made = make_run(store, "a")
    damage(blobs.blob_path(store.root, made.steps[1]))
    verdict = verify(store.lineage, quick=True)
    assert verdict.read.num_blobs == is_seen
    assert [each.digest for each in verdict.problems] == [made.steps[1]] * is_seen


def test_a_size_on_record_that_is_wrong_is_no_damage(store):
    made = make_run(store, "a")
    with immediate(store.lineage) as connection:
        connection.execute("UPDATE links SET bytes=bytes+1")
    verdict = verify(store.lineage, quick=True)
    assert verdict.problems == ()
    assert verdict.read.num_blobs == 6
    assert set(made.steps) <= promised(store)


def test_an_unreadable_blob_is_told_and_left(store, monkeypatch):
    made = make_run(store, "a")
    digest = made.steps[1]
    opened = os.open

    def refuse(path, *rest):
        if str(path).endswith(digest.removeprefix("sha256:")):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(blobs.os, "open", refuse)
    [problem] = verify(store.lineage).problems
    assert (problem.digest, problem.what) == (digest, UNREADABLE)
    assert "Permission denied" in problem.note
    assert digest in promised(store) & on_disk(store)


def test_orphans_strays_and_absent_latents_are_told_but_no_fault(store):
    made = make_run(store, "a")
    orphan = put(store, "orphan", 77)
    (store.root / "blobs" / "notes.txt").write_text("x")
    blobs.blob_path(store.root, made.latents).unlink()
    verdict = verify(store.lineage)
    assert verdict.problems == ()
    assert (verdict.unreferenced.num_blobs, verdict.unreferenced.num_bytes) == (1, 77)
    assert verdict.strays == (store.root / "blobs" / "notes.txt",)
    assert verdict.num_without_latents == 1
    assert orphan in on_disk(store)


def test_a_blob_that_a_clean_up_takes_meanwhile_is_not_missing(store):
    made = make_run(store, "a", age_days=2)

    def clean_once(*_):
        clean(store.lineage, Policy(budget_bytes=0))

    verdict = verify(store.lineage, on_progress=clean_once)
    assert verdict.problems == ()
    assert set(made.steps).isdisjoint(on_disk(store))


def test_a_damaged_database_is_told_before_anything_is_forgotten(store):
    made = make_run(store, "a")
    blobs.blob_path(store.root, made.steps[0]).unlink()
    [(page,)] = rows(store.lineage, "SELECT rootpage FROM sqlite_master WHERE name='links_kind'")
    [(page_bytes,)] = rows(store.lineage, "PRAGMA page_size")
    rows(store.lineage, "PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    with open(store.lineage.path, "r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xff" * page_bytes)
    with open_store(store.root) as opened:
        with pytest.raises(StoreDamaged):
            verify(opened.lineage)
        assert made.steps[0] in promised(opened)


def test_a_blob_that_is_written_while_we_look_is_none_of_our_business(store, monkeypatch):
    made = make_run(store, "a")
    path = blobs.blob_path(store.root, made.steps[0])
    data = path.read_bytes()
    path.unlink()
    scan = scan_blobs

    def scan_then_write(root):
        found = scan(root)
        write_durably(root, path, data, mode=0o400)
        return found

    monkeypatch.setattr("store.upkeep.verify.scan_blobs", scan_then_write)
    assert verify(store.lineage).problems == ()
    assert made.steps[0] in promised(store)


def test_the_links_of_a_lost_blob_are_found_without_looking_at_all(store):
    contents = large(40, 50)
    put_rows(store.lineage, contents)
    lost = [link.digest for link in contents.links]
    _, count = instructions(store.lineage, lambda: store.forget_blob(lost[0]))
    assert count <= 1000  # one look for each link would be some ten thousand
    verdict, count = instructions(store.lineage, lambda: verify(store.lineage))
    assert len(verdict.problems) == len(lost) - 1
    assert count < 400 * len(lost)  # a look at all links for each of them: 10,000 times that


def test_missing_blobs_are_forgotten_in_few_transactions(store, monkeypatch):
    contents = large(20, 50)
    put_rows(store.lineage, contents)
    statements = []
    store.lineage.db.conn.set_trace_callback(statements.append)
    assert len(verify(store.lineage).problems) == len(contents.links)
    assert sum(statement.startswith("BEGIN") for statement in statements) == 1


def test_what_is_missing_is_told_also_where_no_link_can_forget_it(store, monkeypatch):
    made = make_run(store, "a")
    for digest in (made.steps[0], made.video):
        blobs.blob_path(store.root, digest).unlink()
    damaged_blob = blobs.blob_path(store.root, made.latents)
    damaged_blob.chmod(0o600)
    damaged_blob.write_bytes(b"other")
    store.lineage.db.execute("PRAGMA query_only=ON")
    verdict = verify(store.lineage)
    assert {problem.digest for problem in verdict.problems} == {
        made.steps[0],
        made.video,
        made.latents,
    }
    assert all("no link could forget it" in problem.note for problem in verdict.problems)
    assert promised(store) > {made.steps[0], made.video}
