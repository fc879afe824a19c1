"""What a training looks like while it runs: a small measurement and a sheet at every checkpoint.

The clips and prompts are others than the gates', which are thus never tuned for. Both checks are callables that the
training loops call with the averaged weights in place, and can be pickled for its ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.micro.grammar import heldout_prompts
from engine.models.text_encoders.t5 import UMT5
from engine.models.vae.wanvae import WanVAE
from examples.micro.measures.evaluate import Measurement, measure_round_trip
from examples.micro.measures.meter import read_clip
from examples.micro.measures.report import measurement_report
from examples.micro.measures.sampling import MicroModel, Sampling, sample_clips
from examples.micro.measures.sheets import write_sheet
from examples.micro.model.architecture import VAEShape, build_vae
from examples.micro.model.export import fold_statistics
from examples.micro.model.tokenizer import build_tokenizer
from examples.micro.training.checkpoint import load_checkpoint
from examples.micro.training.loop import Progress, copy_weights
from examples.micro.training.train_dit import TextToLatents

DEVELOPMENT_SEED, SHEET_CLIPS = 77, 16


@dataclass(frozen=True, slots=True)
class RoundTripCheck:
    """Looks at a VAE under training: a few clips encoded and decoded."""

    sheet: Path
    log: Callable[[str], None]
    clips: int = 24

    def __call__(self, vae: WanVAE, progress: Progress) -> None:
        measurement = measure_round_trip(
            vae, clips=self.clips, seed=DEVELOPMENT_SEED, sheet=self.sheet
        )
        self.log(measurement_report(measurement))


@dataclass(frozen=True, slots=True)
class DevelopmentCheck:
    """Looks at a transformer under training: a few held-out prompts, few steps."""

    vae: Path
    sheet: Path
    log: Callable[[str], None]
    prompts: int = 24

    def __call__(self, trained: TextToLatents, progress: Progress) -> None:
        saved = load_checkpoint(self.vae, "vae")
        vae = build_vae(VAEShape(**saved["model"])).requires_grad_(requires_grad=False)
        weights = fold_statistics(saved["ema"], trained.latent_mean, trained.latent_std)
        copy_weights(weights, dict(vae.named_parameters()))
        vae.to(trained.dit.patch_embedding.weight.device)
        tokenizer = build_tokenizer()
        text_encoder = UMT5(trained.text_encoder, lambda text: tokenizer.encode(text).ids)
        model = MicroModel(trained.dit, text_encoder, vae)
        prompts = heldout_prompts(self.prompts, DEVELOPMENT_SEED)
        texts = [text for _, text in prompts]
        settings = Sampling(scheduler="euler", steps=12, guidance=4.0)
        clips = sample_clips(model, texts, seed=0, settings=settings)
        name = f"development after {progress.samples} samples"
        measurement = Measurement(
            name, tuple(a for a, _ in prompts), tuple(read_clip(clip) for clip in clips)
        )
        self.log(measurement_report(measurement))
        write_sheet(self.sheet, clips[:SHEET_CLIPS], texts[:SHEET_CLIPS])
