"""The models of an engine that are held between runs, and what they run on."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine import registry
from engine.errors import RunFailed
from engine.pipelines.chain import num_tokens
from presets.spec import RunSpec
from store.keys import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below this many tokens a second thread gains a quarter on an idle machine and loses tenfold on a busy one,
# where every small operation waits for the thread that the other program has pushed aside.
ONE_THREAD_TOKENS = 512


class Models:
    """Holds at most one component of each kind, the one used last."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Any, Any]] = {}
        self._num_threads = torch.get_num_threads()

    def component(
        self, kind: str, part: Any, tell: Callable[[str], None] = lambda text: None
    ) -> Any:
        """The component of a spec, loaded unless it is held: same spec, same files, none of them changed."""
        identity = (part, [_file_facts(path) for path in registry.files(kind, part)])
        held = self._held.get(kind)
        if held is not None and held[0] == identity:
            return held[1]
        self._held.pop(kind, None)  # freed before its successor is read
        component = registry.load(kind, part)
        self._held[kind] = (identity, component)
        tell(f"loaded {kind} {part.name} ({part.dtype})")
        return component

    def is_held(self, kind: str, part: Any) -> bool:
        """Whether `component` would load nothing."""
        held = self._held.get(kind)
        files = [_file_facts(path) for path in registry.files(kind, part)]
        return held is not None and held[0] == (part, files)

    def set_threads(self, spec: RunSpec) -> None:
        """As many threads as a run of this size gains from."""
        small = num_tokens(spec) <= ONE_THREAD_TOKENS
        torch.set_num_threads(1 if small else self._num_threads)


def environment(device: torch.device) -> str:
    """What results may depend on beyond their keys, as canonical JSON; nothing that names the machine or its user."""
    facts: dict[str, Any] = {
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "cuda": torch.version.cuda or "",
            "tf32": torch.backends.cuda.matmul.allow_tf32,
        }
    else:
        facts["cpu"] = torch.backends.cpu.get_cpu_capability()
    return canonical(facts).decode()


@contextmanager
def out_of_memory_explained(stage: str) -> Iterator[None]:
    """Turns the many errors of a full memory into RunFailed with what to try."""
    advice = {
        "decode": "the latents are kept: try `modiff branch RUN --at decode --set components.vae.tile_size=256`, "
        "or a smaller components.vae.chunk_frames",
        "denoise": "try fewer frames or a smaller size",
    }.get(stage, "try dtype bf16, or device cpu for the text encoder")
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise RunFailed(f"out of memory in stage {stage}; {advice}") from None
    except RuntimeError as error:
        # the CPU allocator has no exception type of its own, and words of its own on each system
        if not any(words in str(error) for words in ("not enough memory", "can't allocate memory")):
            raise
        raise RunFailed(f"out of memory in stage {stage}; {advice}") from None


def _file_facts(path: Path) -> tuple[str, int, int, int, int]:
    """What changes when a file does, whether it was rewritten or replaced, or its time set back after that."""
    facts = path.stat()
    return str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
