"""Which steps are kept: held against the words of the settings, for any size and budget."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.chain.thinning import KEYFRAME_LATENTS, kept_steps
from presets.errors import PresetError
from presets.library.loading import load_preset, override
from presets.spec.output import KeepSpec
from presets.spec.run import RunSpec

MB = 10**6
keeps = st.builds(
    KeepSpec,
    every=st.integers(0, 60),
    first=st.integers(0, 60),
    last=st.integers(0, 60),
    steps=st.lists(st.integers(1, 60), max_size=5).map(tuple),
    budget_mb=st.integers(0, 2000),
)


def named(keep: KeepSpec, total: int) -> set[int]:
    """The steps that a policy names, by the words of its settings."""
    return {
        step
        for step in range(1, total + 1)
        if (keep.every and step % keep.every == 0)
        or step <= keep.first
        or step > total - keep.last
        or step in keep.steps
    }


@given(keep=keeps, total=st.integers(1, 50))
def test_with_room_for_all_what_is_named_is_kept(keep: KeepSpec, total: int) -> None:
    kept = kept_steps(msgspec.structs.replace(keep, budget_mb=10**6), total, MB)
    if keep.every == 1:
        assert kept is None  # a complete journal
    else:
        assert kept == named(keep, total)


@given(keep=keeps, total=st.integers(1, 50), latent_bytes=st.integers(1000, 30 * MB))
def test_a_budget_is_kept_and_used_up(keep: KeepSpec, total: int, latent_bytes: int) -> None:
    kept = kept_steps(keep, total, latent_bytes)
    if kept is None:
        assert keep.every == 1
        assert total * latent_bytes <= keep.budget_mb * MB
        return
    each = KEYFRAME_LATENTS * latent_bytes
    wanted = named(keep, total)
    assert kept <= wanted
    assert len(kept) * each <= keep.budget_mb * MB
    if kept != wanted:
        assert (len(kept) + 1) * each > keep.budget_mb * MB


@given(total=st.integers(2, 200), affordable=st.integers(1, 60))
def test_what_a_budget_leaves_is_spread_over_the_run_to_its_end(
    total: int, affordable: int
) -> None:
    """The farther apart two kept steps are, the more there is to compute again between them."""
    keep = KeepSpec(budget_mb=affordable * KEYFRAME_LATENTS)
    kept = kept_steps(keep, total, MB)
    if kept is None:
        return
    if total > affordable:
        assert len(kept) == affordable
    assert max(kept) == total
    ordered = [0, *sorted(kept)]
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    assert max(gaps) - min(gaps) <= 1


def test_the_defaults_keep_every_step_of_every_shipped_size() -> None:
    """fp32 latents of 16 channels; high_quality has the largest published size, 1280x720 with 81 frames."""
    for name in ("micro", "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "high_quality"):
        spec = load_preset(name)
        frames = 1 + (spec.frames - 1) // 4
        latent_bytes = 4 * 16 * frames * (spec.height // 8) * (spec.width // 8)
        assert kept_steps(spec.keep, spec.scheduler.steps, latent_bytes) is None


def test_what_does_not_fit_is_thinned() -> None:
    """100 steps at 720p would be 1.9 GB; keyframes of three latents are kept instead, evenly."""
    kept = kept_steps(KeepSpec(), 100, 4 * 16 * 21 * 90 * 160)
    assert kept is not None
    assert len(kept) == 17
    assert max(kept) == 100


@pytest.mark.parametrize("budget", [0, 1])
def test_no_budget_keeps_nothing(budget: int) -> None:
    assert kept_steps(KeepSpec(budget_mb=budget), 20, 8 * MB) == frozenset()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("keep.every=-1", "keep.every: expected an integer >= 0"),
        ("keep.steps=[0]", r"keep.steps\[0\]: expected an integer >= 1"),
        ("keep.last=0.5", "keep.last: expected an integer"),
        ("keep.evry=1", "unknown key, did you mean keep.every"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(wrong: str, message: str) -> None:
    with pytest.raises(PresetError, match=message):
        override(RunSpec(), [wrong])
