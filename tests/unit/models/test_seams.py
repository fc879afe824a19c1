"""Extensions around the seams: in which order, with what arguments, and nothing at all where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.models.attention import plain
from engine.models.diffusion.config import WanDiTConfig
from engine.models.diffusion.wandit import WanDiT
from engine.models.seams import SEAMS, At, Tokens, around
from tests.oracles.parity import randomise, relative_error

CONFIG = WanDiTConfig(dim=64, num_heads=2, ffn_dim=96, num_layers=3, text_dim=24)
AT = At(step=4, total=9, sigma=0.5, branch="negative")


@pytest.fixture(scope="module")
def model() -> WanDiT:
    model = WanDiT(CONFIG).eval().requires_grad_(False)
    randomise(model, 3)
    return model


def velocity(model: WanDiT, *extensions: object, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 2, 4, 4, generator=generator)
    conditioning = model.prepare({"text": torch.randn(1, 5, 24, generator=generator)})
    timestep = torch.tensor([500])
    return model(latents, timestep, conditioning, extensions=extensions, at=AT, **options)


def named(name: str) -> Any:
    class Named:
        def block(self, next, x):
            return next([*x, name])

    return Named()


def test_the_first_listed_is_outermost() -> None:
    wrapped = around([named("outer"), object(), named("inner")], "block", lambda x: x)
    assert wrapped([]) == ["outer", "inner"]


def test_without_a_wrapper_the_inner_function_itself_is_called() -> None:
    def inner() -> None: ...

    assert around([], "block", inner) is inner
    assert around([object(), named("other")], "step", inner) is inner


def test_only_methods_of_the_class_count() -> None:
    class Swap:
        def __init__(self) -> None:
            self.blocks = self.model = [1, 2, 3]

    def inner() -> None: ...

    assert all(around([Swap()], seam, inner) is inner for seam in SEAMS)


class Watch:
    """Notes what each seam is given and changes nothing."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[Any, ...]]] = {}

    def blocks(self, next, *given):
        return self._note("blocks", next, given)

    def block(self, next, *given):
        return self._note("block", next, given)

    def self_attention(self, next, *given):
        return self._note("self_attention", next, given)

    def cross_attention(self, next, *given):
        return self._note("cross_attention", next, given)

    def _note(self, seam, next, given):
        self.seen.setdefault(seam, []).append(given)
        return next(*given)


def test_every_seam_is_told_what_it_wraps_and_changes_no_bit(model: WanDiT) -> None:
    watch = Watch()
    assert torch.equal(velocity(model, watch), velocity(model))
    assert {seam: len(calls) for seam, calls in watch.seen.items()} == {
        "blocks": 1, "block": 3, "self_attention": 3, "cross_attention": 3,
    }  # fmt: skip
    assert all(given[-1] is AT for calls in watch.seen.values() for given in calls)
    ((tokens, _),) = watch.seen["blocks"]
    assert isinstance(tokens, Tokens)
    assert (tokens.x.shape, tokens.x.dtype) == ((1, 8, 64), torch.float32)
    assert (tokens.time.shape, tokens.signal.shape) == ((1, 6, 64), (1, 64))
    assert [given[1] for given in watch.seen["block"]] == [0, 1, 2]
    q, k, v, i, _ = watch.seen["self_attention"][2]
    assert q.shape == k.shape == v.shape == (1, 2, 8, 32)
    assert i == 2
    q, i, _ = watch.seen["cross_attention"][1]
    assert (q.shape, i) == ((1, 2, 8, 32), 1)


def test_a_block_can_be_left_out(model: WanDiT) -> None:
    class Skip:
        def block(self, next, x, i, tokens, at):
            return x if i == 1 else next(x, i, tokens, at)

    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 16, 2, 4, 4, generator=generator)
    text = torch.randn(1, 5, 24, generator=generator)
    first, _, third = model.blocks
    shorter = WanDiT(WanDiTConfig(dim=64, num_heads=2, ffn_dim=96, num_layers=2, text_dim=24))
    shorter.load_state_dict(model.state_dict(), strict=False)
    shorter.blocks = torch.nn.ModuleList([first, third])
    expected = shorter(latents, torch.tensor([500]), shorter.prepare({"text": text}))
    assert torch.equal(velocity(model, Skip()), expected)
    assert not torch.equal(velocity(model), expected)


def test_the_attention_backend_belongs_to_the_call(model: WanDiT) -> None:
    calls = []

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        calls.append(q.shape)
        return plain(q, k, v)

    assert relative_error(velocity(model, attention=counted), velocity(model)) < 1e-5
    assert calls == [(1, 2, 8, 32)] * 3
