"""What is found without walking each candidate is what walking it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import client
from engine.components.descriptions import Descriptions
from engine.components.unseen import Published
from engine.fit.dry_run import here, memory_of, works_of
from engine.fit.options import Option, Part, search
from engine.fit.trials import Trials, fit_of
from presets.library.loading import load_preset
from store.index.index import open_index
from store.store import Store, open_store

SIZE = ("width=32", "height=32", "frames=9")
MB = 10**6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.mark.parametrize(("quantise", "resident"), [("", 0), ("int8", 2)])
def test_blocks_that_are_solved_for_are_those_that_are_walked(
    store: Store, quantise: str, resident: int
) -> None:
    """The limit at which a number of blocks that stay is chosen is what a walk of it needs."""
    settings = ("components.denoiser.device=cuda", f"components.denoiser.quantise={quantise}")
    plan = client.plan(store, load_preset("micro", (*SIZE, *settings)))
    with open_index(store.root) as index:
        describe = Published(Descriptions(index))
        works, _ = works_of(plan, describe, index)
        trials = Trials(works, describe, index, {}, here())
        (work,) = (work for work in works if work.kind == "denoiser")
        part = Part("denoiser", work.part, "cuda:0", work.about.facts["num_blocks"])
        walked = trials.uses("denoiser", {"resident_blocks": str(resident)})
        (limit,) = (use.peak_bytes - use.kept_bytes for use in walked if use.device == "cuda:0")
        needed = trials.needed("cuda:0", limit)
        assert _resident(part, trials, needed) == str(resident)
        assert _resident(part, trials, needed - 1) == (str(resident - 1) if resident else "")


def _resident(part: Part, trials: Trials, limit: int) -> str:
    """What is set by the first that fits and changes no bit, "" where there is none."""
    options = search([part], trials, {"cuda:0": limit}).options
    fitting = [option for option in options if option.numbers == "exact" and option.fits]
    return fitting[0].settings["components.denoiser.resident_blocks"] if fitting else ""


def test_what_is_chosen_fits_when_it_is_set(store: Store) -> None:
    settings = (*SIZE, "components.denoiser.device=cuda", "components.vae.device=cuda")
    as_it_is = fit_of(store, client.plan(store, load_preset("micro", settings)), 10**12)
    assert as_it_is.options == ()
    limit = max(of["cuda:0"] for of in as_it_is.needed_bytes.values() if "cuda:0" in of) - MB // 10
    found = fit_of(store, client.plan(store, load_preset("micro", settings)), limit)
    assert found.settings
    set_so = [f"{key}={value}" for key, value in found.settings.items()]
    again = fit_of(store, client.plan(store, load_preset("micro", (*settings, *set_so))), limit)
    assert (again.options, again.misses) == ((), ())
    for option in filter(_is_chosen, found.options):
        assert option.needed_bytes["cuda:0"] == _most(again.needed_bytes, option.kind)


def _is_chosen(option: Option) -> bool:
    return option.is_chosen


def _most(needed: dict[str, dict[str, int]], kind: str) -> int:
    return needed[{"denoiser": "denoise", "vae": "decode"}[kind]]["cuda:0"]


def test_what_is_read_and_what_waits_is_told_beside_the_peaks(store: Store) -> None:
    settings = ("components.denoiser.device=cuda", "components.denoiser.resident_blocks=2")
    plan = client.plan(store, load_preset("micro", (*SIZE, *settings)))
    brought = {each.kind: each for each in memory_of(store, plan).brought}
    assert [*brought] == ["text_encoder", "denoiser", "vae"]
    assert all(each.read_bytes > 0 for each in brought.values())
    assert {kind: each.device for kind, each in brought.items()} == {
        "text_encoder": "cpu",
        "denoiser": "cuda:0",
        "vae": "cpu",
    }
    all_stay = client.plan(store, load_preset("micro", (*SIZE, settings[0])))
    whole, moved = memory_of(store, all_stay), brought["denoiser"].moved_bytes
    assert 0 < moved < next(use.weights_bytes for use in whole.uses if use.device == "cuda:0")
    assert all(each.moved_bytes == 0 for each in whole.brought)
