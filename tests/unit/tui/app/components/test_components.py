"""The components screen: components and their health, models, engines, the doctor, inspecting. No torch, no engine."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from textual.events import Key
from textual.widgets import Tab, Tabs
from textual.widgets._tabs import Underline

from engine.checkpoints.locate import BUILTIN_MICRO, locate
from engine.process.version import installed_version
from engine.remote.asking import Asked
from engine.remote.contract import Load
from engine.remote.hosts import KnownHost, add, known_hosts
from store.database.database import immediate
from store.lineage.records import EngineRecord
from store.store import open_store
from tests.unit.tui.opened_app import NARROW, notices, play, shown, until
from tui.app.app import ModiffApp
from tui.app.components import text
from tui.app.dialogs.ask import Ask, Confirm
from tui.app.dialogs.reader import Reader
from tui.app.lab import CommandFailed, Lab
from tui.app.top_line import TopLine
from tui.app.widgets.listing import Listing
from tui.describe.health import ComponentRow, Status

REPORT = {
    "ok": False,
    "sections": [
        {
            "name": "devices",
            "rows": [{"name": "cpu", "value": "2 threads", "status": "ok", "hint": ""}],
        },
        {
            "name": "attention",
            "rows": [
                {"name": "plain", "value": "1.0x", "status": "ok", "hint": ""},
                {"name": "sage", "value": "not for cpu", "status": "absent", "hint": "pip"},
                {"name": "sdpa", "value": "broken", "status": "fail", "hint": "reinstall"},
            ],
        },
    ],
}


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """What was asked of the engine."""

    def released(store):
        asked.append("release")
        return store.engines()

    asked = []
    monkeypatch.setattr(ModiffApp, "ensure_engine", lambda app: asked.append("start"))
    monkeypatch.setattr(ModiffApp, "stop_engine", lambda app: asked.append("stop"))
    monkeypatch.setattr("engine.process.launch.release_engines", released)
    return asked


@pytest.fixture
def store():
    with open_store() as opened:
        yield opened


def commands(monkeypatch, answers):
    """Commands answer with these instead of running."""
    asked = []

    async def command(lab, *arguments):
        asked.append(arguments)
        answer = answers[arguments[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(Lab, "command", command)
    return asked


def rows(pilot, name):
    listing = pilot.app.get_screen_stack("components")[0].query_one(f"#{name}", Listing)
    return {row.key: row.cells for row in listing._told}


def detail(pilot):
    return shown(pilot.app.get_screen_stack("components")[0], "#lines")


def test_lists_components_and_the_models_that_come_with_modiff(store):
    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts") and rows(pilot, "models"))
        assert rows(pilot, "parts")["vae.wan-vae"][:3] == ("VAE", "wan-vae", "modiff")
        assert rows(pilot, "parts")["attention.sage"][-1] == "○ not tried"
        vae = str(locate("vae", BUILTIN_MICRO))
        assert rows(pilot, "models")[vae][:2] == ("✓", "wan2.1-vae (custom)")
        # the detail follows the cursor
        pilot.app.screen.query_one("#parts", Listing).select("image_encoder.clip")
        await until(pilot, lambda: "components.image_encoder.device" in detail(pilot))
        await pilot.press("tab")
        await until(pilot, lambda: "fingerprint" in detail(pilot) and "wf1:" in detail(pilot))

    play("components", script)


def test_enter_opens_the_detail_over_a_narrow_screen(store):
    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts") and rows(pilot, "models"))
        assert not pilot.app.screen.query_one("#models").display
        tabs = pilot.app.screen.query_one(Tabs)  # which say the panel that is shown
        assert tabs.query_one(Underline).region in tabs.region
        assert {tab.region.height for tab in tabs.query(Tab)} == {1}
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Reader))
        assert "components.text_encoder" in shown(pilot.app.screen, "Static")
        await pilot.press("j", "G", "g", "k", "y", "escape")
        for panel in ("models", "hosts", "engines", "detail"):
            await pilot.press("]")
            await pilot.pause()
            assert pilot.app.screen.query_one(f"#{panel}").has_class("-shown")
            assert pilot.app.screen.query_one(f"#{panel}").has_focus
        await pilot.press(*"[[[[")
        await pilot.pause()
        assert pilot.app.screen.query_one("#parts").has_focus

    play("components", script, size=NARROW)


def test_the_doctor_says_what_works_and_why_it_cannot_run(store, monkeypatch):
    answers = {"doctor": REPORT}
    commands(monkeypatch, answers)

    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts"))
        await pilot.press("d")
        await until(pilot, lambda: "does not work" in detail(pilot))
        assert rows(pilot, "parts")["attention.plain"][-1] == "✓ works"
        assert rows(pilot, "parts")["attention.sage"][-1] == "– not here"
        assert rows(pilot, "parts")["attention.sdpa"][-1] == "✖ fails"
        await pilot.press("j")
        await until(pilot, lambda: "cpu 2 threads" in detail(pilot))
        answers["doctor"] = CommandFailed("no module named torch")
        await pilot.press("d")
        await until(pilot, lambda: "✖ no module named torch" in detail(pilot))

    play("components", script)


def test_a_file_and_a_folder_are_inspected(store, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    vae = locate("vae", BUILTIN_MICRO)

    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts"))
        for path, told in (
            (vae, "wan2.1-vae (custom)"),
            (tmp_path, "cannot be used"),
            (tmp_path / "absent", "no such file"),
        ):
            await pilot.press("i")
            await until(pilot, lambda: isinstance(pilot.app.screen, Ask))
            pilot.app.screen.query_one("Input").value = str(path)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, Reader))
            assert told in shown(pilot.app.screen, "Static")
            await pilot.press("escape")
        await pilot.press("i", "escape")

    play("components", script)


def test_a_model_that_is_found_twice_is_listed_once(store, monkeypatch):
    vae = locate("vae", BUILTIN_MICRO)
    monkeypatch.setenv("MODIFF_MODELS", str(vae.parent))

    async def script(pilot):
        await until(pilot, lambda: str(vae) in rows(pilot, "models"))
        await pilot.resize_terminal(90, 30)  # fills the lists again

    play("components", script)


def test_a_broken_model_is_a_row_with_its_reason_and_its_name_is_no_markup(store, own_folders):
    folder = own_folders / "models"
    folder.mkdir(exist_ok=True)
    broken = folder / "wan[b].safetensors"
    broken.write_bytes(b"no")

    async def script(pilot):
        await until(pilot, lambda: f"broken {broken}" in rows(pilot, "models"))
        assert rows(pilot, "models")[f"broken {broken}"][0] == "✖"
        await pilot.press("tab", "G")
        await until(pilot, lambda: "cannot be used" in detail(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, Reader))
        assert pilot.app.screen.query_one(".box")._border_title.plain == broken.name

    play("components", script)


def test_the_engine_is_shown_started_and_stopped(store, engine):
    async def script(pilot):
        lines = lambda: shown(pilot.app.screen, "#engine_lines")  # noqa: E731
        await until(pilot, lambda: "no engine lives" in lines())
        await pilot.press("S", "R", "m", "s")
        assert engine == ["start"]
        with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
            await until(pilot, lambda: f"process {os.getpid()}" in lines())
            await pilot.press("s")
            assert engine == ["start"]
            await pilot.press("m")
            await until(pilot, lambda: "nothing is idle" in notices(pilot.app))
            await pilot.press("S")
            await until(pilot, lambda: engine == ["start", "release", "stop"])

    play("components", script)


def test_stopping_a_busy_engine_asks(store, engine):
    store.enqueue(b"{}", preset="micro", output="o")
    lock = store.register_engine("engine1", pid=os.getpid(), version=installed_version())
    store.lease("engine1")

    async def script(pilot):
        screen = pilot.app.screen
        await until(pilot, lambda: screen.status and screen.status.running)
        for key in ("S", "R"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
            await pilot.press("escape")
        assert engine == []
        await pilot.press("S")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: engine == ["stop"])

    with lock:
        play("components", script)


def test_an_engine_that_hangs_is_ended_by_force_once_that_was_agreed(store, monkeypatch):
    asked = []

    def kill(_store):
        asked.append("kill")
        return []

    monkeypatch.setattr("engine.process.launch.kill_engines", kill)

    async def script(pilot):
        lines = lambda: shown(pilot.app.screen, "#engine_lines")  # noqa: E731
        with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
            with immediate(store.lineage) as connection:
                connection.execute("UPDATE engines SET heartbeat_ns=heartbeat_ns - 60000000000")
            await until(pilot, lambda: "F in Components ends it" in lines())
            assert "▲ engine stuck" in str(pilot.app.screen.query_one(TopLine).render())
            for key in ("escape", "y"):
                await pilot.press("F")
                await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
                assert asked == []
                await pilot.press(key)
            await until(pilot, lambda: "no engine lives" in notices(pilot.app))

    play("components", script)
    assert asked == ["kill"]


@pytest.mark.defect
def test_restart_stops_and_starts(store, monkeypatch):
    asked = []

    def stop(_store):
        asked.append("stop")

    def start(_store):
        asked.append("start")
        raise OSError("no room")

    monkeypatch.setattr("engine.process.launch.stop_engine", stop)
    monkeypatch.setattr("engine.process.launch.ensure_engine", start)

    async def script(pilot):
        with store.register_engine("engine1", pid=os.getpid(), version=installed_version()):
            await until(pilot, lambda: "process" in shown(pilot.app.screen, "#engine_lines"))
            await until(pilot, lambda: pilot.app.status and pilot.app.status.engines)
            await pilot.press("R")
            await until(pilot, lambda: any("no room" in each for each in notices(pilot.app)))

    play("components", script)
    assert asked == ["stop", "start"]


def test_the_log_and_its_absence(store, monkeypatch):
    answers = {"engine": {"path": "/x/engine-1.log", "lines": ["one", "two \x1b[31m"]}}
    asked = commands(monkeypatch, answers)

    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts"))
        await pilot.press("l")
        await until(pilot, lambda: isinstance(pilot.app.screen, Reader))
        assert "two \\x1b[31m" in shown(pilot.app.screen, "Static")
        await pilot.press("escape")
        answers["engine"] = CommandFailed("there is no log")
        await pilot.press("l")
        await until(pilot, lambda: "there is no log" in notices(pilot.app))

    play("components", script)
    assert asked[0][:2] == ("engine", "logs")


def test_what_is_typed_behind_the_key_of_the_log_waits_for_it(store, monkeypatch):
    answered = asyncio.Event()

    async def command(_lab, *_arguments):
        await answered.wait()
        return {"path": "/x/engine-1.log", "lines": ["one"]}

    monkeypatch.setattr(Lab, "command", command)

    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts"))
        for key in ("l", "2"):
            pilot.app.post_message(Key(key, key))
        await pilot.pause(0.05)
        answered.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, Reader))
        assert pilot.app.current_mode == "components"  # where 2 opens no other screen

    play("components", script)


def test_two_packages_that_claim_one_name_are_told(store, monkeypatch):
    from engine.errors import ComponentError

    def components():
        raise ComponentError("a adds the vae 'x', which b provides already")

    monkeypatch.setattr("tui.app.components.screen.components", components)

    async def script(pilot):
        await until(pilot, lambda: "a adds the vae" in detail(pilot))

    play("components", script)


def test_a_third_party_component_whose_package_is_gone():
    there = ComponentRow("vae", "x", "textual.widget:make")
    gone = ComponentRow("vae", "y", "no_such_package.part:make")
    assert text.health(there, {}) == "✓ installed"
    assert text.health(gone, {}) == "✖ is gone"


def test_an_engine_that_is_silent_is_told_by_a_mark():
    now = time.time_ns()
    engine = EngineRecord("e", 7, "host", now - 10**12, now - 17 * 10**9, "abc")
    status = Status((engine,), (), 0, "", (), is_stuck=True, other_variables=("HF_HOME",))
    lines = text.engines(status, now)
    assert lines[0].startswith("▶ host, process 7")
    assert any("▲ silent for 15" in line for line in lines)
    assert any("▲ started with another HF_HOME than this app" in line for line in lines)


def test_no_size_breaks_it(store):
    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "parts"))
        for size in ((20, 5), (8, 3), (200, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause()

    play("components", script)


def test_hosts_are_told_and_one_is_tested_on_a_key(monkeypatch):
    add("box", "http://127.0.0.1:9")
    load = {"vae": Load(busy=True, waiting=3, answered=7, seconds=1.5)}
    answers = [
        Asked(known_hosts()[0], ("vae",), 0.004, load=load),
        Asked(KnownHost(name="away", url="http://mac:1"), error="http://mac:1 does not answer"),
    ]
    monkeypatch.setattr("engine.remote.asking.ask", lambda hosts: answers)
    found = {"checks": [{"name": "health", "wrong": ""}, {"name": "frames", "wrong": "too few"}]}
    asked = commands(monkeypatch, {"serve": found})

    async def script(pilot):
        await until(pilot, lambda: rows(pilot, "hosts"))
        assert rows(pilot, "hosts") == {
            "box": ("✓", "box", "http://127.0.0.1:9", "4 ms", "busy, 2 wait", "vae"),
            "away": ("✖", "away", "http://mac:1", "", "", "does not answer"),
        }
        await pilot.press("tab", "tab")
        await until(pilot, lambda: "components.vae.url = box" in shown(pilot.app.screen, "#lines"))
        assert "7 answered in 1.50 s" in shown(pilot.app.screen, "#lines")
        await pilot.press("t")
        for words in ("1 of 2 checks passed", "wrong  frames: too few"):
            await until(pilot, lambda words=words: words in shown(pilot.app.screen, "#lines"))
        assert asked == [("serve", "--check", "http://127.0.0.1:9")]

    play("components", script)
