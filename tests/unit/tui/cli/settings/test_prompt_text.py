"""Prompts that are read from files."""

from __future__ import annotations

import os

import pytest

from presets.encoding import decode_spec
from presets.spec.values import MAX_PROMPT_BYTES
from tui.cli.main import main


def queued(store) -> list[tuple[str, str]]:
    """The prompts of the runs, in their order."""
    runs = sorted(store.runs(limit=100), key=lambda run: run.created_ns)
    specs = [decode_spec(run.spec_json) for run in runs]
    return [(spec.prompt, spec.negative_prompt) for spec in specs]


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"a small star\n", "a small star"),
        (b"\xef\xbb\xbfa small star\r\n", "a small star"),
        ("红色 圆\nmoves".encode(), "红色 圆\nmoves"),
        (b"@not a file", "@not a file"),
        (b"", ""),
        (b"x" * MAX_PROMPT_BYTES, "x" * MAX_PROMPT_BYTES),
    ],
)
def test_a_prompt_is_the_text_of_a_file(store, tmp_path, data, prompt):
    (tmp_path / "a prompt.txt").write_bytes(data)
    options = ("--prompt", "@a prompt.txt", "--negative-prompt", f"@{tmp_path}/a prompt.txt")
    assert main(["run", "micro", "--detach", "--quiet", *options]) == 0
    assert queued(store) == [(prompt, prompt)]


def test_every_command_that_takes_a_prompt_takes_a_file(capsys, store, tmp_path):
    (tmp_path / "star.txt").write_text("a small star")
    main(["run", "micro", "--detach", "--quiet"])
    run_id = capsys.readouterr().out.strip()
    prompt = ("--prompt", "@star.txt")
    assert main(["branch", run_id, "--at", "3", *prompt, "--detach"]) == 0
    assert main(["sweep", "micro", "--over", "seed=1", *prompt, "--detach"]) == 0
    assert main(["plan", "micro", *prompt]) == 0
    assert [given for given, _ in queued(store)][1:] == ["a small star"] * 2


def test_a_prompt_can_begin_with_an_at_sign(store):
    for option, key in (("--prompt", "@@home"), ("--set", "prompt=@home")):
        assert main(["run", "micro", "--detach", "--quiet", option, key]) == 0
    assert [given for given, _ in queued(store)] == ["@home"] * 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("@", "expected the name of a file after @"),
        ("@gone.txt", "cannot read the prompt from gone.txt (No such file or directory)"),
        ("@.", "(Is a directory)"),
        (f"@{'星' * 200}", "(File name too long)"),
        ("@large.txt", f"large.txt has more than the {MAX_PROMPT_BYTES} bytes"),
        ("@latin.txt", "latin.txt is not text in UTF-8 (byte 0xe9 at 3)"),
        ("@nul.txt", "expected text without NUL characters"),
        ("@/dev/zero", "/dev/zero has more than"),
        ("@\x1b]0;title\x07", "cannot read the prompt from"),
    ],
)
def test_a_file_that_holds_no_prompt_is_refused_in_words(capsys, store, tmp_path, given, words):
    (tmp_path / "large.txt").write_bytes(b"x" * (MAX_PROMPT_BYTES + 1))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    for option in ("--prompt", "--negative-prompt"):
        assert main(["run", "micro", option, given]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert "\x1b" not in err
    assert queued(store) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(capsys, store, tmp_path):
    path = tmp_path / "mine.txt"
    path.touch(0o000)
    assert main(["run", "micro", "--prompt", f"@{path}"]) == 2
    assert "(Permission denied)" in capsys.readouterr().err
