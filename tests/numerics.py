"""Which source files make the numbers of each kind of link, and what they were when its version was settled.

`python -m tests.numerics` writes tests/data/numerics.json anew. Before that, where numbers changed, the version of
the stage in engine/tasks/wan.py goes up: results of the old code must not be taken for those of the new.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from engine.tasks.wan import STAGES

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "tests" / "data" / "numerics.json"
VERSIONS = {stage.name: stage.version for stage in STAGES}

# Not among them: the engine's own bookkeeping, and what only previews are made with (latent_rgb.py and tiny_decoder.py
# of engine/models/vae).
_WEIGHTS = (
    "engine/dtypes.py",
    "engine/components/providers/files.py",
    "engine/checkpoints/formats/*.py",
    "engine/checkpoints/convert/squeezing.py",
    "engine/checkpoints/held/holding.py",
    "engine/checkpoints/held/kept.py",
    "engine/checkpoints/known/configure.py",
    "engine/checkpoints/layout.py",
    "engine/checkpoints/load.py",
    "engine/checkpoints/names/*.py",
    "engine/checkpoints/packing/notes.py",
    "engine/checkpoints/held/packed.py",
    "engine/checkpoints/packing/quantised.py",
    "engine/checkpoints/packing/unpacking.py",
    "engine/models/quantised/*.py",
)
_GRAPH = ("engine/tasks/wan.py",)
_VAE = (
    "engine/components/providers/taehv.py",
    "engine/components/providers/wan_vae.py",
    "engine/models/vae/__init__.py",
    "engine/models/vae/layers.py",
    "engine/models/vae/taehv.py",
    "engine/models/vae/tiles.py",
    "engine/models/vae/wanvae.py",
    *_WEIGHTS,
)
_GIVEN = ("engine/stages/given.py", *_GRAPH)
SOURCES = {
    # what a picture's pixels are is in its digest, which is in the key
    "picture": _GIVEN,
    "image": (
        "engine/components/providers/clip.py",
        "engine/models/image_encoders/*.py",
        *_GIVEN,
        *_WEIGHTS,
    ),
    "condition": ("engine/inputs/sizes.py", *_GIVEN, *_VAE),
    "clip": ("engine/inputs/clips/*.py", *_GIVEN, *_VAE),
    "start": ("engine/stages/latents.py", *_GRAPH),
    "text": (
        "engine/components/providers/umt5.py",
        "engine/models/text_encoders/*.py",
        "engine/checkpoints/vocabulary/*.py",
        "engine/prompt.py",
        "engine/stages/text.py",
        *_GRAPH,
        *_WEIGHTS,
    ),
    "noise": ("engine/stages/latents.py", *_GRAPH),
    "step": (
        "engine/chain/rebuild.py",
        "engine/components/providers/wan_dit.py",
        "engine/extensions/**/*.py",
        "engine/models/attention.py",
        "engine/models/diffusion/*.py",
        "engine/models/seams.py",
        "engine/schedulers/*.py",
        "engine/stages/denoise.py",
        "engine/stages/latents.py",
        *_GRAPH,
        *_WEIGHTS,
    ),
    "video": (
        "engine/output/encoders.py",
        "engine/output/media.py",
        "engine/stages/video.py",
        *_GRAPH,
        *_VAE,
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
