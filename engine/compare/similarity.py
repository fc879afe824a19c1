"""How alike two videos are: PSNR over the RGB channels, and SSIM of luma (Z. Wang, A. C. Bovik, H. R. Sheikh and
E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from engine.compare.frames import Frame
from engine.errors import EngineError

PEAK = 255.0
RADIUS, SIGMA = 5, 1.5
K1, K2 = 0.01, 0.03
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Similarity:
    """psnr: dB of each frame, infinite where both are equal. ssim: of each frame, 1 where both are equal.
    psnr_overall: dB from the mean squared error of all frames together."""

    width: int
    height: int
    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr_overall: float

    @property
    def ssim_mean(self) -> float:
        return sum(self.ssim) / len(self.ssim)


def similarity(a: Iterable[Frame], b: Iterable[Frame]) -> Similarity:
    """Raises EngineError for videos of different sizes or lengths."""
    num_threads = torch.get_num_threads()
    # These sums wait for memory: a second thread gains little, and much is lost where it is made to wait.
    torch.set_num_threads(1)
    try:
        return _similarity(a, b)
    finally:
        torch.set_num_threads(num_threads)


def _similarity(a: Iterable[Frame], b: Iterable[Frame]) -> Similarity:
    errors, ssims = [], []
    unpaired_a = unpaired_b = 0
    width = height = 0
    for one, other in zip_longest(a, b):
        if one is None or other is None:
            unpaired_a, unpaired_b = unpaired_a + (other is None), unpaired_b + (one is None)
            continue
        width, height = one.width, one.height
        if (width, height) != (other.width, other.height):
            raise EngineError(
                f"frames of {width}x{height} and of {other.width}x{other.height} cannot be compared"
            )
        x, y = _pixels(one), _pixels(other)
        errors.append(float((x - y).square().mean()))
        ssims.append(ssim(_luma(x), _luma(y)))
    if unpaired_a or unpaired_b:
        lengths = len(errors) + unpaired_a, len(errors) + unpaired_b
        raise EngineError(f"videos of {lengths[0]} and of {lengths[1]} frames cannot be compared")
    overall = psnr(sum(errors) / len(errors))
    return Similarity(width, height, tuple(map(psnr, errors)), tuple(ssims), overall)


def psnr(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit values."""
    if mean_squared_error == 0:
        return math.inf
    return 10 * math.log10(PEAK**2 / mean_squared_error)


def ssim(x: Tensor, y: Tensor) -> float:
    """Mean structural similarity of two pictures float64 [H,W] in 0..255, at least 11 pixels a side.

    As published: Gaussian windows of 11x11 pixels that lie wholly within the picture, at full size.
    """
    weights = [math.exp(-(offset**2) / (2 * SIGMA**2)) for offset in range(-RADIUS, RADIUS + 1)]
    window = [weight / sum(weights) for weight in weights]
    stack = torch.stack([x, y, x * x, y * y, x * y])
    means = _windowed(_windowed(stack, window, dim=1), window, dim=2)
    mean_x, mean_y, square_x, square_y, product = means.unbind()
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (variances + c2)).mean())


def _windowed(pictures: Tensor, window: Sequence[float], dim: int) -> Tensor:
    """Weighted sums along `dim`. A sum of slices: ten times as fast as torch's convolution on a CPU."""
    length = pictures.shape[dim] - len(window) + 1
    total = pictures.narrow(dim, 0, length) * window[0]
    for offset, weight in enumerate(window[1:], 1):
        total.add_(pictures.narrow(dim, offset, length), alpha=weight)
    return total


def _pixels(frame: Frame) -> Tensor:
    """float64 [H,W,3]"""
    values = torch.frombuffer(bytearray(frame.pixels), dtype=torch.uint8)
    return values.view(frame.height, frame.width, 3).double()


def _luma(pixels: Tensor) -> Tensor:
    return pixels @ torch.tensor(LUMA, dtype=pixels.dtype)
