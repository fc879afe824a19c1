"""A contract on keys: each is named and told, none is claimed twice in one place, none is one to avoid."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections import defaultdict

import pytest
from textual.actions import parse
from textual.binding import Binding
from textual.screen import Screen
from textual.widget import Widget

import tui.app
from tui.app.app import ModiffApp

# Tab, enter, newline, backspace and esc on ordinary terminals; suspend; the prefixes of screen and tmux.
TO_AVOID = {
    *("ctrl+i", "ctrl+m", "ctrl+j", "ctrl+h", "ctrl+left_square_bracket", "ctrl+["),
    *("ctrl+z", "ctrl+a", "ctrl+b"),
}
# One key for two actions of which only one applies at a time: what is paused goes on with the same key.
TOGGLES = {("Live", "space"): {"pause", "resume"}}


def places():
    """The app, every screen and every widget of ours."""
    found = {ModiffApp}
    for module in pkgutil.walk_packages(tui.app.__path__, "tui.app."):
        for _, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(value, Widget) and value.__module__.startswith("tui."):
                found.add(value)
    return sorted(found, key=lambda place: f"{place.__module__}.{place.__name__}")


def own_bindings(place):
    return list(Binding.make_bindings(vars(place).get("BINDINGS", [])))


@pytest.mark.parametrize("place", places(), ids=lambda place: place.__name__)
def test_keys(place):
    claimed = defaultdict(set)
    for binding in own_bindings(place):
        assert binding.id, f"{binding.key} has no id"
        assert binding.description, f"{binding.key} is not described"
        assert binding.key not in TO_AVOID
        claimed[binding.key].add(binding.action)
    for key, actions in claimed.items():
        assert len(actions) == 1 or actions == TOGGLES.get((place.__name__, key)), (key, actions)


@pytest.mark.parametrize("place", places(), ids=lambda place: place.__name__)
def test_what_a_key_asks_for_is_there(place):
    for binding in own_bindings(place):
        where, name, _ = parse(binding.action)
        owner = {"": place, "app": ModiffApp, "screen": Screen}[where]
        found = [f"action_{name}", f"_action_{name}"]
        assert any(hasattr(owner, method) for method in found), binding


def test_an_id_is_of_one_action_with_a_key_in_common_wherever_it_is():
    keys, actions = defaultdict(list), defaultdict(set)
    for place in places():
        of_place = defaultdict(set)
        for binding in own_bindings(place):
            of_place[binding.id].add(binding.key)
            actions[place, binding.id].add(binding.action)
        for name, found in of_place.items():
            keys[name].append(found)
    assert {name: found for name, found in actions.items() if len(found) > 1} == {}
    assert {name: found for name, found in keys.items() if not set.intersection(*found)} == {}


def test_no_screen_takes_a_key_of_the_app():
    of_app = {binding.key for binding in own_bindings(ModiffApp)}
    for place in places():
        if place is not ModiffApp and place.__name__ != "Help":  # its key closes it
            assert not of_app & {binding.key for binding in own_bindings(place)}, place
