"""One store, used by two kinds of CPU in turn: what does not replay on one is computed there once, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.runner import Runner
from presets.encoding import encode_spec
from presets.library.loading import load_preset, override
from store.lineage.records import COMPUTED, Segment
from store.store import open_store
from tests.executing import ENGINE, SMALL, execute

ROOT = Path(__file__).resolve().parents[3]
STEPS, AT = 6, 4
EXECUTE = (
    "import sys; from tests.integration.remote.test_two_machines import run; run(*sys.argv[1:])"
)


def queue(root: Path, folder: Path, scale: float | None = None) -> str:
    """A run, or with a guidance scale a branch of it at AT."""
    own = [f"scheduler.steps={STEPS}", "scheduler.name=euler", 'output.kinds=["latents"]', *SMALL]
    first = load_preset("micro", own)
    spec = override(first, [] if scale is None else [f"guidance.scale={scale}"])
    segments = [] if scale is None else [Segment(AT, encode_spec(first))]
    with open_store(root) as store:
        output = str(folder / "{run}.safetensors")
        return store.enqueue(encode_spec(spec), preset="micro", output=output, segments=segments)


def run(root: str, *run_ids: str) -> None:
    with open_store(Path(root)) as store, store.register_engine(ENGINE, pid=os.getpid()):
        runner = Runner(store)
        for run_id in run_ids:
            execute(runner, run_id)
        store.unregister_engine(ENGINE)


def run_elsewhere(root: str, *run_ids: str) -> None:
    """As another kind of CPU does it: a process decides at its start which arithmetic it has."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ATEN_CPU_CAPABILITY": "default"}
    command = [sys.executable, "-c", EXECUTE, root, *run_ids]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=600)


def num_computed(root: Path, run_ids: Sequence[str]) -> list[int]:
    """How many steps each of the runs computed."""
    with open_store(root) as store:
        links = [store.links_of(run_id) for run_id in run_ids]
    return [sum(link.stage == "step" and link.source == COMPUTED for link in of) for of in links]


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="this CPU has one kind of arithmetic",
)
def test_each_kind_of_cpu_computes_the_other_s_chain_once(tmp_path: Path) -> None:
    root = tmp_path / "store"
    first = queue(root, tmp_path)
    run(str(root), first)
    assert num_computed(root, [first]) == [STEPS]
    for machine, scales in ((run_elsewhere, (3, 5)), (run, (4, 6))):
        branches = [queue(root, tmp_path, scale) for scale in scales]
        machine(str(root), *branches)
        assert num_computed(root, branches) == [STEPS, STEPS - AT], machine
