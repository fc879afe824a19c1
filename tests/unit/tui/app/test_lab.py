"""The module that the app asks: its lanes, what comes out of `await`, and a store that goes away under it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import psutil
import pytest

from engine import client
from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.errors import StoreError, UnknownRun
from store.lineage.events import Message
from store.store import Store, open_store
from store.upkeep.verify import verify
from tests.stores.made_stores import make_run
from tests.stores.recorded_runs import micro, record_run, wave
from tui.app import lab as lab_module
from tui.app.app import _cancel_all
from tui.app.base import start_engine
from tui.app.lab import CommandFailed, Lab
from tui.app.queue.screen import _take_back
from tui.app.runs.actions import _set_tags
from tui.describe import health
from tui.describe import space as spaces
from tui.describe.health import at_work_told
from tui.describe.models.files import found_at
from tui.describe.runs import run as runs
from tui.describe.runs.detail import detail as detail_of
from tui.describe.runs.finding.filter import Search
from tui.describe.runs.of_file import video_path
from tui.describe.runs.queued import expected


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store() as opened:
        yield opened


def ask(questions):
    """Run a coroutine function on a lab of the test's store; returns what it returns."""

    async def run():
        lab = Lab()
        try:
            return await questions(lab)
        finally:
            lab.close()

    return asyncio.run(run())


def read_everything(store, on_progress=lambda done, total: None):
    return verify(store.lineage, on_progress=on_progress)


def add(store, *overrides, **more):
    spec = load_preset("micro", overrides, values={"prompt": "a red circle"})
    return store.enqueue(encode_spec(spec), preset="micro", output="/v/{run}.mp4", **more)


# Lanes


def test_a_lane_that_is_at_work_keeps_no_other_waiting(store):
    go_on, begun = threading.Event(), threading.Event()

    def block(_store):
        begun.set()
        assert go_on.wait(120)
        return "done"

    async def questions(lab):
        slow = asyncio.create_task(lab.work(block))
        checking = asyncio.create_task(lab.check(read_everything))
        await asyncio.to_thread(begun.wait)
        await lab.status()
        await lab.read(runs.queue_rows)
        assert (await checking).problems == ()
        assert not slow.done()
        go_on.set()
        return await slow

    assert ask(questions) == "done"


def test_a_lane_answers_in_turn_in_one_thread_of_its_own(store):
    async def questions(lab):
        return await asyncio.gather(
            *(lab.change(lambda _: threading.get_ident()) for _ in range(5)),
            lab.read(lambda _: threading.get_ident()),
        )

    *changes, read = ask(questions)
    assert len(set(changes)) == 1
    assert read not in {*changes, threading.get_ident()}


def test_the_loop_goes_on_while_a_lane_works(store):
    async def questions(lab):
        go_on = threading.Event()
        slow = asyncio.create_task(lab.read(lambda _: go_on.wait(120)))
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        assert await slow

    ask(questions)


# Errors


def test_errors_come_out_of_await_as_they_are(store):
    async def questions(lab):
        with pytest.raises(UnknownRun):
            await lab.read(Store.run, "nothing")
        with pytest.raises(UnknownRun):
            await lab.read(detail_of, "nothing")
        with pytest.raises(StoreError, match="only queued runs"):
            await lab.change(Store.reorder, made.id, None)
        with pytest.raises(ZeroDivisionError):
            await lab.read(lambda _: 1 // 0)
        return await lab.read(runs.queue_rows)  # and the lane goes on

    made = make_run(store, "micro")
    assert ask(questions) == []


def test_a_store_that_is_removed_under_the_app_is_told_and_not_made_again(store):
    async def questions(lab):
        await lab.status()
        shutil.rmtree(store.root)
        with pytest.raises(StoreError, match="no longer at"):
            await lab.status()
        with pytest.raises(StoreError, match="no longer at"):
            await lab.read(runs.queue_rows)
        assert not store.root.exists()

    ask(questions)


def test_no_lane_founds_a_store_where_the_app_had_another(store):
    async def questions(lab):
        await lab.status()  # in the lane for reading; those for changes have not opened it yet
        shutil.rmtree(store.root)
        for ask_it in (lab.change(_cancel_all), lab.engine(start_engine)):
            with pytest.raises(StoreError, match="no longer at"):
                await ask_it
        assert not store.root.exists()

    ask(questions)


def test_a_store_that_comes_back_is_read_again(store, tmp_path):
    run_id = add(store)

    async def questions(lab):
        await lab.status()
        away = tmp_path / "away"
        store.root.rename(away)
        with pytest.raises(StoreError):
            await lab.status()
        away.rename(store.root)
        return (await lab.status()).num_queued, [
            row.record.id for row in await lab.read(runs.queue_rows)
        ]

    assert ask(questions) == (1, [run_id])


def test_a_store_that_cannot_be_opened_is_tried_again_at_the_next_question(tmp_path):
    place = tmp_path / "file"
    place.write_text("in the way")

    async def run():
        lab = Lab(place)
        with pytest.raises(StoreError):
            await lab.status()
        place.unlink()
        assert (await lab.status()).num_queued == 0
        lab.close()

    asyncio.run(run())


# Status


def test_status_of_nothing(store):
    status = ask(lambda lab: lab.status())
    assert (status.engines, status.running, status.num_queued, status.newest_run) == (
        (),
        (),
        0,
        "",
    )
    assert not status.is_stuck


def test_a_dead_engines_run_is_ended_and_told_once(store):
    run_id = add(store)
    with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
        store.lease("engine1")  # and dies: the lock is let go

    async def questions(lab):
        return await lab.status(), await lab.status()

    first, second = ask(questions)
    assert first.orphans == (run_id,)
    assert first.running == ()
    assert second.orphans == ()
    assert store.run(run_id).status == "interrupted"


def test_a_live_engine_and_one_that_is_stuck(store):
    run_id = add(store)
    add(store)
    with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
        store.lease("engine1")
        status = ask(lambda lab: lab.status())
        (running,) = status.running
        assert (running.id, status.num_queued, status.is_stuck) == (run_id, 1, False)
        store.lineage.db.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 60000000000")
        store.lineage.db.conn.commit()
        status = ask(lambda lab: lab.status())
        assert status.is_stuck
        assert (
            f"the engine (process {os.getpid()}) has given no sign of life for 6" in status.silence
        )
        assert "F in Components ends it" in status.silence


def test_runs_of_several_engines_are_all_at_work_and_all_cancelled(store):
    first, second, waits = add(store), add(store), add(store)
    with (
        store.register_engine("engine1", pid=os.getpid(), version=installed_version()),
        store.register_engine("engine2", pid=os.getpid(), version=installed_version()),
    ):
        store.lease("engine1")
        store.lease("engine2")

        async def questions(lab):
            status, rows = await lab.status(), await lab.read(runs.queue_rows)
            await lab.change(_cancel_all)
            return status, [row.record.id for row in rows]

        status, queue = ask(questions)
        assert [run.id for run in status.running] == [first, second]
        assert at_work_told(status) == "2 running"
        assert queue[:2] == [first, second]
        assert queue[2] == waits
        assert store.run(first).cancel_requested
        assert store.run(second).cancel_requested
        assert store.run(waits).status == "cancelled"


# The queue


def test_the_queue_taken_back_put_back_and_reordered(store):
    first, second = add(store), add(store)

    async def questions(lab):
        async def order():
            return [row.record.id for row in await lab.read(runs.queue_rows)]

        assert await order() == [first, second]
        assert (await lab.change(_take_back, first)).status == "queued"
        assert await order() == [second]
        await lab.change(client.resume, first)
        assert await order() == [second, first]
        await lab.change(Store.reorder, first, second)
        return await order()

    assert ask(questions) == [first, second]


def test_a_run_that_has_begun_is_not_taken_back(store):
    run_id = add(store)
    with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
        store.lease("engine1")
        assert ask(lambda lab: lab.change(_take_back, run_id)).status == "running"
        assert not store.run(run_id).cancel_requested


def test_expectations_say_what_differs(store):
    run_id = add(store, "seed=5", "guidance.scale=3")
    broken = store.enqueue(b"{}", preset="gone", output="o")

    async def questions(lab):
        return await lab.work(expected, [row.record for row in await lab.read(runs.queue_rows)])

    told = ask(questions)
    assert told[run_id].changes == "seed 5, guidance 3"
    assert told[run_id].step_seconds is None
    assert told[broken].step_seconds is None


# Runs


def test_marks_on_runs_and_the_log(store):
    made = make_run(store, "micro")
    store.append(made.id, [Message("info", f"line {i}") for i in range(1500)])

    async def questions(lab):
        await lab.change(_set_tags, made.id, ["good", "first"])
        await lab.change(_set_tags, made.id, ["good"])
        await lab.change(Store.note, made.id, "look at this")
        await lab.change(Store.pin, made.id)
        [row] = await lab.read(runs.found_rows, Search(words=("look",)), 9)
        pages = [await lab.log(made.id, 0)]
        while pages[-1]:
            pages.append(await lab.log(made.id, pages[-1][-1].id))
        detail = await lab.read(detail_of, made.id)
        return row, [len(page) for page in pages], detail

    row, pages, detail = ask(questions)
    assert row.tags == ("good",)
    assert row.record.pinned
    assert pages[0] == lab_module.LOG_PAGE
    assert sum(pages) >= 1500
    assert len(detail.steps) == 4


def test_a_clean_up_previewed_and_done(store):
    from store.upkeep.removal import Policy

    made = make_run(store, "micro", num_steps=3)
    policy = Policy(budget_bytes=0)

    async def questions(lab):
        planned = await lab.work(spaces.planned_removal, policy)
        done = await lab.work.cleaning(spaces.remove_by, policy)
        return planned.freed_bytes, done.freed_bytes, await lab.work(spaces.space)

    planned, done, space = ask(questions)
    assert planned == done > 0
    assert [share.run.id for share in space.by_run] == [made.id]
    assert "step" not in space.by_kind


def test_what_reading_everything_raises_ends_it(store):
    make_run(store, "micro")

    class Stopped(Exception):
        pass

    def stop(done, total):
        raise Stopped

    async def questions(lab):
        with pytest.raises(Stopped):
            await lab.check(read_everything, stop)
        return await lab.check(read_everything)

    assert not ask(questions).problems


# Models


def test_what_is_known_of_files_costs_no_reading_of_large_ones(store, monkeypatch):
    from engine.checkpoints.locate import BUILTIN_MICRO, locate
    from tui.describe.models import fingerprints as remembered

    path = locate("vae", BUILTIN_MICRO)

    async def questions(lab):
        [found] = await lab.work(lambda _: found_at(path))

        def known(_store, index):
            return remembered.known_of(index, found.files, found.recognition.file_bytes)

        monkeypatch.setattr(remembered, "CHEAP_BYTES", 1000)
        before = await lab.work.indexed(known)
        monkeypatch.setattr(remembered, "CHEAP_BYTES", 1 << 30)
        sampled = await lab.work.indexed(known)
        monkeypatch.setattr(remembered, "CHEAP_BYTES", 1000)
        return before, sampled, await lab.work.indexed(known)

    before, sampled, after = ask(questions)
    assert before.fingerprint == ""
    assert sampled.fingerprint.startswith("wf1:")
    assert after == sampled
    assert after.digests == ("",)
    assert any("not known" in line for line in remembered.lines(before))


def test_components_and_a_path_that_is_no_model(store, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no")

    async def questions(lab):
        return (
            await lab.work(lambda _: health.components()),
            await lab.work(lambda _: found_at(tmp_path / "x.safetensors")),
            await lab.work(lambda _: found_at(tmp_path)),
        )

    rows, [broken], in_folder = ask(questions)
    assert ("vae", "wan-vae", "modiff") in [(row.kind, row.name, row.origin) for row in rows]
    assert broken.recognition is None
    assert broken.error
    assert [found.path for found in in_folder] == [broken.path]


# Commands


def test_a_command_answers_with_data_of_this_very_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def run():
        lab = Lab(tmp_path / "elsewhere")
        told = await lab.command("engine", "status")
        lab.close()
        return told

    assert asyncio.run(run())["store"] == str(tmp_path / "elsewhere")


def test_a_command_that_fails_says_its_last_line(store):
    async def questions(lab):
        with pytest.raises(CommandFailed, match="no engine has run yet"):
            await lab.command("engine", "logs")
        with pytest.raises(CommandFailed, match="nothing"):
            await lab.command("show", "nothing")

    ask(questions)


def test_a_command_that_cannot_start_or_dies_silently(store, monkeypatch, tmp_path):
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))

    async def questions(lab):
        with pytest.raises(CommandFailed, match="modiff doctor failed"):
            await lab.command("doctor")
        monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
        with pytest.raises(FileNotFoundError):
            await lab.command("doctor")

    ask(questions)


def test_a_command_that_is_given_up_is_ended(store, monkeypatch, tmp_path):
    marker = tmp_path / "pid"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {marker}.new\nmv {marker}.new {marker}\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))

    def is_alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    async def questions(lab):
        task = asyncio.create_task(lab.command("doctor"))
        for _ in range(3000):
            if marker.exists():
                break
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pid = int(marker.read_text())
        for _ in range(1000):
            if not is_alive(pid):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it lives on")

    ask(questions)


def test_what_a_command_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", f"/one{os.pathsep}/two")
    environment = lab_module._command_environment(tmp_path)
    assert environment["MODIFF_STORE"] == str(tmp_path)
    search = environment["PYTHONPATH"].split(os.pathsep)
    assert Path(search[0], "tui", "cli", "main.py").exists()
    assert search[1:] == ["/one", "/two"]
    json.dumps(environment)


def test_closing_does_not_wait_for_what_is_at_work(store):
    go_on = threading.Event()

    async def run():
        lab = Lab()
        slow = asyncio.create_task(lab.work(lambda _: go_on.wait(120)))
        await lab.status()
        lab.close()
        assert not slow.done()
        go_on.set()
        await slow

    asyncio.run(run())


def test_a_video_is_read_from_its_file_else_from_the_store(store, tmp_path):
    clip = wave(3, 16, 16)
    run = record_run(store, micro("fps=8"), frames=clip)
    bare = record_run(store, micro("fps=8"))

    async def path_of(lab):
        return await lab.read(video_path, run.id), await lab.read(video_path, bare.id)

    in_store, nothing = ask(path_of)
    assert in_store.is_relative_to(store.root)
    assert nothing is None
    shown = []
    ask(
        lambda lab: lab.read_video(
            in_store, (8, 8), lambda frame: shown.append(frame) or len(shown) < 2
        )
    )
    assert [(frame.width, frame.height) for frame in shown] == [(8, 8)] * 2


@pytest.mark.parametrize(
    "printed",
    [
        '{"status": "failed", "error": "no such file"}',
        '{"status": "failed", "error": "no such file", "models": []}',
    ],
)
def test_a_failure_that_is_printed_as_json_is_a_failure(store, monkeypatch, printed):
    monkeypatch.setattr(lab_module.sys, "executable", "/bin/echo")

    async def run():
        lab = Lab()
        monkeypatch.setattr(lab_module.json, "loads", lambda _text: decoded)
        try:
            with pytest.raises(CommandFailed, match="no such file"):
                await lab.command("doctor")
        finally:
            lab.close()

    decoded = json.loads(printed)
    asyncio.run(run())
