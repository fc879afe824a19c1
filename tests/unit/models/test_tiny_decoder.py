"""The small network that shows latents: what it sees of them, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.models.vae.tiny_decoder import SCALE, TinyDecoder, read_tiny_decoder


def test_a_frame_depends_on_itself_and_the_one_before_alone() -> None:
    decoder = TinyDecoder(5, 8)
    latents = torch.randn(2, 5, 4, 3, 6)
    shown = decoder(latents)
    assert shown.shape == (2, 3, 4, 3 * SCALE, 6 * SCALE)
    changed = latents.clone()
    changed[:, :, 1] += 1
    differs = (decoder(changed) != shown).flatten(3).any(-1).any(1).any(0)
    assert differs.tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"seen.weight": torch.zeros(4, 6, 3, 3)},
        {"seen.weight": torch.zeros(4)},
        {**TinyDecoder(3, 4).state_dict(), "more": torch.zeros(1)},
    ],
)
def test_another_file_is_none(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "other.safetensors"
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"other\.safetensors: no decoder"):
        read_tiny_decoder(path)


def test_what_is_no_safetensors_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"{}")
    with pytest.raises(ValueError, match="no decoder"):
        read_tiny_decoder(path)
    with pytest.raises(OSError, match=r"absent\.safetensors"):
        read_tiny_decoder(tmp_path / "absent.safetensors")
