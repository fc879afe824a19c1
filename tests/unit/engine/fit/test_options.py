"""The cheapest settings that fit, over walks that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.fit.options import Changes, Part, search
from engine.fit.work import Use
from presets.spec.components import Components

BLOCKS = 10
COMPONENTS = Components()


class Made:
    """A denoiser of ten blocks of 10, or of 5 each where it is quantised, with 20 for its work; a VAE of 5 with 30 a
    frame at a time; a text encoder of 60. work: of the denoiser."""

    def __init__(self, work: int = 20) -> None:
        self.work = work

    def uses(self, kind: str, changes: Changes) -> Sequence[Use]:
        device = "cpu" if changes.get("device") == "cpu" else "cuda:0"
        held = self._held(kind, changes)
        peak = (
            held
            + {"denoiser": self.work, "text_encoder": 1, "vae": 30 * self._frames(changes)}[kind]
        )
        return [Use(kind, device, peak, held, 0, "mul", "")]

    def held_bytes(self, part: Part, changes: Changes) -> int:
        return self._held(part.kind, changes)

    def _held(self, kind: str, changes: Changes) -> int:
        if kind != "denoiser":
            return {"text_encoder": 60, "vae": 5}[kind] // (2 if changes.get("quantise") else 1)
        block = 5 if changes.get("quantise") else 10
        resident = changes.get("resident_blocks", "all")
        return block * (BLOCKS if resident == "all" else int(resident) + 2)

    def needed(self, device: str, num_bytes: int) -> int:
        return num_bytes

    def _frames(self, changes: Changes) -> int:
        found: int = changes.get("chunk_frames", 2)
        return found


def part(kind: str, num_blocks: int = 0) -> Part:
    return Part(kind, getattr(COMPONENTS, kind), "cuda:0", num_blocks, 640)


def settings(limit: int, *parts: Part, work: int = 20) -> Mapping[str, Any]:
    found = search(parts, Made(work), {"cuda:0": limit, "cpu": 1000})
    return found.settings if not found.misses else {"misses": found.misses}


def test_what_fits_is_left_alone() -> None:
    assert settings(120, part("denoiser", BLOCKS), part("text_encoder"), part("vae")) == {}


def test_as_many_blocks_stay_as_fit() -> None:
    assert settings(105, part("denoiser", BLOCKS)) == {"components.denoiser.resident_blocks": "6"}
    assert settings(45, part("denoiser", BLOCKS)) == {"components.denoiser.resident_blocks": "0"}


def test_what_is_exact_goes_before_what_is_not_and_both_together_come_last() -> None:
    assert settings(39, part("denoiser", BLOCKS)) == {
        "components.denoiser.quantise": "int8",
        "components.denoiser.resident_blocks": "1",
    }
    assert settings(20, part("denoiser", BLOCKS)) == {"misses": ("denoiser",)}


def test_work_that_is_too_much_without_weights_has_nothing_tried() -> None:
    found = search([part("denoiser", BLOCKS)], Made(), {"cuda:0": 19})
    assert (found.options, found.misses, found.alone_bytes) == ((), ("denoiser",), {"denoiser": 20})
    found = search([part("denoiser", BLOCKS)], Made(), {"cuda:0": 20})
    assert (len(found.options) > 0, found.alone_bytes) == (True, {})


def test_a_dearer_one_is_told_too() -> None:
    found = search([part("denoiser", BLOCKS)], Made(), {"cuda:0": 105})
    assert [(option.numbers, option.is_chosen, option.fits) for option in found.options] == [
        ("exact", True, True),
        ("approximate", False, True),
    ]
    swapped = found.options[0]
    assert (swapped.moved_blocks, swapped.num_blocks, swapped.moved_bytes) == (4, 10, 40)


def test_each_component_by_itself() -> None:
    assert settings(55, part("text_encoder"), part("vae")) == {
        "components.text_encoder.device": "cpu",
        "components.vae.chunk_frames": "1",
    }


def test_no_device_is_given_more_than_it_has() -> None:
    found = search([part("text_encoder")], Made(), {"cuda:0": 55, "cpu": 50})
    assert found.settings == {"components.text_encoder.quantise": "int8"}
