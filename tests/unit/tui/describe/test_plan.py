"""A row of a plan in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from presets.library.loading import load_preset
from store.store import open_store
from tui.describe.plan import Row, planned, shown


def test_the_steps_of_a_row():
    row = Row("denoise", 1, 12, "compute", None, 0)
    assert shown(row)[:3] == ("denoise", "1-12", "to compute")
    assert shown(replace(row, last=1))[1] == "1"
    assert shown(replace(row, first=None, last=None))[1] == ""


@pytest.mark.parametrize(
    ("settings", "on"),
    [
        ([], "cuda:0"),
        (["components.denoiser.guidance_device=cuda:1"], "cuda:0 and cuda:1"),
        (["components.denoiser.guidance_device=cuda:0"], "cuda:0"),
        (["components.denoiser.guidance_device=cuda:1", "guidance.scale=1"], "cuda:0"),
    ],
)
def test_where_a_stage_runs(tmp_path: Path, settings: list[str], on: str):
    devices = ["components.denoiser.device=cuda:0", "components.vae.device=auto"]
    with open_store(tmp_path) as store:
        rows = planned(store, load_preset("micro", [*devices, *settings])).rows
    told = {"load": "", "text_encode": "cpu", "denoise": on, "decode": "auto"}
    assert {row.name: row.on for row in rows} == told


@pytest.mark.parametrize(("is_warm", "state"), [(True, "warm"), (False, "to compute")])
def test_models_that_an_engine_has_already_are_not_loaded(tmp_path, monkeypatch, is_warm, state):
    monkeypatch.setattr("engine.client.is_warm", lambda *_: is_warm)
    with open_store(tmp_path) as store:
        load = planned(store, load_preset("micro")).rows[0]
    assert (load.name, shown(load)[2]) == ("load", state)
