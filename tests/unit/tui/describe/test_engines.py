"""What engines hold and give back, in words."""

from __future__ import annotations

from store.lineage.records import EngineRecord, HeldModel
from tui.describe.engines import held_line, held_words, release_line

GIB = 1 << 30
DENOISER = HeldModel("denoiser", "wan-dit", "cuda:0", 27 * GIB)
VAE = HeldModel("vae", "wan-vae", "cuda:0", GIB // 2)
ENCODER = HeldModel("text_encoder", "umt5", "cpu", 3 * GIB)


def engine(*models: HeldModel, **known: object) -> EngineRecord:
    return EngineRecord("e1", 42, "host", 0, 0, "", models=models, **known)  # type: ignore[arg-type]


def test_what_is_held() -> None:
    assert held_line(()) == "no model is in memory"
    assert held_line((ENCODER, VAE)) == (
        "in memory: text_encoder umt5 (3.0 GiB of cpu), vae wan-vae (512 MiB of cuda:0)"
    )
    assert held_words(()) == "no model"
    assert held_words((ENCODER, DENOISER, VAE)) == "3.0 GiB of cpu, 27.5 GiB of cuda:0"


def test_what_came_of_a_release() -> None:
    assert release_line(engine(released=(DENOISER, VAE))) == (
        "gave back 27.5 GiB: denoiser wan-dit (27.0 GiB of cuda:0), vae wan-vae (512 MiB of cuda:0)"
    )
    assert release_line(engine()) == "nothing is idle"
    assert release_line(engine(VAE)) == (
        "nothing is idle; in memory: vae wan-vae (512 MiB of cuda:0)"
    )
    assert release_line(engine(is_to_release=True)) == (
        "the engine (process 42) lets go of idle models when its present step ends"
    )
