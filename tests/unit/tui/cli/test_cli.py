"""The command line in this process: help, what becomes of errors, and commands without an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
import torch

from engine.errors import CheckpointError, ComponentError, EngineUnavailable
from engine.process.version import installed_version
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.library.loading import load_preset
from store.database.database import immediate
from store.errors import BadRequest, StoreBusy, StoreFull, UnknownRun
from store.lineage.events import LatentsStored, MemorySampled, Message, StageFinished, StepFinished
from store.lineage.records import HeldModel
from store.store import open_store
from tui.cli.following.follow import part, result
from tui.cli.main import COMMANDS, cli, main
from tui.errors import explain

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def enqueue(store, **values) -> str:
    spec = load_preset("micro", values=values)
    return store.enqueue(encode_spec(spec), preset="micro", output="/videos/{run}.mp4")


def finished(store, status, *, error="", events=(), **values) -> str:
    """A run that an engine of this process leased, and that ended."""
    run_id = enqueue(store, **values)
    with store.register_engine(f"engine{run_id}", pid=os.getpid(), version=installed_version()):
        store.lease(f"engine{run_id}")
        store.append(run_id, list(events))
        store.finish(run_id, status, error=error)
        store.unregister_engine(f"engine{run_id}")
    return run_id


# Help


def test_the_line_of_every_command_in_the_help_is_its_own(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    context = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help.splitlines()[0] == line
        assert line in shown


def commands(command, name="modiff"):
    """All commands below one, with the words that call them."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            yield from commands(command.get_command(context, each), f"{name} {each}")


def test_every_command_answers_programs():
    silent = {
        name
        for name, command in commands(cli)
        if not isinstance(command, click.Group)
        and "as_json" not in {option.name for option in command.params}
    }
    assert silent == {"modiff completion"}  # which is for a shell


def test_every_option_of_every_command_is_explained():
    for name, command in commands(cli):
        assert command.help, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.name}"


def test_no_command_is_the_app_which_needs_a_terminal(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("modiff: the app needs a terminal")
    assert "modiff --help" in shown.err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("modiff ")


def test_the_shell_completes_presets_and_runs(capsys, store, monkeypatch):
    run_id = enqueue(store)
    found = {}
    for words in ("modiff run mic", f"modiff show {run_id[:2]}"):
        monkeypatch.setenv("_MODIFF_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", "2")
        assert main([]) == 0
        found[words.split()[1]] = capsys.readouterr().out.split()
    presets = [f"plain,{name}" for name in ("micro", "micro-flf2v", "micro-i2v")]
    assert {name: sorted(offered) for name, offered in found.items()} == {
        "run": presets,
        "show": [f"plain,{run_id}"],
    }


# Errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PresetError("bad", key="seed"), 2),
        (ComponentError("bad"), 2),
        (CheckpointError("bad"), 2),
        (EngineUnavailable("bad"), 1),
        (StoreBusy("bad"), 1),
        (UnknownRun("bad"), 2),
        (BadRequest("bad"), 2),
    ],
)
def test_an_expected_error_is_its_own_line(error, code):
    assert explain(error) == (code, str(error))


def test_a_defect_is_one_line_and_a_log_with_the_trace(capsys, monkeypatch, own_folders):
    def broken(*_, **__):
        raise ZeroDivisionError("first\nsecond \x1b[31m")

    monkeypatch.setattr("store.store.open_as_it_is", broken)
    assert main(["runs"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("modiff: unexpected ZeroDivisionError: first second \\x1b[31m (")
    assert err.count("\n") == 1
    (log,) = (own_folders / "store" / "logs").glob("modiff-*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [
        (["runs", "--json"], ""),
        (["presets", "list"], "1"),
        (["--help"], ""),
    ],
)
def test_output_that_cannot_be_written_is_no_defect(own_folders, arguments, unbuffered):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tui.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered},
        )
    line = "modiff: the output could not be written (No space left on device)\n"
    assert (ended.returncode, ended.stderr) == (1, line)
    assert list((own_folders / "store").glob("logs/modiff-*.log")) == []


def test_a_store_that_cannot_be_made_is_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MODIFF_STORE", str(tmp_path / "file"))
    assert main(["runs"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("modiff: the store cannot be at ")


def test_a_store_in_a_home_that_is_not_known_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("MODIFF_STORE", "~no-such-user/x")
    assert main(["runs"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("modiff: the store cannot be at ~no-such-user/x: ")


def test_a_defect_is_logged_also_where_the_store_cannot_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MODIFF_STORE", "~no-such-user/x")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, line = explain(ZeroDivisionError("why"))
    (log,) = tmp_path.glob("modiff-*.log")
    assert code == 1
    assert str(log) in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "Missing argument 'PRESET'"),
        (["run", "nope"], 'no preset is named "nope"'),
        (["run", "micro", "--seed", "x"], "neither a number nor random"),
        (["run", "micro", "--seed", "-2"], "seed: "),
        (["run", "micro", "--set", "steps=3"], "scheduler.steps"),
        (["run", "micro", "--set", "scheduler.steps"], "scheduler.steps=12"),
        (["run", "micro", "--prompt", "x" * 20_000], "prompt: "),
        (["run", "micro", "--prompt", "\udcff"], "prompt: "),
        (["run", "micro", "--output", "/no/such/folder/a.mp4"], "/no/such/folder"),
        (["run", "micro", "--output", "/proc/a.mp4"], "folder /proc"),
        (["run", "micro", "--output", "/"], "is a folder"),
        (["run", "micro", "--output", "a.avi"], "ends in .mp4"),
        (["run", "micro", "--set", "components.vae.name=nope"], "components.vae.name"),
        (["run", "micro", "--set", "components.vae.checkpoint=no.safetensors"], "no.safetensors"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_queues_nothing_and_is_told_to_people_and_to_programs(
    capsys, store, arguments, words
):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert main([*arguments, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["status"], told["output"]) == (None, "failed", None)
    assert told["stages"] == []
    assert told["error"]
    assert store.runs(limit=1) == []


@pytest.mark.parametrize("options", [[], ["--detach"]])
@pytest.mark.parametrize("error", [StoreFull("no space left"), EngineUnavailable("no luck")])
def test_an_error_before_the_engine_starts_leaves_nothing_queued(
    capsys, store, monkeypatch, tmp_path, options, error
):
    def broken(store):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.runs.following.ensure_engine", broken)
    monkeypatch.setattr("engine.process.launch.ensure_engine", broken)
    assert main(["run", "micro", "--json", *options]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["error"]) == ("failed", str(error))
    assert store.run(told["run"]).status == "cancelled"


def test_who_leaves_a_queued_run_starts_its_engine_first(capsys, store, monkeypatch):
    run_id = enqueue(store)
    started = []
    monkeypatch.setattr(
        "engine.process.launch.ensure_engine", lambda store: started.append(store.root)
    )
    part(store, [run_id], quiet=False)
    assert started == [store.root]
    assert capsys.readouterr().err == f"run {run_id} goes on; modiff show {run_id}\n"


def test_a_package_of_the_same_name_is_refused(tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tui.cli", "runs"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"another package named 'engine' ({tmp_path}" in done.stderr


# What `modiff run --json` ends with


def test_the_result_of_a_run_that_is_done(store):
    run_id = finished(store, "done", events=[StageFinished("load", 0.25, True)])
    told = result(store.run(run_id), store.stages(run_id), cancel_asked=False)
    seconds = told.pop("seconds")
    assert isinstance(seconds, float)
    assert told == {
        "run": run_id,
        "status": "done",
        "output": f"/videos/{run_id}.mp4",
        "stages": [{"name": "load", "seconds": 0.25, "cached": True}],
    }


@pytest.mark.parametrize(
    ("status", "told_as"),
    [("failed", "failed"), ("interrupted", "failed"), ("cancelled", "cancelled")],
)
def test_the_result_of_a_run_that_is_not_done(store, status, told_as):
    run_id = finished(store, status, error="why")
    told = result(store.run(run_id), [], cancel_asked=False)
    assert (told["status"], told["output"], told["error"]) == (told_as, None, "why")


def test_the_result_of_a_run_that_was_left_before_it_stopped(store):
    told = result(store.run(enqueue(store)), [], cancel_asked=True)
    assert (told["status"], told["seconds"]) == ("cancelled", 0.0)


# runs, show, cancel, engine


def data(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_runs_of_an_empty_store(capsys):
    assert main(["runs"]) == 0
    assert capsys.readouterr() == ("", "no runs; `modiff run micro` makes one\n")
    assert data(capsys, "runs")["runs"] == []


def test_runs_newest_first_limited_and_by_status(capsys, store):
    done = finished(store, "done", prompt="a \x1b[31mred\ncircle")
    queued = enqueue(store)
    last = enqueue(store)
    assert [each["run"] for each in data(capsys, "runs")["runs"]] == [last, queued, done]
    assert [each["run"] for each in data(capsys, "runs", "--limit", "1")["runs"]] == [last]
    assert [each["run"] for each in data(capsys, "runs", "--status", "done")["runs"]] == [done]
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("2 runs wait and no engine runs")
    header, *lines = out.splitlines()
    assert header.split() == ["RUN", "STATUS", "AGE", "TIME", "PRESET", "PROMPT"]
    assert [line.split()[:2] for line in lines] == [
        [last, "queued"],
        [queued, "queued"],
        [done, "done"],
    ]
    assert lines[2].endswith("a \\x1b[31mred circle")


def test_a_run_whose_engine_died_is_listed_as_interrupted(capsys, store):
    run_id = enqueue(store)
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        store.lease("engineaaaa")
        assert data(capsys, "show", run_id)["status"] == "running"
    assert [each["status"] for each in data(capsys, "runs")["runs"]] == ["interrupted"]


def test_show_tells_all(capsys, store):
    run_id = finished(
        store,
        "failed",
        error="latents are not finite at step 2",
        events=[
            StageFinished("load", 0.5, False),
            StepFinished(1, 20, 1.0, 1000.0, 0.1),
            MemorySampled(300 << 20, 5 << 30),
            MemorySampled(200 << 20, 6 << 30),
            LatentsStored("sha256:abc"),
            Message("warning", "low memory"),
        ],
    )
    told = data(capsys, "show", run_id[:9])
    assert (told["run"], told["status"], told["preset"]) == (run_id, "failed", "micro")
    assert told["spec"]["scheduler"]["steps"] == 20
    assert told["stages"] == [{"name": "load", "seconds": 0.5, "cached": False}]
    events = told["events"]
    assert events["counts"]["memory_sampled"] == 2
    assert (events["step"], events["total_steps"], events["latents"]) == (1, 20, "sha256:abc")
    assert (events["peak_rss_bytes"], events["peak_device_bytes"]) == (300 << 20, 6 << 30)
    assert events["messages"] == [{"level": "warning", "text": "low memory"}]
    assert main(["show", run_id]) == 0
    out = capsys.readouterr().out
    head, _, toml = out.partition("\n\n")
    fields = dict(line.split(maxsplit=1) for line in head.splitlines())
    assert fields["error"] == "latents are not finite at step 2"
    assert fields["scheduler"] == "unipc, 20 steps, shift 3"
    assert fields["memory"] == "at most 300 MiB, 6.0 GiB on the device"
    assert fields["warning"] == "low memory"
    assert 'prompt = "a large red circle' in toml


def test_an_id_that_is_not_unique_names_the_candidates(capsys, store):
    ids = [enqueue(store) for _ in range(33)]  # more than there are letters
    letter, *_ = [each[0] for each in ids if [i[0] for i in ids].count(each[0]) > 1]
    for command in ("show", "cancel"):
        assert main([command, letter]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert all(each in err for each in [i for i in ids if i[0] == letter][-5:])
    assert len(store.runs(limit=100, status="queued")) == 33


def test_cancel(capsys, store):
    queued = enqueue(store)
    assert data(capsys, "cancel", queued[:8]) == {"run": queued, "status": "cancelled"}
    assert main(["cancel", queued]) == 0
    assert capsys.readouterr() == ("", f"run {queued} is cancelled\n")
    running = enqueue(store)
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        store.lease("engineaaaa")
        assert data(capsys, "cancel", running) == {"run": running, "status": "running"}
        assert store.cancel_requested(running)
        store.finish(running, "done")
    assert main(["cancel", running]) == 1
    assert "already done" in capsys.readouterr().err


def test_an_engine_from_a_clock_that_was_put_back_has_been_up_for_no_time(capsys, store):
    with store.register_engine("engineaaaa", pid=os.getpid()):
        with immediate(store.lineage) as connection:
            connection.execute("UPDATE engines SET started_ns=?1, heartbeat_ns=?1", (2**62,))
        [engine] = data(capsys, "engine", "status")["engines"]
        assert (engine["seconds_alive"], engine["seconds_since_heartbeat"]) == (0, 0)
        assert main(["engine", "status"]) == 0
        assert "up for 0 s\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "when", "num_found"),
    [
        ("--since", "9999-12-31", 0),
        ("--since", "9999-12-31T23:59:59-12:00", 0),
        ("--since", "2500-01-01", 0),
        ("--since", "0001-01-01", 1),
        ("--since", "999999w", 1),
        ("--until", "9999-12-31", 1),
        ("--until", "9999-12-30", 1),
        ("--until", "0001-01-01T00:00+14:00", 0),
        ("--until", "999999w", 0),
        ("--limit", "9" * 30, 1),
    ],
)
def test_moments_beyond_the_database_s_are_its_first_or_its_last(
    capsys, store, option, when, num_found
):
    store.enqueue(b"{}", preset="p", output="o")
    assert len(data(capsys, "runs", option, when)["runs"]) == num_found


def test_engine_status(capsys, store):
    assert data(capsys, "engine", "status")["engines"] == []
    run_id = enqueue(store)
    enqueue(store)
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        store.lease("engineaaaa")
        told = data(capsys, "engine", "status")
        assert main(["engine", "status"]) == 0
        lines = capsys.readouterr().out.splitlines()
    (engine,) = told["engines"]
    assert (engine["id"], engine["pid"], engine["run"]) == ("engineaaaa", os.getpid(), run_id)
    assert told["queued"] == 1
    assert lines[0].startswith(f"engine engineaaaa (process {os.getpid()}) works on run {run_id}")
    assert (engine["models"], lines[1]) == ([], "  no model is in memory")
    assert lines[2].startswith("1 queued")


def test_engine_release(capsys, store):
    vae = HeldModel("vae", "wan-vae", "cpu", 1 << 20)
    assert data(capsys, "engine", "release") == {"engines": []}
    assert main(["engine", "release"]) == 0
    assert capsys.readouterr().out == "no engine is running, so that nothing is held\n"
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        store.set_held("engineaaaa", ["a name"], [vae])
        assert main(["engine", "status"]) == 0
        assert "in memory: vae wan-vae (1 MiB of cpu)" in capsys.readouterr().out

        def answer():
            with open_store() as own:
                while not own.release_requested("engineaaaa"):
                    time.sleep(0.01)
                own.set_held("engineaaaa", [])
                own.set_released("engineaaaa", [vae])

        with ThreadPoolExecutor() as executor:
            answered = executor.submit(answer)
            assert main(["engine", "release"]) == 0
            answered.result()
        assert capsys.readouterr().out == "gave back 1 MiB: vae wan-vae (1 MiB of cpu)\n"


def test_engine_stop_without_an_engine(capsys):
    assert data(capsys, "engine", "stop") == {"stopped": []}
    assert data(capsys, "engine", "stop", "--force") == {"stopped": []}


def test_runs_that_wait_without_an_engine_are_told_of(capsys, store):
    enqueue(store)
    assert main(["runs"]) == 0
    line = "1 run waits and no engine runs; modiff engine start goes on with it\n"
    assert capsys.readouterr().err == line
    enqueue(store)
    assert main(["engine", "stop"]) == 0
    told = "2 runs wait and no engine runs; modiff engine start goes on with them\n"
    assert capsys.readouterr().err == "no engine is running\n" + told
    with store.register_engine("engineaaaa", pid=os.getpid(), version=installed_version()):
        assert main(["runs"]) == 0
    assert capsys.readouterr().err == ""


def test_what_is_shown_of_a_prompt_cannot_act_on_the_terminal(capsys, store):
    prompt = "a \x9b31m circle \u202e\u2066 moves"
    run_id = finished(store, "done", prompt=prompt)
    for arguments in (["show", run_id], ["presets", "show", "micro", "--set", f"prompt={prompt}"]):
        for options, read in (([], None), (["--json"], json.loads)):
            assert main([*arguments, *options]) == 0
            out = capsys.readouterr().out
            assert not set(out) & set("\x9b\u202e\u2066")
            assert "\\u009b31m circle \\u202e\\u2066" in out
            if read and arguments[0] == "presets":
                assert read(out)["prompt"] == prompt


def test_engine_logs(capsys, store):
    assert main(["engine", "logs"]) == 1
    assert "no log" in capsys.readouterr().err
    old, new = (store.root / "logs" / f"engine-{pid}.log" for pid in (1, 2))
    old.write_text("old\n")
    os.utime(old, (0, 0))
    new.write_text("one\ntwo \x1b[31m\nthree\n")
    assert main(["engine", "logs", "-n", "2"]) == 0
    assert capsys.readouterr() == ("two \\x1b[31m\nthree\n", f"{new}\n")
    assert data(capsys, "engine", "logs", "--pid", "1")["lines"] == ["old"]
    assert main(["engine", "logs", "--pid", "3", "--json"]) == 1
    assert "engine-3.log" in json.loads(capsys.readouterr().out)["error"]
    assert data(capsys, "engine", "logs", "-n", "0")["lines"] == ["one", "two \\x1b[31m", "three"]


def test_doctor_shows_every_finding_and_fails_when_one_does(capsys, monkeypatch):
    from engine.doctor import Report, Row, Section

    rows = (
        Row("torch", "2.13"),
        Row("sage", "no", "absent"),
        Row("ffmpeg", "\x1b[31m", "fail", "install it"),
    )
    monkeypatch.setattr("engine.doctor.examine", lambda root: Report((Section("all", rows),)))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "all",
        "  ok    torch   2.13",
        "  -     sage    no",
        "  fail  ffmpeg  \\x1b[31m",
        "                -> install it",
    ]
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["sections"][0]["rows"][1]["status"] == "absent"
    assert told["sections"][0]["rows"][2]["hint"] == "install it"


def test_a_backend_that_does_not_work_is_a_fault_only_where_it_must(monkeypatch):
    from engine import doctor
    from engine.models.attention import BACKENDS

    def broken(q, k, v):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("engine.dtypes.torch_device", lambda name: torch.device("cpu"))
    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, broken)
    found = {row.name: row.status for row in doctor._attention()}
    required = {"plain": "fail", "sdpa": "fail"}
    assert found == dict.fromkeys(BACKENDS, "absent") | required
