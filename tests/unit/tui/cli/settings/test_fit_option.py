"""`--fit`: what is told, that what it says to set does fit, and what is refused."""

from __future__ import annotations

import json
import shlex

import pytest

from tui.cli.main import main

SMALL = [
    word
    for setting in ("width=32", "height=32", "frames=9", "components.denoiser.device=cuda")
    for word in ("--set", setting)
]
# beside the half of a GB that is assumed for the process: what two blocks and the work of one take
LIMIT = "0.512"


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert main([*arguments]) == code
    return capsys.readouterr()


def fit_of(capsys: pytest.CaptureFixture[str], limit: str, *arguments: str) -> dict:
    out, _ = told(capsys, "plan", "micro", "--fit", limit, *SMALL, *arguments, "--json")
    return json.loads(out)["fit"]


def test_the_command_that_it_prints_fits(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = told(capsys, "plan", "micro", "--fit", LIMIT, *SMALL)
    (line,) = (line for line in out.splitlines() if line.startswith("apply it:"))
    words = shlex.split(line.partition(":")[2])
    assert words[:3] == ["modiff", "run", "micro"]
    assert words[3 : 3 + len(SMALL)] == SMALL
    added = words[3 + len(SMALL) :]
    assert added
    found = fit_of(capsys, LIMIT, *added)
    assert (found["options"], found["misses"], found["settings"]) == ([], [], {})


def test_all_that_was_looked_at_is_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit_of(capsys, LIMIT)
    limit = found["limits"]["cuda:0"]
    assert limit == 512_000_000
    assert found["needed_bytes"]["denoise"]["cuda:0"] > limit
    chosen = [option for option in found["options"] if option["is_chosen"]]
    assert chosen
    assert all(option["needed_bytes"]["cuda:0"] <= limit for option in chosen)
    assert found["settings"] == {k: v for each in chosen for k, v in each["settings"].items()}
    assert found["smaller"] is None


def test_where_nothing_fits_it_says_so_and_a_run_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = told(capsys, "plan", "micro", "--fit", "0.001", *SMALL)
    assert "denoise: its work alone needs" in out
    assert out.splitlines()[-1] == "nor does a smaller size or fewer frames"
    _, err = told(capsys, "run", "micro", "--fit", "0.001", *SMALL, code=1)
    assert "nothing makes" in err


@pytest.mark.parametrize("limit", ["abc", "0", "inf", "nan"])
def test_what_is_no_size_is_refused(capsys: pytest.CaptureFixture[str], limit: str) -> None:
    _, err = told(capsys, "plan", "micro", "--fit", limit, code=2)
    assert f"{limit!r} is no size; expected GB" in err
