"""What one look at the store says that the look before did not: ends of runs, and how far the one at work is."""

from __future__ import annotations

from presets.encoding import encode_spec
from presets.library.loading import load_preset
from store.lineage.events import PlanMade, RunFinished, StageStarted, StepFinished
from tui.describe.runs.following.watch import Progress, Watch


def add(store, **options):
    spec = encode_spec(load_preset("micro"))
    return store.enqueue(spec, preset="micro", output="/v/{run}.mp4", **options)


def taken(store):
    run = store.lease("engine1")
    assert run is not None
    return run


def test_an_end_is_told_once_and_only_from_the_first_look_on(store):
    with store.register_engine("engine1", pid=1):
        add(store)
        store.finish(taken(store).id, "done", output="/v/x.mp4")
        watch = Watch()
        assert watch.ended(store) == ()
        good, bad, stopped = add(store), add(store), add(store)
        for run_id, status in ((good, "done"), (bad, "failed"), (stopped, "cancelled")):
            assert taken(store).id == run_id
            store.finish(run_id, status, error="no room" if status == "failed" else "")
        assert [run.id for run in watch.ended(store)] == [good, bad]
        assert watch.ended(store) == ()


def test_a_run_that_only_verifies_another_and_one_that_was_removed_are_no_ends(store):
    with store.register_engine("engine1", pid=1):
        first = add(store)
        store.finish(taken(store).id, "done", output="/v/x.mp4")
        watch = Watch()
        watch.ended(store)
        add(store, verifies=first)
        store.finish(taken(store).id, "done")
        gone = add(store)
        store.finish(taken(store).id, "done")
        store.remove([gone])
        assert watch.ended(store) == ()


def test_how_far_the_run_at_work_is(store):
    with store.register_engine("engine1", pid=1):
        add(store)
        run, watch = taken(store), Watch()
        assert watch.progress(store, run) == Progress()
        stages = {"denoise": "compute", "decode": "skip"}
        store.append(run.id, [PlanMade(0, 20, stages), StageStarted("denoise")])
        store.append(run.id, [StepFinished(step, 20, 0.9, 900.0, 2.0) for step in (1, 2, 3, 4)])
        assert watch.progress(store, run) == Progress(20, 32.0)
        assert Progress(20, 32.0).words == "20% ~0:32"
        store.append(run.id, [StepFinished(5, 20, 0.9, 900.0, 2.0), RunFinished("paused")])
        assert watch.progress(store, None) is None
