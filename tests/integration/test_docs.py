"""What the pages show as whole examples is installed as a package would be, and run."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from engine.components import registry as components
from engine.components.choice import settle
from engine.components.descriptions import Descriptions
from engine.components.memory.residents import Residents
from engine.execution.jobs import Execution
from engine.execution.kept import Keeping
from engine.extensions import registry as extensions
from engine.graph import Ref
from engine.plan import Plan
from engine.reports import Control
from engine.results import MemoryResults
from engine.tasks.route import route_of
from engine.tasks.wan import graph_of
from presets.library.loading import load_preset
from store.index.index import open_index
from store.paths import prepare
from tests.executing import SMALL
from tests.oracles.loaded import denoised

DOCS = Path(__file__).resolve().parents[2] / "docs"


def example(page: str, name: str) -> str:
    """The Python code that follows the mark `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes the code of a package and lets it be found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_package", raising=False)

    def write(code: str) -> None:
        (tmp_path / "my_package.py").write_text(code)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("my_package", None)
    extensions.extensions.cache_clear()


def test_the_component_of_the_page_makes_a_step(package, tmp_path, monkeypatch):
    package(example("components.md", "provider"))
    entry = EntryPoint("text_encoder.spelling", "my_package", components.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    spec = settle(load_preset("micro", ["components.text_encoder.name=spelling", *SMALL]))
    (latents,) = denoised(spec, tmp_path, 1)
    assert bool(latents.isfinite().all())


def test_the_extension_of_the_page_changes_a_step(package, tmp_path, monkeypatch):
    package(example("extensions.md", "extension"))
    entry = EntryPoint("temperature", "my_package:Temperature", extensions.ENTRY_POINT_GROUP)
    monkeypatch.setattr(extensions, "entry_points", lambda group: [entry])
    extensions.extensions.cache_clear()
    wanted = 'extensions=[{name="temperature", options={factor=%s}}]'
    results = [
        denoised(settle(load_preset("micro", [*SMALL, *overrides])), tmp_path, 1)[0]
        for overrides in ([], [wanted % "1.0"], [wanted % "1.5"])
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_stage_of_the_page_changes_the_video_and_is_found_again(package, tmp_path):
    package(example("stages.md", "stage"))
    code = importlib.import_module("my_package")
    spec = settle(load_preset("micro", ["scheduler.steps=2", *SMALL]))
    results, residents = MemoryResults(), Residents()
    prepare(tmp_path)

    def frames_and_plan(factor: float) -> tuple[torch.Tensor, Plan]:
        with open_index(tmp_path) as index:
            targets = graph_of(route_of(spec), Descriptions(index), ("video", "frames"))
            decoded = targets["video"].node
            names = {"shown": decoded.inputs["latents"], **vars(code)}
            exec(example("stages.md", "line").replace("0.9", str(factor)), names)
            video = replace(decoded, inputs={"latents": names["shown"]})
            execution = Execution(
                {kind: Ref(video, kind) for kind in targets},
                results,
                Descriptions(index),
                lambda: residents,
                Control(lambda event: None, lambda: None),
                Keeping(),
            )
            plan = execution.plan()
            execution.run(plan)
            return execution.read("frames"), plan

    plain, first = frames_and_plan(1.0)
    stretched, second = frames_and_plan(0.5)
    again, third = frames_and_plan(0.5)
    titles = ("text_encode", "denoise", "stretch", "decode")
    assert first.titles == titles
    assert [first.state(title) for title in titles] == ["compute"] * 4
    assert [second.state(title) for title in titles] == ["skip", "stored", "compute", "compute"]
    # the frames are kept by nobody, and are decoded again from what was stretched
    assert [third.state(title) for title in titles] == ["skip", "stored", "stored", "compute"]
    assert torch.equal(stretched, again)
    assert float(stretched.float().std()) < float(plain.float().std())
