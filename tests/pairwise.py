"""Choices of settings in which every pair of values stands together at least once."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

Choice = dict[str, str]
_Pair = frozenset[tuple[str, str]]

_TRIES = 4


def every_pair(
    values: Mapping[str, Sequence[str]], refused: Callable[[Choice], bool] = lambda choice: False
) -> list[Choice]:
    """Choices of one value for each name, such that each pair of values of two names is in one of them, but for those
    that are `refused` by themselves. refused: of a choice of some names; whatever it refuses, some value of each
    further name stays possible.

    Greedy, and the same at every call: of some choices that begin with a missing pair, and take of each further name
    the value that brings most of them, the best is taken.
    """
    draw = random.Random(0)
    missing = {
        frozenset({(one, a), (other, b)}): None
        for one, other in combinations(values, 2)
        for a, b in product(values[one], values[other])
        if not refused({one: a, other: b})
    }
    found = []
    while missing:
        tries = [_tried(values, missing, refused, draw) for _ in range(_TRIES)]
        best = max(tries, key=lambda choice: len(_pairs(choice) & missing.keys()))
        for pair in _pairs(best):
            missing.pop(pair, None)
        found.append({name: best[name] for name in values})
    return found


def _tried(
    values: Mapping[str, Sequence[str]],
    missing: Mapping[_Pair, None],
    refused: Callable[[Choice], bool],
    draw: random.Random,
) -> Choice:
    choice: Choice = dict(sorted(draw.choice([*missing])))
    for name in draw.sample([*values], len(values)):
        if name in choice:
            continue
        possible = [value for value in values[name] if not refused({**choice, name: value})]
        brought = {
            value: sum(frozenset({(name, value), each}) in missing for each in choice.items())
            for value in draw.sample(possible, len(possible))
        }
        choice[name] = max(brought, key=lambda value: brought[value])
    return choice


def _pairs(choice: Choice) -> set[_Pair]:
    return {frozenset(pair) for pair in combinations(choice.items(), 2)}
