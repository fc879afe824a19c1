"""The stages of text to video as functions of their inputs: encode the prompts, draw the noise, denoise.

They know components and tensors, nothing of files, runs or processes. `denoise` is the one loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.component import VAE, Denoiser, TextEncoder
from engine.errors import RunFailed
from engine.pipelines.chain import Route, latent_size, num_tokens, prompts_of, route_of
from engine.schedulers.scheduler import Scheduler, SolverState, follow_course
from presets.guidance import constant_scale
from presets.spec import RunSpec

# Up to this many tokens both halves of the guidance go through the model in one batch: below it a call
# costs more in overhead than in arithmetic, above it the batch only doubles the working memory.
BATCHED_GUIDANCE_TOKENS = 2048


@dataclass(frozen=True)
class Step:
    """One denoising step, done. velocity: after guidance, fp32, as handed to the scheduler; None where the state
    was taken from a stored keyframe. seconds: wall time, the model's and the scheduler's."""

    state: SolverState
    velocity: Tensor | None
    sigma: float
    timestep: int
    seconds: float


def encode_prompts(text_encoder: TextEncoder, spec: RunSpec) -> list[Tensor]:
    """Token states [L, text_dim] of the prompt and, where guidance needs it, the negative prompt.

    Raises RunFailed where they are not finite.
    """
    return [encode_prompt(text_encoder, spec, prompt) for prompt in prompts_of(spec)]


def encode_prompt(text_encoder: TextEncoder, spec: RunSpec, prompt: str) -> Tensor:
    """Token states [L, text_dim] of one prompt. Raises RunFailed where they are not finite."""
    states = text_encoder.encode(prompt)
    if not bool(states.isfinite().all()):
        raise RunFailed(
            f"the text encoder's output is not finite (dtype {spec.components.text_encoder.dtype}); "
            "try --set components.text_encoder.dtype=bf16 or fp32"
        )
    return states


def initial_noise(spec: RunSpec, denoiser: Denoiser) -> Tensor:
    """fp32 [1, C, 1+(frames-1)/4, height/8, width/8] on the denoiser's device.

    noise = "cpu" draws it on the CPU, the same on every machine; "wan" draws it on the denoiser's device, as the
    published code does on its GPU.
    """
    return draw_noise(spec, denoiser.latent_channels, denoiser.device)


def draw_noise(spec: RunSpec, latent_channels: int, device: torch.device) -> Tensor:
    """The initial noise of a run whose denoiser has so many channels and is on `device`."""
    shape = (1, latent_channels, *latent_size(spec))
    drawn_on = torch.device("cpu") if spec.noise == "cpu" else device
    generator = torch.Generator(drawn_on).manual_seed(spec.seed)
    noise = torch.randn(shape, generator=generator, device=drawn_on, dtype=torch.float32)
    return noise.to(device)


def guided_velocity(
    denoiser: Denoiser, contexts: list[Tensor], scale: float, *, batched: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """(latents, timestep) -> velocity after classifier-free guidance: uncond + scale * (cond - uncond)
    (arXiv:2207.12598). contexts: of the prompt, and of the negative prompt where scale is not 1.
    batched: both in one model call."""
    if len(contexts) == 1:
        conditioning = denoiser.prepare(contexts)
        return lambda latents, timestep: denoiser.velocity(latents, timestep, conditioning)

    if batched:
        both = denoiser.prepare(contexts)

        def pair(latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            cond, uncond = denoiser.velocity(latents.repeat(2, 1, 1, 1, 1), timestep, both).chunk(2)
            return cond, uncond
    else:
        positive, negative = denoiser.prepare(contexts[:1]), denoiser.prepare(contexts[1:])

        def pair(latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            cond = denoiser.velocity(latents, timestep, positive)
            return cond, denoiser.velocity(latents, timestep, negative)

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        cond, uncond = pair(latents, timestep)
        return torch.add(uncond, cond - uncond, alpha=scale)

    return guided


def denoise(
    denoiser: Denoiser, spec: RunSpec, contexts: list[Tensor], noise: Tensor
) -> Iterator[Step]:
    """Walks the noise down the schedule of a run, one `Step` at a time.

    noise: fp32 [1,C,F,H,W]. Raises RunFailed at the first step whose latents are not finite.
    """
    route = route_of(spec)
    scheduler = follow_course(route.course)
    state = scheduler.start(noise)
    return advance(lambda _: denoiser, route, scheduler, state, lambda _: contexts, route.num_steps)


def advance(
    denoiser_of: Callable[[RunSpec], Denoiser],
    route: Route,
    scheduler: Scheduler,
    state: SolverState,
    contexts_of: Callable[[RunSpec], list[Tensor]],
    total: int,
) -> Iterator[Step]:
    """Goes on from `state` until `total` steps are done, each by the settings of its part of the route.

    denoiser_of, contexts_of: spec -> its denoiser, and the token states of its prompts on any device; asked for
    once a part, and only for parts that have steps to be done. Raises RunFailed as `denoise` does.
    """
    for part in route.parts:
        stop = min(part.stop, total)
        if state.step >= stop:
            continue
        spec = part.spec
        contexts, denoiser = contexts_of(spec), denoiser_of(spec)
        batched = num_tokens(spec) <= BATCHED_GUIDANCE_TOKENS
        velocity_at = guided_velocity(
            denoiser, contexts, constant_scale(spec.guidance), batched=batched
        )
        while state.step < stop:
            started = time.perf_counter()
            index = state.step
            timestep = scheduler.timesteps[index : index + 1]
            # two parts of a branched run may have denoisers on two devices
            velocity = velocity_at(state.latents.to(denoiser.device), timestep)
            state = scheduler.step(state, velocity.to(state.latents.device))
            _check_finite(state, scheduler.num_steps, spec)
            yield Step(
                state=state,
                velocity=velocity,
                sigma=float(scheduler.sigmas[index]),
                timestep=int(timestep),
                seconds=time.perf_counter() - started,
            )


def _check_finite(state: SolverState, num_steps: int, spec: RunSpec) -> None:
    if bool(state.latents.isfinite().all()):
        return
    part = spec.components.denoiser
    raise RunFailed(
        f"latents are not finite at step {state.step} of {num_steps} (dtype {part.dtype}, attention "
        f"{part.attention}); try "
        f"{'another attention backend' if part.dtype == 'fp32' else 'dtype bf16 or fp32'}"
    )


def decode(
    vae: VAE, latents: Tensor, *, on_chunk: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """Latents [1,C,F,h,w] -> video fp32 [3,4F-3,8h,8w] in [-1,1]; `on_chunk` as in `VAE.decode`.

    Raises RunFailed where the video is not finite.
    """
    video = vae.decode(latents, on_chunk=on_chunk)[0]
    if not bool(video.isfinite().all()):
        raise RunFailed(
            "the decoded video is not finite; try --set components.vae.dtype=fp32 (the latents are kept)"
        )
    return video
