"""Which components go for another."""

from __future__ import annotations

from dataclasses import dataclass

from engine.components.memory.room import leaving


@dataclass
class Held:
    kind: str
    num_bytes: int
    device: str = "cuda:0"
    uses: int = 0


def test_of_a_kind_one_is_enough_on_any_device() -> None:
    held = {"a": Held("vae", 1, "cpu"), "b": Held("denoiser", 1)}
    assert leaving(held, "vae", "cuda:0", 1, 100) == ["a"]


def test_the_least_recently_used_go_first_and_no_more_than_needed() -> None:
    held = {"a": Held("text_encoder", 4), "b": Held("denoiser", 4), "c": Held("vae", 1, "cpu")}
    assert leaving(held, "image_encoder", "cuda:0", 2, 10) == []
    assert leaving(held, "image_encoder", "cuda:0", 3, 10) == ["a"]
    assert leaving(held, "image_encoder", "cuda:0", 30, 10) == ["a", "b"]


def test_what_is_in_use_stays_and_counts() -> None:
    held = {"a": Held("text_encoder", 8, uses=1), "b": Held("denoiser", 1)}
    assert leaving(held, "text_encoder", "cuda:0", 3, 10) == ["b"]
