"""What somebody gives beside words: pictures into pixels, pictures and clips into what a denoiser is conditioned on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.chain.previews import Thumbnails
from engine.environment import environment_of
from engine.errors import InputError
from engine.inputs.clips.reading import clip_digest, read_clip
from engine.inputs.pictures.reading import read_picture
from engine.inputs.settle import another_clip
from engine.inputs.sizes import covering, published_size
from engine.reports import NodeResult
from engine.stages.finite import not_finite
from store.lineage.events import Message

if TYPE_CHECKING:
    from engine.execution.jobs import Job
    from engine.models.vae.wanvae import Part
    from store.index.previews import Preview


def read_picture_file(job: Job) -> Iterator[NodeResult]:
    """The pixels of a picture, uint8 [H,W,3]. Raises InputError where its file no longer holds them."""
    (node,) = job.nodes
    begun = time.perf_counter()
    key = f"{node.hints['setting']}.path"
    path = Path(node.hints["path"])
    picture = read_picture(path, node.hints["background"], key=key)
    if picture.digest != node.params["pixels"]:
        raise InputError(
            f"{path} holds another picture now than when the run was queued; run it again to use the new one",
            key=key,
        )
    rows = torch.frombuffer(bytearray(picture.rgb), dtype=torch.uint8)
    pixels = rows.view(picture.height, picture.width, 3)
    seconds = time.perf_counter() - begun
    yield NodeResult(
        node, {"pixels": {"pixels": pixels}}, seconds, preview=_preview_of(pixels[None])
    )


def encode_pictures(job: Job) -> Iterator[NodeResult]:
    """The tokens of one picture or two, [sum of tokens, width], in their order. Raises RunFailed where they are not
    finite."""
    (node,) = job.nodes
    pictures = [to_floats(_pixels(job, slot)) for slot in ("first", "last") if slot in node.inputs]
    with job.component(node) as encoder:
        begun = time.perf_counter()
        states = encoder.encode(pictures)
        seconds = time.perf_counter() - begun
    if not bool(states.isfinite().all()):
        raise not_finite(job, node, "the image encoder's output is not finite")
    yield NodeResult(
        node,
        {"states": {"states": states}},
        seconds,
        environment=environment_of(encoder, states.device),
    )


def encode_frames(job: Job) -> Iterator[NodeResult]:
    """Masks and latents of the given frames, fp32 [4 + C, F, h, w]: the video of them, whose other frames are grey,
    through the VAE. Raises RunFailed where they are not finite.

    Source: Wan 2.1, `wan/image2video.py`, `wan/first_last_frame2video.py`.
    """
    (node,) = job.nodes
    params = node.params
    (height, width), frames = params["size"], params["frames"]
    given: dict[int, Tensor] = {}
    has_last = "last" in node.inputs
    for slot, at in (("first", 0), ("last", frames - 1)):
        if slot in node.inputs:
            picture = to_floats(_pixels(job, slot))
            given[at] = fitted(picture, height, width, params["area"])

    def part(start: int, stop: int) -> Tensor:
        video = torch.zeros(1, 3, stop - start, height, width)
        for at, picture in given.items():
            if start <= at < stop:
                video[0, :, at - start] = picture
        return video

    latents, seconds, environment = _encoded(job, part, (1, 3, frames, height, width))
    mask = given_mask(frames, *latents.shape[1:], has_last=has_last)
    conditioning = torch.cat([mask, latents.cpu()])
    yield NodeResult(node, {"latents": {"latents": conditioning}}, seconds, environment=environment)


def encode_clip(job: Job) -> Iterator[NodeResult]:
    """The normalised latents of a clip, fp32 [1,C,F,h,w]. Raises RunFailed where they are not finite."""
    (node,) = job.nodes
    params = node.params
    height, width = params["size"]
    path = Path(node.hints["path"])
    if clip_digest(path) != params["file"]:
        raise another_clip(path)
    frames, resampled = read_clip(
        path,
        fps=params["fps"],
        frames=params["frames"],
        width=width,
        height=height,
        stop=job.check,
    )
    for note in resampled.notes:
        job.tell(Message(level="info", text=note))
    pixels = torch.from_numpy(frames)

    def part(start: int, stop: int) -> Tensor:
        rows = to_floats(pixels[start:stop].flatten(1, 2))
        return rows.unflatten(2, (height, width))[None]

    shape = (1, 3, len(pixels), height, width)
    latents, seconds, environment = _encoded(job, part, shape)
    yield NodeResult(
        node,
        {"latents": {"latents": latents[None]}},
        seconds,
        environment=environment,
        preview=_preview_of(pixels),
    )


def _preview_of(frames: Tensor) -> Callable[[], Preview]:
    """frames: uint8 [T,H,W,3]."""
    thumbnails = Thumbnails()
    thumbnails.add(frames)
    return thumbnails.preview


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 [H,W,3] -> fp32 [3,H,W] in [-1,1], rounded as torchvision's `to_tensor(...).sub_(0.5).div_(0.5)`."""
    return pixels.movedim(-1, 0).float().div_(255).sub_(0.5).div_(0.5)


def fitted(picture: Tensor, height: int, width: int, area: int) -> Tensor:
    """A picture [3,h,w] in [-1,1] at another size, fp32 [3,height,width].

    Where that is the size which the picture itself has in `area` pixels, as published: bicubic without antialiasing,
    which changes its proportions a little. Else it is made to cover the size, and cut in the middle.
    """
    rows, columns = picture.shape[1:]
    batch = picture[None]
    if (columns, rows) == (width, height):
        return picture
    if published_size(columns, rows, area) == (width, height):
        return F.interpolate(batch, (height, width), mode="bicubic")[0]
    wide, high = covering((columns, rows), (width, height))
    covers = F.interpolate(batch, (high, wide), mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (high - height) // 2, (wide - width) // 2
    return covers[0, :, top : top + height, left : left + width]


def given_mask(
    frames: int, latent_frames: int, rows: int, columns: int, *, has_last: bool
) -> Tensor:
    """[4, latent frames, rows, columns], 1 where a frame is given; the first frame fills all four places of the first
    latent frame, as published."""
    given = torch.zeros(frames, rows, columns)
    given[0] = 1
    if has_last:
        given[-1] = 1
    filled = torch.cat([given[:1].repeat(4, 1, 1), given[1:]])
    return filled.view(latent_frames, 4, rows, columns).transpose(0, 1)


def _pixels(job: Job, slot: str) -> Tensor:
    (pixels,) = job.tensors(job.nodes[0].inputs[slot]).values()
    return pixels


def _encoded(job: Job, part: Part, shape: Sequence[int]) -> tuple[Tensor, float, str]:
    """(latents fp32 [C,F,h,w] of a video of this shape, [1,3,T,H,W], seconds, environment)."""
    (node,) = job.nodes
    with job.component(node) as vae:
        begun = time.perf_counter()
        in_parts = getattr(vae, "encode_parts", None)
        latents = in_parts(part, shape) if in_parts else vae.encode(part(0, shape[2]))
        seconds = time.perf_counter() - begun
    if not bool(latents.isfinite().all()):
        raise not_finite(job, node, "the latents of what was given are not finite")
    return latents[0], seconds, environment_of(vae, latents.device)
