"""What results may depend on beyond their keys."""

from __future__ import annotations

import platform
from typing import Any

import torch

from store.keys import canonical

# Below this many tokens a second thread gains a quarter on an idle machine and loses tenfold on a busy one,
# where every small operation waits for the thread that the other program has pushed aside.
ONE_THREAD_TOKENS = 512

_NUM_THREADS = torch.get_num_threads()


def set_threads(num_tokens: int) -> None:
    """As many threads as a run of this size gains from."""
    torch.set_num_threads(1 if num_tokens <= ONE_THREAD_TOKENS else _NUM_THREADS)


def set_few_threads(is_small: bool) -> None:
    """As many threads as whoever asks for this work takes by `set_threads`. For the calling thread."""
    torch.set_num_threads(1 if is_small else _NUM_THREADS)


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


def environment_of(component: object, device: torch.device) -> str:
    """That of a result of a component: as the component tells where it ran elsewhere, else this one's."""
    return getattr(component, "environment", "") or environment(device)
