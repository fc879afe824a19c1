"""Which source files make the numbers of each kind of link, and what they were when its version was settled.

`python -m tests.numerics` writes tests/data/numerics.json anew. Before that, where numbers changed, the version of
the kind in engine/pipelines/chain.py goes up: results of the old code must not be taken for those of the new.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.pipelines.chain import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "tests" / "data" / "numerics.json"

_WEIGHTS = (
    "engine/dtypes.py",
    "engine/local.py",
    "engine/checkpoints/formats/gguf_file.py",
    "engine/checkpoints/load.py",
    "engine/checkpoints/names/*.py",
    "engine/checkpoints/formats/reading.py",
)
SOURCES = {
    "text": ("engine/prompt.py", "engine/models/text_encoders/*.py", *_WEIGHTS),
    "noise": ("engine/pipelines/stages.py",),
    "step": (
        "engine/models/attention.py",
        "engine/models/diffusion/*.py",
        "engine/models/seams.py",
        "engine/pipelines/stages.py",
        "engine/schedulers/*.py",
        *_WEIGHTS,
    ),
    "video": (
        "engine/media.py",
        "engine/models/vae/__init__.py",
        "engine/models/vae/wanvae.py",  # not latent_rgb.py: no key depends on previews
        "engine/pipelines/stages.py",
        *_WEIGHTS,
    ),
}


def current() -> dict[str, Any]:
    """kind -> its version and the SHA-256 of each of its source files, as they are now."""
    return {
        kind: {
            "version": VERSIONS[kind],
            "sources": {
                path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for pattern in patterns
                for path in sorted(ROOT.glob(pattern))
            },
        }
        for kind, patterns in SOURCES.items()
    }


if __name__ == "__main__":
    LOCK.write_text(json.dumps(current(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
