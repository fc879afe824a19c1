"""A command line that is copied gives the same run when it is parsed again."""

from __future__ import annotations

import shlex

import click
import pytest

from engine import client
from presets.encoding import decode_spec, encode_spec
from presets.library.loading import load_preset
from presets.library.saving import save_preset
from tui.cli.main import main
from tui.describe.runs.command_line import branch_command, command_of, run_command

SETTINGS = [
    [],
    ["seed=18446744073709551615", "fps=12"],
    ['prompt="a b\\nc; $(rm) \'q\' \\"z\\""', "negative_prompt=-x"],
    ["prompt=@file", 'negative_prompt="@@"'],
    ["prompt=12", 'prompt=""', "output.path=12.mp4"],
    ["output.path=a b.mp4", "output.overwrite=true"],
    ["scheduler.sigmas=[1.0, 0.5, 0.25]", "guidance.scale=[1.0, 2.5, 3.0]"],
    ["scheduler.steps=7", "width=128", "keep.every=3"],
    ['extensions=[{name="nag", options={scale=3.0}}]', "components.vae.dtype=bf16"],
]


@pytest.fixture
def parsed(store, monkeypatch):
    """What a command line would queue."""

    def parse(line):
        given = []
        monkeypatch.setattr(
            client, "submit", lambda store, spec, **about: given.append((spec, about)) or _stop()
        )
        words = shlex.split(line)
        assert words[0] == "modiff"
        main(words[1:])
        return given[0]

    def _stop():
        raise click.Abort

    return parse


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_run(settings, parsed):
    spec = load_preset("micro", settings)
    line = run_command(spec, "micro", load_preset("micro"))
    assert "\n" in line or line.isprintable()
    assert parsed(line)[0] == spec
    assert parsed(line)[1]["preset"] == "micro"


def test_what_is_as_in_the_preset_is_not_said():
    spec = load_preset("micro", ["seed=7", "scheduler.name=euler"])
    line = run_command(spec, "micro", load_preset("micro"))
    assert line == "modiff run micro --seed 7 --set scheduler.name=euler"


def test_a_run_of_the_store(store, parsed):
    spec = load_preset("micro", ["seed=7"])
    save_preset("mine", load_preset("micro", ["fps=9"]), extends="micro")
    run_id = client.submit(store, spec, preset="mine")
    gone = client.submit(store, spec, preset="gone")
    assert command_of(store, gone) == "modiff run micro --seed 7"
    assert command_of(store, run_id).startswith("modiff run mine ")
    assert parsed(command_of(store, run_id))[0] == spec


def test_a_run_that_was_written_somewhere_is_made_again_elsewhere(store, parsed):
    spec = load_preset("micro", ["seed=7", "output.path=a.webm", "output.overwrite=true"])
    run_id = client.submit(store, spec, preset="micro")
    line = command_of(store, run_id)
    assert line == "modiff run micro --seed 7 --set output.format=webm"
    child = client.branch(store, run_id, at=8, overrides=["guidance.scale=4.0"], output="b.webm")
    assert command_of(store, child) == f"modiff branch {run_id} --at 8 --set guidance.scale=4.0"


def test_a_branch(store, parsed):
    parent = client.submit(store, load_preset("micro", ["seed=7"]), preset="micro")
    at = client.branch(store, parent, at=8, overrides=["guidance.scale=4.0"])
    decoded = client.branch(store, parent, at="decode", overrides=["components.vae.dtype=bf16"])
    assert command_of(store, at) == f"modiff branch {parent} --at 8 --set guidance.scale=4.0"
    assert "--at decode" in command_of(store, decoded)
    for run_id, step in ((at, 8), (decoded, 20)):
        spec, about = parsed(command_of(store, run_id))
        assert spec == decode_spec(store.run(run_id).spec_json)
        assert (about["parent"], about["parent_step"]) == (parent, step)


def test_a_branch_of_which_the_parent_is_gone(store):
    spec = load_preset("micro", ["seed=7"])
    assert branch_command(spec, "p", 0, load_preset("micro")) == "modiff branch p --at 0 --seed 7"
    run_id = store.enqueue(encode_spec(spec), preset="micro", output="/v/{run}.mp4")
    assert command_of(store, run_id) == "modiff run micro --seed 7"


def test_where_a_run_is_to_stop_is_said(store, parsed):
    spec = load_preset("micro", ["seed=7"])
    run_id = client.submit(store, spec, preset="micro", stop_at=5, is_checked=True)
    line = command_of(store, run_id)
    assert line == "modiff run micro --seed 7 --stop-at 5"
    assert parsed(line) == (spec, {"preset": "micro", "stop_at": 5})
    again = store.enqueue(encode_spec(spec), preset="micro", output="o", stop_at=0)
    assert command_of(store, again) == "modiff run micro --seed 7 --review"
