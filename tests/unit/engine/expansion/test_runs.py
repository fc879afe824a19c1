"""Runs that have their prompt expanded: once, whatever becomes of them later, and read before the first step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import client
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.errors import ComponentError
from engine.output.mark import read_mark
from engine.output.reading import comment_of
from engine.process.version import installed_version
from engine.reports import Control
from engine.runner import Runner
from engine.runs.expanded import Expanded, expanded_prompt
from engine.runs.verify import verify
from presets.encoding import decode_spec, encode_spec
from presets.errors import PresetError
from presets.expansion import settled
from presets.library.loading import load_preset, override
from presets.spec.run import RunSpec
from store.blobs.blobs import digest_of
from store.bundle.exporting import export_bundle
from store.bundle.importing import import_bundle
from store.errors import StoreError
from store.index.index import open_index
from store.lineage.events import Event, Message, StageStarted
from store.lineage.records import Segment
from store.store import Store, open_store
from tests.executing import ENGINE, SMALL, execute, plan_in
from tests.servers.language_server import LanguageServer, language_server, plain, refused

SEEDS = itertools.count(7000)
TEXT = "a small yellow star moves up over a black background"
ANSWER = f"<think>hm</think>Rewritten prompt: {TEXT}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with (
        open_store(tmp_path_factory.mktemp("store")) as opened,
        opened.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        yield opened


@pytest.fixture(scope="module")
def runner(store: Store) -> Runner:
    return Runner(store)


@pytest.fixture
def server() -> Iterator[LanguageServer]:
    with language_server(plain(ANSWER)) as opened:
        yield opened


def spec_of(url: str, *overrides: str) -> RunSpec:
    """A run whose prompt nobody has expanded yet."""
    number = next(SEEDS)
    return load_preset(
        "micro",
        [
            *SMALL,
            "scheduler.steps=2",
            "guidance.scale=1",
            "output.kinds=['latents']",
            f"prompt=star number {number}",
            "expansion.enabled=true",
            f"components.prompt_expander.url={url}",
            "components.prompt_expander.options={retries=0}",
            *overrides,
        ],
    )


def submitted(
    runner: Runner, folder: Path, spec: RunSpec, *, stop_at: int | None = None
) -> tuple[str, list[Event]]:
    output = str(folder / "{run}.safetensors")
    run_id = client.submit(runner.store, spec, output=output, stop_at=stop_at)
    return run_id, execute(runner, run_id)


def expanded(store: Store, run_id: str) -> Expanded:
    found = expanded_prompt(store, store.run(run_id), store.links_of(run_id))
    assert found is not None
    return found


def calls(server: LanguageServer) -> int:
    return sum(request.path.endswith("/chat/completions") for request in server.asked)


def warnings(events: list[Event]) -> list[str]:
    return [
        event.text for event in events if isinstance(event, Message) and event.level == "warning"
    ]


def test_the_text_is_stored_with_all_that_it_came_from(
    runner: Runner, server: LanguageServer, tmp_path: Path
) -> None:
    store = runner.store
    spec = spec_of(server.url, "expansion.template=film-en", "expansion.seed=5")
    run_id, events = submitted(runner, tmp_path, spec)
    assert plan_in(events).stages["expand"] == "compute"
    order = [event.stage for event in events if isinstance(event, StageStarted)]
    assert order.index("expand") < order.index("text_encode")
    assert f"tiny-llm expanded the prompt: {TEXT}" in [
        e.text for e in events if isinstance(e, Message)
    ]
    found = expanded(store, run_id)
    assert (found.text, found.is_edited) == (TEXT, False)
    answer = found.answer
    assert answer is not None
    assert (answer.raw, answer.model, answer.template, answer.seed) == (
        ANSWER,
        "tiny-llm",
        "film-en",
        5,
    )
    asked = server.asked[-1].body["messages"]
    assert asked[0]["content"].startswith("You are a film director")
    assert asked[1] == {"role": "user", "content": spec.prompt}
    kinds = {link.stage: link for link in store.links_of(run_id)}
    assert kinds["expanded"].digest == digest_of(TEXT.encode())
    assert {"expand", "expanded", "text", "step"} == set(kinds)


def test_it_is_as_if_the_text_had_been_typed(
    runner: Runner, server: LanguageServer, tmp_path: Path
) -> None:
    store = runner.store
    run_id, _ = submitted(runner, tmp_path, spec_of(server.url, "seed=77"))
    typed = load_preset(
        "micro",
        [
            *SMALL,
            "scheduler.steps=2",
            "guidance.scale=1",
            "output.kinds=['latents']",
            f"prompt={TEXT}",
            "seed=77",
        ],
    )
    other, events = submitted(runner, tmp_path, typed)
    assert plan_in(events).reused_steps == 2
    assert "expand" not in plan_in(events).stages
    assert store.run(run_id).latents == store.run(other).latents


def test_it_is_never_written_again_and_needs_no_server(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODIFF_CONFIG_DIR", str(tmp_path / "config"))
    template = tmp_path / "config" / "templates" / "mine.toml"
    template.parent.mkdir(parents=True)
    template.write_text('instructions = "Say it longer."')
    store = runner.store
    with language_server(plain(ANSWER)) as server:
        spec = spec_of(server.url, "expansion.template=mine")
        run_id, _ = submitted(runner, tmp_path, spec)
        assert server.asked[-1].body["messages"][0]["content"] == "Say it longer."
    template.unlink()
    spec = decode_spec(store.run(run_id).spec_json)
    # a replay; a branch that goes on otherwise; a run that is taken up again
    again, events = submitted(runner, tmp_path, spec)
    assert plan_in(events).reused_steps == 2
    branch = client.branch(
        store, run_id, at=1, overrides=["guidance.scale=3"], output=str(tmp_path / "b.safetensors")
    )
    execute(runner, branch)
    assert {expanded(store, each).text for each in (run_id, again, branch)} == {TEXT}
    with open_index(store.root) as index:
        control = Control(lambda event: None, lambda: None)
        verdict = verify(store, store.run(run_id), Descriptions(index), Residents, control)
    assert verdict.identical


def test_a_file_carries_the_text(runner: Runner, server: LanguageServer, tmp_path: Path) -> None:
    run_id, _ = submitted(runner, tmp_path, spec_of(server.url))
    mark = read_mark(comment_of(Path(runner.store.run(run_id).output)))
    assert mark is not None
    told = mark.spec()
    assert (told.expansion.text, told.components.prompt_expander.url) == (TEXT, "")
    # what it says makes the same, and asks nobody
    other, events = submitted(runner, tmp_path, told)
    assert plan_in(events).reused_steps == 2
    assert runner.store.run(other).latents == runner.store.run(run_id).latents
    assert calls(server) == 1


def test_another_seed_asks_anew(runner: Runner, server: LanguageServer, tmp_path: Path) -> None:
    spec = spec_of(server.url)
    submitted(runner, tmp_path, spec)
    for overrides, number in (
        ([], 1),
        (["expansion.seed=1"], 2),
        (["expansion.seed=1"], 2),
        (["expansion.temperature=0.1"], 3),
    ):
        submitted(runner, tmp_path, override(spec, overrides))
        assert calls(server) == number


def test_a_server_that_fails_fails_the_run_before_any_model_loads(
    runner: Runner, tmp_path: Path
) -> None:
    with (
        language_server(refused(401, "no")) as server,
        pytest.raises(ComponentError, match="wants a key"),
    ):
        submitted(runner, tmp_path, spec_of(server.url))
    [run] = runner.store.runs(limit=1)
    events = [event for _, event in runner.store.events(run.id)]
    assert not any("loaded" in e.text for e in events if isinstance(e, Message))
    runner.store.finish(run.id, "failed", error="wants a key")


def test_every_prompt_of_a_branch_is_expanded_before_any_is_encoded(
    runner: Runner, server: LanguageServer, tmp_path: Path
) -> None:
    before, after = spec_of(server.url), spec_of(server.url)
    run_id = client.submit(
        runner.store,
        after,
        output=str(tmp_path / "{run}.safetensors"),
        segments=[Segment(1, encode_spec(settled(before)))],
    )
    told = [
        event.stage if isinstance(event, StageStarted) else "expanded"
        for event in execute(runner, run_id)
        if isinstance(event, StageStarted)
        or (isinstance(event, Message) and "expanded the prompt" in event.text)
    ]
    assert calls(server) == 2
    stages = [each for each in told if each != "load"]
    assert stages[:4] == ["expand", "expanded", "expanded", "text_encode"]


def test_an_answer_without_a_prompt_is_not_kept(runner: Runner, tmp_path: Path) -> None:
    store = runner.store
    with language_server(plain("I'm sorry, I cannot do that."), plain(ANSWER)) as server:
        spec = spec_of(server.url)
        with pytest.raises(ComponentError, match="refuses"):
            submitted(runner, tmp_path, spec)
        [run] = store.runs(limit=1)
        store.finish(run.id, "failed", error="refuses")
        client.resume(store, run.id)
        execute(runner, run.id)
    assert expanded(store, run.id).text == TEXT


def test_where_the_preset_says_so_it_goes_on_as_typed_and_stays_so(
    runner: Runner, tmp_path: Path
) -> None:
    store = runner.store
    with language_server(refused(503, "busy"), plain(ANSWER)) as server:
        run_id, events = submitted(
            runner, tmp_path, spec_of(server.url, 'expansion.on_failure="as-typed"')
        )
        [line] = warnings(events)
        assert line.startswith("the prompt is used as typed, it could not be expanded: ")
        assert line.endswith("answers with status 503: busy")
        assert store.run(run_id).status == "done"
        assert expanded_prompt(store, store.run(run_id), store.links_of(run_id)) is None
        # the server works again; what was made without it stays what it is
        spec = decode_spec(store.run(run_id).spec_json)
        _, events = submitted(runner, tmp_path, spec)
        assert plan_in(events).reused_steps == 2
        assert calls(server) == 1


def test_a_bundle_takes_it_along(runner: Runner, tmp_path: Path) -> None:
    with language_server(plain(ANSWER)) as server:
        spec = spec_of(server.url, "components.prompt_expander.checkpoint=org/tiny-llm")
        run_id, _ = submitted(runner, tmp_path, spec)
    store = runner.store
    bundle = tmp_path / "run.modiff"
    export_bundle(store.lineage, [run_id], bundle, steps="none")
    with (
        open_store(tmp_path / "other") as other,
        other.register_engine(ENGINE, pid=os.getpid(), version=installed_version()),
    ):
        import_bundle(
            other.lineage, bundle, check_spec=decode_spec, is_trusted=True, max_bytes=1 << 20
        )
        found = expanded(other, run_id)
        assert (found.text, found.answer and found.answer.raw) == (TEXT, ANSWER)
        # it tells nobody's address, and needs none
        spec = decode_spec(other.run(run_id).spec_json)
        assert spec.components.prompt_expander.url == ""
        again = client.submit(other, spec, output=str(tmp_path / "again.safetensors"))
        execute(Runner(other, runner.residents()), again)
        assert other.run(again).latents == store.run(run_id).latents


# Read before the run


def test_a_run_that_is_reviewed_stops_before_its_first_step(
    runner: Runner, server: LanguageServer, tmp_path: Path
) -> None:
    store = runner.store
    run_id, events = submitted(runner, tmp_path, spec_of(server.url), stop_at=0)
    assert plan_in(events).stages == {"expand": "compute"}
    assert expanded(store, run_id).text == TEXT
    assert not list(tmp_path.iterdir())
    client.finish(store, run_id)
    events = execute(runner, run_id)
    assert plan_in(events).stages["expand"] != "compute"
    assert calls(server) == 1
    assert store.run(run_id).latents


def test_the_answers_to_it(runner: Runner, tmp_path: Path) -> None:
    store = runner.store
    with language_server(plain("one star"), plain("two stars"), plain("three stars")) as server:
        spec = spec_of(server.url)
        run_id, _ = submitted(runner, tmp_path, spec, stop_at=0)
        client.review(store, run_id, again=True)
        execute(runner, run_id)
        assert expanded(store, run_id).text == "two stars"
        assert store.run(run_id).stop_at == 0
        client.review(store, run_id, text="a red star")
        execute(runner, run_id)
        found = expanded(store, run_id)
        assert (found.text, found.is_edited) == ("a red star", True)
        assert found.answer is not None
        assert found.answer.raw == "two stars"
        assert store.run(run_id).stop_at is None
        with pytest.raises(StoreError, match="does not wait"):
            client.review(store, run_id)
        # what was edited is what a branch goes on from; another prompt is another matter
        assert (
            client.branched(store, run_id, at=1, overrides=["guidance.scale=3"]).spec.expansion.text
            == "a red star"
        )
        other = client.branched(store, run_id, at=0, overrides=["prompt=a moon"]).spec
        assert (other.expansion.text, other.expansion.enabled) == ("", True)

        typed, _ = submitted(runner, tmp_path, spec_of(server.url), stop_at=0)
        client.review(store, typed, as_typed=True)
        execute(runner, typed)
        assert expanded_prompt(store, store.run(typed), store.links_of(typed)) is None


def test_one_that_fell_back_can_be_tried_again(runner: Runner, tmp_path: Path) -> None:
    store = runner.store
    with language_server(refused(503, "busy"), plain(ANSWER)) as server:
        spec = spec_of(server.url, 'expansion.on_failure="as-typed"')
        run_id, _ = submitted(runner, tmp_path, spec, stop_at=0)
        assert store.run(run_id).status == "done"
        client.review(store, run_id, again=True)
        execute(runner, run_id)
    assert expanded(store, run_id).text == TEXT
    assert decode_spec(store.run(run_id).spec_json).expansion.seed == spec.expansion.seed


def test_what_cannot_be_expanded_is_refused_before_it_is_queued(
    store: Store, server: LanguageServer
) -> None:
    with pytest.raises(PresetError, match="cannot stop at step 0"):
        client.submit(store, load_preset("micro"), stop_at=0)
    with pytest.raises(PresetError, match="prompt: there is nothing to expand"):
        client.submit(store, spec_of(server.url, "prompt="))
    with pytest.raises(PresetError, match="no template is named"):
        client.submit(store, spec_of(server.url, "expansion.template=t2v-fr"))
    with pytest.raises(ComponentError, match=r"prompt_expander\.url: is empty"):
        client.submit(store, spec_of(""))


def test_a_plan_knows_whether_it_is_new(
    runner: Runner, server: LanguageServer, tmp_path: Path
) -> None:
    spec = spec_of(server.url)
    assert client.is_expansion_new(runner.store, spec)
    submitted(runner, tmp_path, spec, stop_at=0)
    assert not client.is_expansion_new(runner.store, spec)
    assert not client.is_expansion_new(runner.store, load_preset("micro"))


def test_what_is_cut_off_is_told(runner: Runner, tmp_path: Path) -> None:
    with language_server(plain("star " * 600, reason="length")) as server:
        _, events = submitted(runner, tmp_path, spec_of(server.url), stop_at=0)
    ended, cut = warnings(events)
    assert "raise that, and change expansion.seed" in ended
    assert cut.startswith("the expanded prompt has ")
    assert "the text encoder reads 512" in cut
