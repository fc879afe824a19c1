"""What people type to have a prompt expanded, with the engine's work done in this process."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from engine.errors import EngineError
from engine.process.version import installed_version
from engine.runner import Runner
from store.store import Store, open_store
from tests.executing import ENGINE, execute
from tests.servers.language_server import LanguageServer, language_server, plain
from tui.cli.main import main

PAGE = Path(__file__).parents[5] / "docs" / "expansion.md"
TEXT = "a small yellow star moves up over a black background"


@pytest.fixture(scope="module")
def runner() -> list[Runner]:
    """At most one, so that models are loaded once."""
    return []


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: list[Runner]) -> Iterator[Store]:
    """The user's store; whoever looks for an engine finds the queue done."""
    monkeypatch.chdir(tmp_path)

    def work(store: Store) -> None:
        residents = runner[0].residents() if runner else None
        own = Runner(store, residents)
        runner[:] = [own]
        with store.register_engine(ENGINE, pid=os.getpid(), version=installed_version()):
            for run in store.queued():
                try:
                    execute(own, run.id)
                except EngineError as error:
                    store.finish(run.id, "failed", error=str(error))

    for place in ("engine.process.launch.ensure_engine", "engine.runs.following.ensure_engine"):
        monkeypatch.setattr(place, work)
    with open_store() as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with language_server(plain(f"<think>hm</think>{TEXT}")) as opened:
        yield opened


def answering(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """As if somebody sat at a terminal and typed these."""
    typed = iter(words)
    monkeypatch.setattr("tui.cli.following.review._is_somebody_there", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: next(typed))


def expand(server: LanguageServer, *more: str) -> list[str]:
    settings = [
        "scheduler.steps=1",
        "guidance.scale=1",
        'output.kinds=["latents"]',
        f"components.prompt_expander.url={server.url}",
    ]
    sets = [word for each in settings for word in ("--set", each)]
    return ["run", "micro", "--prompt", "a star", "--expand", *sets, *more]


def test_the_commands_of_the_page(
    store: Store, server: LanguageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"<!-- commands -->\n```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    told: dict[str, str] = {}
    for line in found[1].splitlines():
        line = line.replace("http://127.0.0.1:8080/v1", server.url)
        words = shlex.split(line, comments=True)[1:]
        if words[:2] == ["presets", "save"]:
            words += ["--set", "scheduler.steps=2"]
        capsys.readouterr()
        assert main(words) == 0, line
        told[words[0]] = "".join(capsys.readouterr())
    assert f"the prompt is sent to {server.url}" in told["plan"]
    assert re.search(rf"expanded +{TEXT}\n", told["show"])
    assert "tiny-llm, template t2v-en, seed 0" in told["show"]
    called = [request for request in server.asked if request.path.endswith("completions")]
    assert [request.body["seed"] for request in called] == [0, 1]


def test_all_is_told_as_json(
    store: Store, server: LanguageServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(expand(server, "--json")) == 0
    run_id = json.loads(capsys.readouterr().out)["run"]
    assert main(["show", run_id, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["expansion"]
    assert told == {
        "text": TEXT,
        "edited": False,
        "model": "tiny-llm",
        "provider": "openai",
        "template": "t2v-en",
        "seed": 0,
        "temperature": 0.7,
        "top_p": 0.95,
        "raw": f"<think>hm</think>{TEXT}",
        "cut": False,
    }


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a"], TEXT),
        (["r", "a"], TEXT),
        (["e"], "a large star"),
        (["m"], None),
        (["nonsense", "e"], "a large star"),
    ],
)
def test_the_answers(
    words: list[str],
    text: str | None,
    store: Store,
    server: LanguageServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answering(monkeypatch, *words)
    monkeypatch.setattr(click, "edit", lambda shown, extension: "a large star\n")
    assert main(expand(server, "--review", "--json")) == 0
    out, err = capsys.readouterr()
    assert f"\n{TEXT}\n" in err
    told = json.loads(out)
    assert told["status"] == "done"
    assert Path(told["output"]).exists()
    assert main(["show", told["run"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["expansion"]
    assert (found and found["text"]) == text
    assert [run.id for run in store.runs(limit=9)] == [told["run"]]


def test_one_that_is_left_waits_and_is_asked_for_again(
    store: Store,
    server: LanguageServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answering(monkeypatch, "q", "e", "a")
    monkeypatch.setattr(click, "edit", lambda shown, extension: shown)
    assert main(expand(server, "--review")) == 130
    [run] = store.runs(limit=9)
    assert f"run {run.id} waits; `modiff review {run.id}` asks again" in capsys.readouterr().err
    assert main(["runs"]) == 0
    assert "to review" in capsys.readouterr().out
    assert main(["show", run.id]) == 0
    assert f"`modiff review {run.id}` asks for it" in capsys.readouterr().out
    assert main(["review", run.id]) == 0
    assert "nothing was changed" in capsys.readouterr().err
    assert store.run(run.id).latents
    assert main(["review", run.id]) == 1
    assert "does not wait for its prompt to be read" in capsys.readouterr().err


def test_a_review_that_nobody_can_answer_tells_what_to_do_instead(
    store: Store,
    server: LanguageServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as at_a_terminal:
        answering(at_a_terminal, "q")
        assert main(expand(server, "--review")) == 130
    [run] = store.runs(limit=9)
    capsys.readouterr()
    assert main(["review", run.id, "--json"]) == 2
    out, err = capsys.readouterr()
    assert f"asked in a terminal, and there is none; `modiff finish {run.id}`" in err
    told = json.loads(out)
    assert (told["run"], told["status"]) == (run.id, "failed")
    assert main(["finish", run.id]) == 0
    capsys.readouterr()
    assert main(["review", run.id, "--json"]) == 1
    out, err = capsys.readouterr()
    line = f"run {run.id} does not wait for its prompt to be read; `modiff show {run.id}` tells how it stands"
    assert err == f"modiff: {line}\n"
    assert (json.loads(out)["run"], json.loads(out)["error"]) == (run.id, line)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--review"], "--review asks in a terminal, and there is none"),
        (["--review", "--detach"], "--review asks, and --detach leaves"),
    ],
)
def test_without_anybody_to_ask_nothing_is_queued(
    words: list[str],
    why: str,
    store: Store,
    server: LanguageServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(expand(server, *words)) == 2
    assert why in capsys.readouterr().err
    assert store.runs(limit=9) == []


def test_there_must_be_something_to_review(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answering(monkeypatch)
    assert main(["run", "micro", "--review"]) == 2
    assert (
        "--review shows an expanded prompt, and this run has none; add --expand"
        in capsys.readouterr().err
    )


def test_a_key_of_a_server_is_told_nowhere(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    secret = "sk-nobody-may-read-this"
    monkeypatch.setenv("LLM_KEY", secret)
    key = ["--set", "components.prompt_expander.api_key_env=LLM_KEY"]
    with language_server(plain(TEXT)) as server:
        assert main(expand(server, *key, "--json")) == 0
        run_id = json.loads(capsys.readouterr().out)["run"]
        assert main(["plan", *expand(server, *key)[1:], "--set", "expansion.seed=2"]) == 0
        out, err = capsys.readouterr()
        assert f"the prompt is sent to {server.url}, with the key in $LLM_KEY" in err
        for command in (["show", run_id], ["show", run_id, "--json"], ["plan", "micro"]):
            assert main(command) == 0
        assert main(["store", "export", run_id, "--output", "run.modiff"]) == 0
        assert server.asked[-1].headers["Authorization"] == f"Bearer {secret}"
    said = out + err + "".join(capsys.readouterr())
    assert secret not in said
    for path in [*store.root.rglob("*"), *tmp_path.rglob("*")]:
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
