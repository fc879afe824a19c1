"""`modiff` as people use it: real processes, real signals, real files.

Signals and deaths are tried against the scripted engine of engine_process.py, which is the real
worker with a runner that does as the prompt says; the first tests use the real one. Processes are forks of one that has
imported them already, unless how they begin is the subject.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import imageio_ffmpeg
import pytest

from store.lineage.events import StepFinished
from store.store import open_store
from tests.deadline import deadline
from tests.integration.forker import ROOT, Fault, Forked, forker

COMMAND = (sys.executable, "-P", "-m", "tui.cli")
TEST_SECONDS = 300
QUICK = ("--set", "scheduler.steps=2", "--set", "frames=5")


@pytest.fixture(autouse=True)
def _deadline():
    with deadline(TEST_SECONDS):
        yield


class Modiff:
    """The command in a folder of its own, on a store of its own. launch: what is done to a fork that may launch an
    engine; by default that is a fork too."""

    launch: tuple[Fault, ...] = ({"fault": "forked_launch"},)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MODIFF_STORE": str(folder / "store"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str, **options) -> Forked:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return forker().start(
            "tui.cli.main",
            *arguments,
            folder=self.folder,
            environment=self.environment,
            faults=self.launch,
            **streams,
        )

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    def begin(self, *arguments: str) -> tuple[int, str, str]:
        """As a call, in a process that was never anything else."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            text=True,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
        )
        return done.returncode, done.stdout, done.stderr

    def data(self, *arguments: str):
        code, out, _ = self(*arguments, "--json")
        assert code == 0
        return json.loads(out)


@contextmanager
def modiff_in(folder: Path):
    modiff = Modiff(folder)
    with open_store(folder / "store") as store:
        modiff.store = store
        yield modiff
        for engine in store.engines():
            os.kill(engine.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """With the real engine, the same for all tests that use it."""
    with modiff_in(tmp_path_factory.mktemp("real")) as modiff:
        yield modiff


def forked_engine(modiff: Modiff) -> Forked:
    program = "tests.integration.engine_process"
    store = str(modiff.folder / "store")
    return forker().start(program, "--store", store, environment=modiff.environment)


def begun_engine(modiff: Modiff) -> subprocess.Popen[bytes]:
    """Of whose environment the system can tell."""
    script = str(Path(__file__).with_name("engine_process.py"))
    named = ("--as", "engine.process.worker", "--store", str(modiff.folder / "store"))
    return subprocess.Popen(
        [sys.executable, script, *named], env=modiff.environment, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def modiff(tmp_path, request):
    """With the scripted engine; `modiff.engine` is its process."""
    with modiff_in(tmp_path) as modiff:
        modiff.engine = getattr(request, "param", forked_engine)(modiff)
        wait_for(modiff.store.engines)
        yield modiff
        modiff.engine.kill()
        modiff.engine.wait()


def wait_for(condition):
    """Poll until the condition holds, and return what it gave; `_deadline` ends a vain wait."""
    while not (found := condition()):
        time.sleep(0.02)
    return found


def wait_for_running(modiff: Modiff) -> str:
    """Wait until a run has made a step; its id."""
    (run,) = wait_for(lambda: modiff.store.runs(limit=1, status="running"))
    wait_for(lambda: any(isinstance(e, StepFinished) for _, e in modiff.store.events(run.id)))
    return run.id


def read_until(stream, words: str) -> str:
    """Lines of a stream up to and with the first that holds the words."""
    lines = []
    for line in stream:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} did not come: {lines}")


# The real engine


def test_a_prompt_becomes_a_video_and_stdout_ends_with_one_object(real):
    code, out, err = real("run", "micro", *QUICK, "--output", "clip.mp4", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert list(told) == ["run", "status", "output", "seconds", "stages"]
    assert told["status"] == "done"
    assert told["output"] == str(real.folder / "clip.mp4")
    names = [stage["name"] for stage in told["stages"]]
    assert names == ["load", "text_encode", "denoise", "decode", "mux"]
    assert told["seconds"] >= sum(stage["seconds"] for stage in told["stages"]) - 0.01
    frames, _ = imageio_ffmpeg.count_frames_and_secs(told["output"])
    assert frames == 5
    assert "(cold engine): " in err
    assert "denoise: step 2/2" in err
    assert "\x1b" not in err
    assert real.data("show", told["run"][:8])["output"] == told["output"]


def test_stdout_is_the_path_and_the_name_is_the_runs_own(real):
    code, out, err = real(
        "run", "micro", *QUICK, "--seed", "7", "--negative-prompt", "a green star"
    )
    assert code == 0, err
    (run, *_) = real.data("runs", "--limit", "1")["runs"]
    assert out == f"{real.folder / ('modiff-' + run['run'])}.mp4\n"
    assert Path(out.strip()).stat().st_size > 0
    spec = real.data("show", run["run"])["spec"]
    assert (spec["seed"], spec["negative_prompt"]) == (7, "a green star")


def test_quiet_is_quiet(real):
    code, out, err = real("run", "micro", *QUICK, "--quiet", "--prompt", "a cat")
    assert (code, err) == (0, "")
    assert out.endswith(".mp4\n")


def test_words_that_the_micro_model_does_not_know_are_named_in_one_line(real):
    prompts = ("--prompt", "a large Cat\x1b[31m on a circle", "--negative-prompt", "blurry cat")
    code, _, err = real("run", "micro", *QUICK, *prompts)
    assert code == 0
    (warning,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "\x1b" not in warning
    assert warning.split(": ")[-1] == "cat, 31m, blurry"


def test_the_commands_of_the_page_about_outputs(real):
    for arguments in commands_of("outputs.md", "commands"):
        code, _, err = real(*arguments)
        assert code == 0, err
    shown = {"star.mp4": "h264", "star.gif": "gif", "master.mkv": "ffv1", "small.mp4": "hevc"}
    for name, codec in shown.items():
        meta = next(imageio_ffmpeg.read_frames(str(real.folder / name)))
        assert (meta["codec"].rstrip(","), meta["size"]) == (codec, (64, 64))
    runs = real.store.runs(limit=4)
    computed = [
        sum(
            link.source == "computed" and link.stage == "step"
            for link in real.store.links_of(run.id)
        )
        for run in runs
    ]
    assert computed == [0, 0, 0, 20]


def commands_of(page: str, mark: str) -> list[list[str]]:
    """The arguments of each `modiff ...` below a mark of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n```sh\n(.*?)```", text, re.S)
    assert found is not None
    lines = [shlex.split(line) for line in found[1].splitlines()]
    assert {command for command, *_ in lines} == {"modiff"}
    return [arguments for _, *arguments in lines]


def test_the_commands_of_the_page_about_videos(real):
    said = []
    for arguments in commands_of("pictures.md", "commands"):
        code, out, err = real(*arguments)
        assert code == 0, err
        said.append((out, err))
    _, (_, made), (plan, _), (still, _), (_, smaller) = said
    assert "strength 0.6 at shift 3: 12 of 20 steps, from sigma 0.82" in made
    assert re.search(r"^encode +stored +cpu +walk.mp4, into latents$", plan, re.M)
    assert any(line.endswith("scaled to 32x32") for line in smaller.splitlines())
    frame = Path(still.strip()) / "00000.png"
    shown = real.data("show", str(frame))
    assert (shown["spec"]["frames"], shown["output"]) == (1, still.strip())


def test_the_commands_of_the_page_about_pictures(real):
    said = []
    *_, between = commands_of("micro.md", "pictures")
    for arguments in (*commands_of("pictures.md", "commands with pictures"), between):
        given = [str(ROOT / each) if each.startswith("examples/") else each for each in arguments]
        code, out, err = real(*given)
        assert code == 0, err
        said.append((out, err))
    (_, made), (plan, _), (_, then), (_, last) = said
    assert "last_image: red-circle-to.png, 64x64" in last.splitlines()
    assert "image: red-circle.png, 64x64" in made.splitlines()
    stored = [line.split()[0] for line in plan.splitlines() if " stored " in line]
    assert stored == ["image_encode", "encode"]
    (first, second, _) = real.store.runs(limit=3)[::-1]
    assert f"image: left-last.png, 64x64; made by run {first.id}" in then.splitlines()
    assert second.note == f"goes on from the last frame of {first.id}"


def test_an_output_that_exists_is_kept_unless_told_otherwise(real):
    (real.folder / "mine.mp4").write_text("mine")
    code, out, err = real("run", "micro", *QUICK, "--output", "mine.mp4")
    assert (code, out) == (2, "")
    assert "already there" in err
    assert (real.folder / "mine.mp4").read_text() == "mine"
    code, _, err = real("run", "micro", *QUICK, "--output", "mine.mp4", "--overwrite")
    assert code == 0, err
    assert imageio_ffmpeg.count_frames_and_secs(str(real.folder / "mine.mp4"))[0] == 5


def test_doctor_examines_this_machine(real):
    code, out, err = real.begin("doctor", "--json")
    told = json.loads(out)
    assert (code, err) == (0 if told["ok"] else 1, "")
    names = [section["name"] for section in told["sections"]]
    assert {"versions", "devices", "attention", "ffmpeg", "store"} <= set(names)


# Cancelling


def test_ctrl_c_cancels_the_run_and_waits_for_the_engine(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "forever", "--json")
    run_id = wait_for_running(modiff)
    viewer.send_signal(signal.SIGINT)
    out, err = viewer.communicate()
    assert viewer.returncode == 130
    told = json.loads(out)
    assert (told["run"], told["status"], told["output"]) == (run_id, "cancelled", None)
    assert modiff.store.run(run_id).status == "cancelled"
    assert f"cancelling run {run_id}" in err
    ended = (
        f"run {run_id} cancelled in denoise, after step 1 of 1; `modiff resume {run_id}` goes on"
    )
    assert ended in err
    assert modiff.engine.poll() is None


def test_ctrl_c_cancels_a_run_that_still_waits(modiff):
    modiff("run", "micro", "--prompt", "forever", "--detach")
    viewer = modiff.start("run", "micro", "--prompt", "steps 1")
    read_until(viewer.stderr, "(1 run is ahead of it)")
    viewer.send_signal(signal.SIGINT)
    _, err = viewer.communicate()
    assert viewer.returncode == 130
    assert "cancelled before it started" in err


def test_a_second_ctrl_c_leaves_an_engine_that_does_not_answer(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "deaf", "--json")
    run_id = wait_for_running(modiff)
    viewer.send_signal(signal.SIGINT)
    read_until(viewer.stderr, "cancelling")
    viewer.send_signal(signal.SIGINT)
    out, err = viewer.communicate()
    assert viewer.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert f"left run {run_id} before it stopped" in err
    assert modiff.store.cancel_requested(run_id)
    assert modiff.store.run(run_id).status == "running"


def test_cancel_from_elsewhere_ends_the_viewer(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "forever")
    run_id = wait_for_running(modiff)
    code, out, err = modiff("cancel", run_id[:9])
    assert (code, out) == (0, "")
    assert run_id in err
    _, err = viewer.communicate()
    assert viewer.returncode == 130
    assert f"run {run_id} cancelled" in err


# Leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_kills_the_viewer_leaves_the_run_alone(modiff, number):
    viewer = modiff.start("run", "micro", "--prompt", "forever")
    run_id = wait_for_running(modiff)
    viewer.send_signal(number)
    viewer.communicate()
    assert viewer.returncode == (-number if number == signal.SIGKILL else 128 + number)
    record = modiff.store.run(run_id)
    assert (record.status, record.cancel_requested) == ("running", False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_viewer_that_is_told_to_end_says_that_the_run_goes_on(modiff, number):
    viewer = modiff.start("run", "micro", "--prompt", "forever", "--json")
    run_id = wait_for_running(modiff)
    viewer.send_signal(number)
    out, err = viewer.communicate()
    assert viewer.returncode == 128 + number
    told = json.loads(out)
    assert (told["run"], told["status"], told["output"]) == (run_id, "running", None)
    assert err.endswith(f"run {run_id} goes on; modiff show {run_id}\n")


def test_engine_start_starts_one_and_finds_it_again(tmp_path):
    with modiff_in(tmp_path) as modiff:
        started = modiff.data("engine", "start")
        assert [engine.pid for engine in modiff.store.engines()] == [started["pid"]]
        assert modiff.data("engine", "start")["id"] == started["id"]
        assert modiff.data("engine", "stop")["stopped"] == [
            {"id": started["id"], "pid": started["pid"]}
        ]


def test_a_suspended_engine_is_ended_by_force(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "forever", "--quiet")
    run_id = wait_for_running(modiff)
    os.kill(modiff.engine.pid, signal.SIGSTOP)
    told = modiff.data("engine", "stop", "--force")
    assert [each["pid"] for each in told["stopped"]] == [modiff.engine.pid]
    out, _ = viewer.communicate()
    assert (viewer.returncode, out) == (1, "")
    assert modiff.store.run(run_id).status == "interrupted"


@pytest.mark.parametrize("modiff", [begun_engine], indirect=True, ids=[""])
def test_a_run_on_an_engine_of_another_environment_says_so(modiff):
    code, _, err = modiff("run", "micro", "--prompt", "steps 1")
    assert code == 0
    assert "the engine was started" not in err
    modiff.environment["OMP_NUM_THREADS"] = "77"
    code, _, err = modiff("run", "micro", "--prompt", "steps 1")
    assert code == 0
    assert (
        err.count(
            "the engine was started with another OMP_NUM_THREADS, which holds for this run too"
        )
        == 1
    )


def test_nohup_keeps_the_viewer(modiff):
    viewer = modiff.start(
        "run",
        "micro",
        "--prompt",
        "forever",
        ignored=[signal.SIGHUP],
    )
    run_id = wait_for_running(modiff)
    viewer.send_signal(signal.SIGHUP)
    modiff("cancel", run_id)
    viewer.communicate()
    assert viewer.returncode == 130


def test_detach_prints_the_id_and_leaves(modiff):
    code, out, err = modiff("run", "micro", "--prompt", "forever", "--detach")
    assert (code, err.count("warning: ")) == (0, 1)
    run_id = out.strip()
    told = modiff.data("run", "micro", "--prompt", "steps 1", "--detach", "--quiet")
    assert (told["status"], told["output"]) == (
        "queued",
        f"{modiff.folder / ('modiff-' + told['run'])}.mp4",
    )
    wait_for(lambda: modiff.store.run(run_id).status == "running")
    (engine,) = modiff.data("engine", "status")["engines"]
    assert (engine["pid"], engine["run"]) == (modiff.engine.pid, run_id)


def test_a_reader_that_leaves_is_no_error(modiff):
    for _ in range(2):
        modiff("run", "micro", "--prompt", "steps 1", "--detach")
    read, write = os.pipe()
    os.close(read)
    viewer = modiff.start("runs", stdout=write)
    os.close(write)
    _, err = viewer.communicate()
    assert (viewer.returncode, err) == (0, "")


def test_a_prompt_in_any_script_is_shown_under_any_locale(modiff):
    modiff.environment["PYTHONIOENCODING"] = "latin-1"
    _, out, _ = modiff(
        "run", "micro", "--prompt", "steps 1", "--set", "negative_prompt=星", "--json"
    )
    code, shown, err = modiff.begin("show", json.loads(out)["run"])
    assert (code, err) == (0, "")
    assert 'negative_prompt = "\\u661f"' in shown


# Death of the engine


def test_the_death_of_the_engine_fails_the_run_and_says_how_to_go_on(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "forever", "--seed", "3", "--json")
    run_id = wait_for_running(modiff)
    modiff.engine.kill()
    modiff.engine.wait()
    out, err = viewer.communicate()
    assert viewer.returncode == 1
    told = json.loads(out)
    assert (told["run"], told["status"]) == (run_id, "failed")
    assert str(modiff.engine.pid) in told["error"]
    assert told["error"] in err
    assert "to run it again: modiff run micro --prompt forever --seed 3 --json" in err
    assert modiff.store.run(run_id).status == "interrupted"


def test_stopping_the_engine_interrupts_its_run(modiff):
    viewer = modiff.start("run", "micro", "--prompt", "forever", "--quiet")
    run_id = wait_for_running(modiff)
    assert modiff.data("engine", "stop")["stopped"][0]["pid"] == modiff.engine.pid
    out, err = viewer.communicate()
    assert (viewer.returncode, out, err.count("\n")) == (1, "", 1)
    assert "the engine was stopped" in err
    assert modiff.store.run(run_id).status == "interrupted"
    assert modiff.data("engine", "status")["engines"] == []


def test_a_run_that_fails_tells_why(modiff):
    code, out, err = modiff("run", "micro", "--prompt", "raise RunFailed", "--json")
    told = json.loads(out)
    assert (code, told["status"], told["output"]) == (1, "failed", None)
    assert told["error"] == "latents are not finite at step 3"
    assert f"modiff: run {told['run']} failed: latents are not finite at step 3" in err


def test_an_engine_that_cannot_start_leaves_nothing_queued(tmp_path):
    broken = "import sys\nif 'engine.process.worker' in sys.orig_argv:\n    raise SystemExit('no luck')\n"
    (tmp_path / "sitecustomize.py").write_text(broken)
    with modiff_in(tmp_path) as modiff:
        modiff.launch = ()
        modiff.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
        for options in ((), ("--detach",)):
            code, out, err = modiff("run", "micro", "--json", *options)
            told = json.loads(out)
            assert (code, told["status"]) == (1, "failed")
            assert "the engine did not start" in told["error"]
            assert told["error"] in err
            assert "Traceback" not in err
            assert modiff.store.run(told["run"]).status == "cancelled"


# On a terminal


def on_terminal(modiff: Modiff, *arguments: str, ends_at: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, and what the terminal on stderr received; the process is told to end once that has the text
    `ends_at`."""
    master, slave = pty.openpty()
    modiff.environment |= {"TERM": "xterm-256color", "COLUMNS": "100"}
    viewer = modiff.start(*arguments, stderr=slave)
    os.close(slave)
    shown = b""
    # Linux reports an error where others report the end, once nobody has the terminal open.
    with os.fdopen(master, "rb", buffering=0) as terminal, suppress(OSError):
        while chunk := terminal.read(65536):
            shown += chunk
            if ends_at and ends_at.encode() in shown:
                viewer.terminate()
                ends_at = ""
    out, _ = viewer.communicate()
    return viewer.returncode, out, shown.decode()


def test_a_terminal_gets_a_live_line_and_its_cursor_back(modiff):
    code, out, shown = on_terminal(modiff, "run", "micro", "--prompt", "steps 3")
    assert code == 0
    assert out.endswith(".mp4\n")
    assert "  denoise      0.00 s\r\n" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_a_terminal_that_hangs_up_ends_the_viewer_only(modiff):
    master, slave = pty.openpty()
    modiff.environment |= {"TERM": "xterm-256color"}
    viewer = modiff.start("run", "micro", "--prompt", "forever", stdout=slave, stderr=slave)
    os.close(slave)
    wait_for_running(modiff)
    viewer.send_signal(signal.SIGSTOP)  # so that it finds both at once
    os.close(master)
    viewer.send_signal(signal.SIGHUP)
    viewer.send_signal(signal.SIGCONT)
    assert viewer.wait() == 128 + signal.SIGHUP
    assert modiff.store.runs(limit=1)[0].status == "running"
    assert list((modiff.folder / "store" / "logs").glob("modiff-*.log")) == []


def test_a_killed_viewer_gives_the_terminal_back(modiff):
    forever = ("run", "micro", "--prompt", "forever")
    code, _, shown = on_terminal(modiff, *forever, ends_at="denoise")
    assert code == 128 + signal.SIGTERM
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert modiff.store.runs(limit=1)[0].status == "running"
