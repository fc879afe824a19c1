"""A chain replayed from tensors: any stored state is rebuilt to the bit, and nothing tampered with is believed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.chain.rebuild import Replayed, clean_latents, latents_digest, replayed, scheduler_of
from engine.errors import Unfaithful
from engine.graph import Node, Ref
from engine.results import StoreResults
from engine.schedulers.course import Course, make_course, redirected
from engine.schedulers.scheduler import Scheduler, SolverState, follow_course
from engine.schedulers.update import history_lengths
from engine.tasks.wan import NOISE, STEP
from store.blobs import blobs
from store.blobs.tensors import decode_tensors, encode_tensors
from store.errors import BlobCorrupt, BlobMissing
from store.index.index import open_index
from store.keys import derive_key
from store.lineage.records import LinkRecord
from store.store import Store, open_store
from tests.stores.chains import any_run, record

STEPS = 7
SHAPE = (1, 2, 3, 4, 4)

COURSES = {
    **{name: make_course(name, num_steps=STEPS) for name in ("unipc", "dpm++", "euler")},
    "unipc, then dpm++": redirected(
        make_course("unipc", num_steps=STEPS), 3, make_course("dpm++", num_steps=STEPS)
    ),
    "dpm++, other levels": redirected(
        make_course("dpm++", num_steps=STEPS), 4, make_course("dpm++", num_steps=9, shift=2.0)
    ),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def put(store: Store, tensors: dict[str, Tensor]) -> str:
    return blobs.put(store.root, encode_tensors(tensors))


@dataclass(frozen=True)
class Step:
    """A node, and what is on record for it."""

    node: Node
    link: LinkRecord | None

    @property
    def index(self) -> int:
        return self.node.hints["index"]


def nodes_of(course: Course) -> list[Node]:
    """The steps of a course, as a run has them."""
    before = Node("noise", NOISE, {}, {})
    lengths = history_lengths(course.updates)
    found = []
    for index, update in enumerate(course.updates):
        params = {
            "timestep": course.timesteps[index],
            "update": [update.sigma, update.latents, update.velocity, *update.x0],
        }
        hints = {"index": index, "total": course.num_steps, "history": lengths[index + 1]}
        slots = {"before": Ref(before, "state", "key")}
        before = Node(f"step {index + 1}", STEP, slots, params, hints=hints)
        found.append(before)
    return found


def rebuilt(
    store: Store, scheduler: Scheduler, noise: Tensor, steps: Sequence[Step]
) -> Iterator[Replayed]:
    results = StoreResults(store, store.run(any_run(store)), lambda: open_index(store.root))
    links = {step.node: step.link for step in steps}
    nodes = [step.node for step in steps]
    return replayed(
        nodes, links.get, lambda digest: decode_tensors(results.read(digest)), scheduler, noise
    )


class Chain:
    """A run that was denoised for real (by a made-up model) and stored: `states` are what it went through."""

    def __init__(
        self,
        store: Store,
        course: Course,
        *,
        journal: Callable[[int], bool] = lambda number: True,
        keyframe: Callable[[int], bool] = lambda number: False,
        seed: int = 0,
    ) -> None:
        self.store, self.scheduler = store, follow_course(course)
        scheduler, nodes = self.scheduler, nodes_of(course)
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(SHAPE, generator=generator)
        self.states = [scheduler.start(self.noise)]
        self.velocities: list[Tensor] = []
        self.steps: list[Step] = []
        while self.states[-1].step < scheduler.num_steps:
            velocity = torch.randn(SHAPE, generator=generator)
            state = scheduler.step(self.states[-1], velocity)
            self.velocities.append(velocity)
            self.states.append(state)
            link = LinkRecord(
                derive_key("step", [seed, scheduler.name, state.step]),
                "step",
                put(store, {"velocity": velocity}) if journal(state.step) else "",
                latents_digest(state.latents),
                put(store, state.to_tensors()) if keyframe(state.step) else "",
            )
            self.steps.append(Step(nodes[state.step - 1], link))

    def rebuilt(self, total: int) -> list[SolverState]:
        return [
            step.state
            for step in rebuilt(self.store, self.scheduler, self.noise, self.steps[:total])
        ]

    def changed(self, number: int, **changes: str) -> Sequence[Step]:
        """The steps with the link of one of them changed, as a row might be."""
        steps = list(self.steps)
        link = steps[number - 1].link
        assert link is not None
        steps[number - 1] = replace(steps[number - 1], link=replace(link, **changes))
        return steps


def same_bits(one: SolverState, other: SolverState) -> bool:
    mine, theirs = one.to_tensors(), other.to_tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def end_to_end(chain: Chain, state: SolverState) -> Tensor:
    """The latents at the end of the run when it goes on from that state."""
    while state.step < chain.scheduler.num_steps:
        state = chain.scheduler.step(state, chain.velocities[state.step])
    return state.latents


@pytest.mark.parametrize("course", COURSES)
def test_every_state_is_rebuilt_from_the_journal_to_the_bit(store: Store, course: str) -> None:
    chain = Chain(store, COURSES[course])
    for total in range(chain.scheduler.num_steps + 1):
        states = chain.rebuilt(total)
        assert [state.step for state in states] == list(range(1, total + 1))
        assert all(same_bits(state, chain.states[state.step]) for state in states)
        last = states[-1] if states else chain.states[0]
        assert torch.equal(end_to_end(chain, last), chain.states[-1].latents)


def test_the_steps_tell_what_led_to_them(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    steps = list(rebuilt(store, chain.scheduler, chain.noise, chain.steps))
    assert [step.node for step in steps] == [step.node for step in chain.steps]
    for step, velocity, before in zip(steps, chain.velocities, chain.states, strict=False):
        assert step.velocity is not None
        assert step.before is not None
        assert torch.equal(step.velocity, velocity)
        assert same_bits(step.before, before)


@pytest.mark.parametrize("name", COURSES)
def test_the_scheduler_of_a_chain_is_that_of_its_course(name: str) -> None:
    course = follow_course(COURSES[name])
    mine = scheduler_of(nodes_of(COURSES[name]))
    assert mine.updates == course.updates
    assert mine.history_lengths == course.history_lengths
    assert mine.timesteps.tolist() == course.timesteps.tolist()


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize(
    ("journal", "keyframes"),
    [
        ((), (4,)),
        ((5,), (1, 4)),
        ((1, 2, 5), (4,)),
        ((1, 2, 3, 4, 5), (2,)),
        ((2, 3, 5), (1, 4, 5)),
    ],
)
def test_a_state_is_rebuilt_from_keyframes_to_the_bit(
    store: Store, course: str, journal: Sequence[int], keyframes: Sequence[int]
) -> None:
    """To the last of the steps that are reached, whatever holes there are before."""
    chain = Chain(
        store,
        COURSES[course],
        journal=journal.__contains__,
        keyframe=keyframes.__contains__,
    )
    last = chain.rebuilt(max((*journal, *keyframes)))[-1]
    assert last.step == max((*journal, *keyframes))
    assert same_bits(last, chain.states[last.step])
    assert torch.equal(end_to_end(chain, last), chain.states[-1].latents)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    course=st.sampled_from(list(COURSES)),
    journal=st.sets(st.integers(1, STEPS)),
    keyframes=st.sets(st.integers(1, STEPS)),
    seed=st.integers(0, 5),
)
def test_whatever_is_rebuilt_is_what_was(
    store: Store, course: str, journal: set[int], keyframes: set[int], seed: int
) -> None:
    chain = Chain(
        store,
        COURSES[course],
        journal=journal.__contains__,
        keyframe=keyframes.__contains__,
        seed=seed,
    )
    reachable = {0}
    for number in range(1, chain.scheduler.num_steps + 1):
        if number in keyframes or (number in journal and number - 1 in reachable):
            reachable.add(number)
    states = chain.rebuilt(max(reachable))
    assert all(same_bits(state, chain.states[state.step]) for state in states)
    assert max((state.step for state in states), default=0) == max(reachable)


def test_a_keyframe_before_which_nothing_is_missing_is_not_needed(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"], keyframe=(3).__eq__)
    assert [state.step for state in chain.rebuilt(5)] == [1, 2, 3, 4, 5]


def test_only_what_is_needed_is_read(store: Store) -> None:
    """Behind the last keyframe that is needed the journal may be gone."""
    chain = Chain(store, COURSES["unipc"], journal=lambda n: n != 2, keyframe=(4).__eq__)
    link = chain.steps[0].link
    assert link is not None
    os.unlink(blobs.blob_path(store.root, link.digest))
    assert [state.step for state in chain.rebuilt(6)] == [4, 5, 6]


def test_a_keyframe_of_a_longer_memory_serves_a_solver_that_needs_less(store: Store) -> None:
    """The run that kept it went on with UniPC; this one goes on from there with Euler."""
    course = COURSES["unipc"]
    kept = Chain(store, course, journal=lambda n: False, keyframe=(3).__eq__)
    assert len(kept.states[3].history) == 2
    branch = follow_course(redirected(course, 3, make_course("euler", num_steps=STEPS)))
    (step,) = rebuilt(store, branch, kept.noise, kept.steps[:3])
    assert torch.equal(step.state.latents, kept.states[3].latents)
    assert step.state.history == ()


def test_a_keyframe_with_too_little_memory_is_not_used(store: Store) -> None:
    """Before its last step a run needs no history; one that goes on for longer does."""
    course = COURSES["unipc"]
    kept = Chain(store, course, journal=lambda n: False, keyframe=(6).__eq__)
    longer = redirected(course, 6, make_course("unipc", sigmas=[0.9, 0.3, 0.2, 0.1]))
    with pytest.raises(Unfaithful, match="after step 6 has too little history"):
        list(rebuilt(store, follow_course(longer), kept.noise, kept.steps[:6]))


# What is not believed


def until_refused(store: Store, chain: Chain, steps: Sequence[Step]) -> tuple[int, str]:
    """(the last step that was rebuilt, why it ended there)."""
    number = 0
    try:
        for step in rebuilt(store, chain.scheduler, chain.noise, steps):
            number = step.state.step
    except Unfaithful as refusal:
        return number, str(refusal)
    raise AssertionError(f"all {number} steps were believed")


def test_a_velocity_of_another_step(store: Store) -> None:
    chain = Chain(store, COURSES["euler"])
    other = chain.steps[5].link
    assert other is not None
    number, why = until_refused(store, chain, chain.changed(3, digest=other.digest))
    assert (number, why) == (2, "step 3 does not replay to the latents on record")


def test_a_velocity_with_one_bit_changed(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    velocity = chain.velocities[2].clone()
    velocity.view(torch.int32).view(-1)[0] ^= 1 << 12  # below that, the step itself rounds it away
    steps = chain.changed(3, digest=put(store, {"velocity": velocity}))
    assert until_refused(store, chain, steps)[0] == 2


def test_other_noise(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    chain.noise = chain.noise + 1e-6
    assert until_refused(store, chain, chain.steps)[0] == 0


def test_another_solver(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    chain.scheduler = follow_course(COURSES["dpm++"])
    assert until_refused(store, chain, chain.steps)[0] == 0


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"states": torch.zeros(3, 4)}, "step 4 has no velocity"),
        ({"velocity": torch.zeros(1, 2, 3, 4, 5)}, "no step: velocity has shape"),
        ({"velocity": torch.zeros(SHAPE, dtype=torch.int64)}, "no step: velocity is torch.int64"),
        ({}, "step 4 has no velocity"),
    ],
)
def test_a_blob_of_something_else(store: Store, tensors: dict[str, Tensor], why: str) -> None:
    chain = Chain(store, COURSES["unipc"])
    steps = chain.changed(4, digest=put(store, tensors))
    number, refusal = until_refused(store, chain, steps)
    assert number == 3
    assert why in refusal


def test_a_blob_that_is_no_tensors(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    steps = chain.changed(2, digest=blobs.put(store.root, b"an mp4, perhaps"))
    done, error = until_refused(store, chain, steps)
    assert done == 1
    assert "not a tensor file" in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"step": torch.tensor(5)},
        {"step": torch.tensor(500)},
        {"step": torch.tensor([4, 4])},
        {"latents": torch.zeros(SHAPE)},
        {"latents": torch.zeros(2)},
        {"history.0": torch.zeros(2)},
    ],
)
def test_a_keyframe_of_something_else(store: Store, change: dict[str, Tensor]) -> None:
    chain = Chain(store, COURSES["unipc"], journal=lambda n: n > 4)
    wrong = put(store, {**chain.states[4].to_tensors(), **change})
    assert until_refused(store, chain, chain.changed(4, state=wrong))[0] == 0


def test_a_link_that_is_not_there(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    steps = [replace(step, link=None) if step.index == 2 else step for step in chain.steps]
    assert until_refused(store, chain, steps) == (2, "step 3 is not stored")


# What is gone or damaged


@pytest.mark.parametrize("kind", ["digest", "state"])
@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_blob_that_cannot_be_had_is_forgotten(store: Store, kind: str, damage: str) -> None:
    only = {"digest": (lambda n: True, lambda n: False), "state": (lambda n: False, lambda n: True)}
    journal, keyframe = only[kind]
    chain = Chain(store, COURSES["unipc"], journal=journal, keyframe=keyframe)
    run_id = any_run(store)
    for step in chain.steps:
        assert step.link is not None
        record(store, run_id, step.link, "step", step.index)
    path = blobs.blob_path(store.root, getattr(chain.steps[2].link, kind))
    if damage == "gone":
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BlobMissing if damage == "gone" else BlobCorrupt):
        chain.rebuilt(3 if kind == "state" else STEPS)
    links = store.find_links([step.link.key for step in chain.steps])
    lost = links[chain.steps[2].link.key]
    assert getattr(lost, kind) == ""
    assert (
        lost.latents == chain.steps[2].link.latents
    )  # what it was is known: a recomputation is held to it
    assert all(getattr(links[step.link.key], kind) for step in chain.steps if step.index != 2)


def test_what_a_velocity_points_to(store: Store) -> None:
    chain = Chain(store, COURSES["unipc"])
    before, velocity = chain.states[3], chain.velocities[3]
    clean = clean_latents(chain.steps[3].node, before.latents, velocity)
    noise = before.latents + (1 - chain.scheduler.sigmas[3]) * velocity
    sigma = chain.scheduler.sigmas[3]
    assert torch.allclose((1 - sigma) * clean + sigma * noise, before.latents, atol=1e-5)
    # the last step goes exactly there
    last = clean_latents(chain.steps[-1].node, chain.states[-2].latents, chain.velocities[-1])
    assert torch.allclose(last, chain.states[-1].latents, atol=1e-6)
