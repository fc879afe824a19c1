"""One store, used by two kinds of CPU in turn: what does not replay on one is computed there once, and found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from presets.encoding import encode_spec
from presets.library import load_preset, override
from store.lineage.records import COMPUTED, Segment
from store.store import open_store

ROOT = Path(__file__).resolve().parents[2]
STEPS, AT = 6, 4
EXECUTE = """
import sys
from pathlib import Path
from engine.runner import Runner
from store.store import open_store
from tests.executing import ENGINE, execute
with open_store(Path(sys.argv[1])) as store, store.register_engine(ENGINE, pid=1):
    execute(Runner(store), sys.argv[2])
    store.unregister_engine(ENGINE)
"""
CAPABILITIES = {"avx2": None, "default": "default"}


class Machines:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        spec = load_preset("micro", [f"scheduler.steps={STEPS}", "scheduler.name=euler"])
        self.spec = override(spec, ['output.kinds=["latents"]'])

    def run(self, capability: str, overrides: tuple[str, ...] = ()) -> int:
        """A run, or with overrides a branch of it at AT, on a CPU of that kind; how many steps it computed."""
        spec = override(self.spec, list(overrides))
        segments = [Segment(AT, encode_spec(self.spec))] if overrides else []
        with open_store(self.root) as store:
            run_id = store.enqueue(
                encode_spec(spec),
                preset="micro",
                output=str(self.folder / "{run}.safetensors"),
                segments=segments,
            )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("ATEN_CPU_CAPABILITY", None)
        if CAPABILITIES[capability]:
            environment["ATEN_CPU_CAPABILITY"] = capability
        command = [sys.executable, "-c", EXECUTE, str(self.root), run_id]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=120)
        with open_store(self.root) as store:
            links = store.links_of(run_id)
        return sum(link.stage == "step" and link.source == COMPUTED for link in links)


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="this CPU has one kind of arithmetic",
)
def test_each_kind_of_cpu_computes_the_other_s_chain_once(tmp_path):
    machines = Machines(tmp_path)
    assert machines.run("avx2") == STEPS
    for capability in ("default", "avx2"):
        first = machines.run(capability, (f"guidance.scale={3 if capability == 'default' else 4}",))
        assert first == STEPS, capability
        second = machines.run(
            capability, (f"guidance.scale={5 if capability == 'default' else 6}",)
        )
        assert second == STEPS - AT, capability
