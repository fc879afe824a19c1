"""A sweep: the product of varied settings as runs, in an order in which their shared steps meet. Torch-free.

Runs that share their first steps come after each other, so that whoever computes those steps is
followed by all that reuse them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import inspect

from engine.checkpoints.library import scan_places
from engine.components.choice import settle
from engine.inputs.settle import Settled
from engine.tasks.reach import ORDER, reach
from engine.tasks.route import route_of
from presets.encoding import encode_spec
from presets.errors import PresetError
from presets.fields.keys import parse_key, value_at
from presets.fields.listing import Field, fields
from presets.settings.overrides import parse_changes, toml_value
from presets.spec.run import RunSpec
from presets.validation import to_plain, validate
from store.errors import StoreError
from store.lineage.queue import new_id
from store.lineage.records import Segment
from store.store import Store

# A range of more values is a typing slip, and would be held in memory before anybody is asked.
MAX_VALUES = 10_000

_MAX_SLUG = 40
# in the name of an output they are told by their own names
_GIVEN_FILES = ("image.path", "last_image.path", "video.path")
_RANGE = re.compile(
    r"([+-]?\d{1,20}(?:\.\d{1,9})?)\.\.([+-]?\d{1,20}(?:\.\d{1,9})?)"
    r"(?:\.\.([+-]?\d{1,20}(?:\.\d{1,9})?))?"
)
# what people write for one, also as other programs have it: 1-8, 1:8:2
_LIKE_A_RANGE = re.compile(r"""[^"'\[{]*\.\.|\d+(?:[-:]\d+)+$""")
_PLACE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that is varied. values: texts that each make an override, `KEY=VALUE`. has_range: whether some of them
    were written as a range."""

    key: str
    values: tuple[str, ...]
    has_range: bool = dataclasses.field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep. values: what it has for each varied key, in the order of the axes. notes: what there is to
    say of the pictures and the clip that it begins from."""

    values: Mapping[str, object]
    spec: RunSpec
    segments: tuple[Segment, ...] = ()
    notes: tuple[str, ...] = ()


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """`["seed=1..8", "guidance.scale=4,5,6"]` -> axes; raises PresetError.

    Values are separated by commas. Each is a TOML value, bare text, or for anything but text a
    range `FIRST..LAST` or `FIRST..LAST..STEP` that includes its end.
    """
    axes = [_parse_axis(text) for text in texts]
    for axis in axes:
        if sum(other.key == axis.key for other in axes) > 1:
            raise PresetError("is varied twice; give all its values at once", key=axis.key)
    return axes


def count(axes: Sequence[Axis]) -> int:
    """How many runs the product of the axes is."""
    return math.prod(len(axis.values) for axis in axes)


def make_members(
    axes: Sequence[Axis],
    load: Callable[[Sequence[str]], RunSpec],
    check: Callable[[RunSpec], object],
    *,
    look: Callable[[RunSpec], Settled] = Settled,
    from_step: int | None = None,
    stop_at: int | None = None,
) -> list[Member]:
    """The runs of the product, each checked as `engine.client.submit` would check it.

    load: overrides -> the run that the preset makes with them. check: refuses a run whose components cannot be met,
    as `engine.client.check` does; asked once for runs that have the same. look: at what a run begins from, as
    `engine.client.settled`. from_step: the varied values hold
    from that step on, except those that the noise depends on. stop_at: how many steps each run is
    to do. Raises PresetError, ComponentError or CheckpointError; two equal runs are an error.
    """
    if from_step is not None and not any(reach(axis.key) == "steps" for axis in axes):
        raise PresetError(
            f"from step {from_step} on nothing would differ: none of "
            f"{', '.join(axis.key for axis in axes)} can change between steps"
        )
    ordered = sorted(axes, key=lambda axis: ORDER.index(reach(axis.key)))
    checked: set[bytes] = set()
    scan = functools.cache(scan_places)  # the model folders are looked through once for all
    seen: dict[bytes, str] = {}
    prefixes: dict[tuple[str, ...], RunSpec] = {}
    found = []
    for texts in itertools.product(*(axis.values for axis in ordered)):
        chosen = {axis.key: text for axis, text in zip(ordered, texts, strict=True)}
        named = ", ".join(f"{axis.key}={chosen[axis.key]}" for axis in axes)
        loaded = settle(load([f"{key}={text}" for key, text in chosen.items()]), scan)
        segments: tuple[Segment, ...] = ()
        if from_step is not None:
            root = tuple(f"{key}={text}" for key, text in chosen.items() if reach(key) == "noise")
            if root not in prefixes:
                prefixes[root] = look(settle(load(root), scan)).spec
            before = prefixes[root]
            segments = (Segment(from_step, encode_spec(before)),)
            # what another picture would make of its size comes too late
            loaded = msgspec.structs.replace(loaded, width=before.width, height=before.height)
        looked_at = look(loaded)
        spec = looked_at.spec
        _check_steps(spec, segments, stop_at)
        encoded = encode_spec(spec)
        if encoded in seen:
            raise PresetError(f"{named} is the same run as {seen[encoded]}; give each value once")
        seen[encoded] = named
        _check_once(spec, check, checked)
        values = {axis.key: to_plain(_value(loaded, axis.key)) for axis in axes}
        found.append(Member(values, spec, segments, looked_at.notes))
    return found


def with_outputs(members: Sequence[Member], pattern: str) -> list[Member]:
    """The members with outputs of their own, from the pattern or, where it is empty, from their specs.

    `{index}` in a pattern counts from 1, any key of a run stands for its value (`{seed}`,
    `{guidance.scale}`), and `{run}` is left for the store. Raises PresetError where two members
    would write one file.
    """
    width = len(str(len(members)))
    found: list[Member] = []
    taken: set[str] = set()
    for number, member in enumerate(members, start=1):
        path = member.spec.output.path
        if pattern:
            path = _filled(pattern, member, f"{number:0{width}}")
        if path and "{run}" not in path and path in taken:
            raise PresetError(
                f"{path} would be written by several runs; name them apart with {{run}}, {{index}} "
                "or what is varied, as in --output {index}-{seed}.mp4",
                key="output.path",
            )
        taken.add(path)
        output = msgspec.structs.replace(member.spec.output, path=path)
        spec = validate(msgspec.structs.replace(member.spec, output=output))
        found.append(replace(member, spec=spec))
    return found


def queue_member(
    store: Store, member: Member, *, preset: str, stop_at: int | None, tag: str
) -> str:
    """Queue one run of a sweep under the tag that all of its runs have; returns its id. Raises as
    `engine.client.submit` does."""
    from engine.client import submit

    run_id = submit(
        store,
        member.spec,
        preset=preset,
        segments=member.segments,
        stop_at=stop_at,
        is_checked=True,
    )
    store.tag(run_id, [tag])
    return run_id


def queue_members(
    store: Store, members: Sequence[Member], *, preset: str, stop_at: int | None, tag: str
) -> list[str]:
    """Queue all runs of a sweep, or none: those that were queued are cancelled where one cannot be."""
    run_ids: list[str] = []
    try:
        # one by one, so that what is queued is known when the next is refused
        for member in members:
            run_id = queue_member(store, member, preset=preset, stop_at=stop_at, tag=tag)
            run_ids.append(run_id)
    except BaseException:  # ctrl+c too: a part of a sweep is nothing that was asked for
        with contextlib.suppress(StoreError):  # what led here is the thing to tell
            store.request_cancel_all(run_ids)
        raise
    return run_ids


def new_tag() -> str:
    """`sweep/ID`, of an id that no sweep has."""
    return f"sweep/{new_id()}"


def _parse_axis(text: str) -> Axis:
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or not listed.strip():
        raise PresetError(
            f'expected values to vary, like seed=1..8 or seed=1,2,3, got "{text[:60]}"'
        )
    field = next((field for field in fields(RunSpec) if field.key == key), None)
    if key.startswith("output."):
        raise PresetError("is not varied; the outputs of a sweep are named by --output", key=key)
    items = _split(listed, key)
    is_text = field is not None and isinstance(field.type, inspect.StrType)
    values: list[str] = []
    has_range = False
    for item in items:
        if field is None or is_text or not _LIKE_A_RANGE.match(item):
            values.append(item)
            continue
        has_range = True
        values += _values_of_range(item, key, is_whole=isinstance(field.type, inspect.IntType))
    for value in values:
        parse_changes([f"{key}={value}"])  # the key and the type, before a product is made of it
    return Axis(key, tuple(values), has_range)


def _split(text: str, key: str) -> list[str]:
    """A list at its commas, but not at those inside a quoted text, an array or a table."""
    items = []
    rest = text.strip()
    while True:
        end = _end_of_item(rest, key)
        item = rest[:end].strip()
        if not item:
            raise PresetError(
                'one of the listed values is empty; write "" for an empty text', key=key
            )
        items.append(item)
        if end == len(rest):
            return items
        rest = rest[end + 1 :].strip()


def _end_of_item(text: str, key: str) -> int:
    commas = [i for i, character in enumerate(text) if character == ","]
    if text[:1] not in ('"', "'", "[", "{"):
        return commas[0] if commas else len(text)
    for end in (*commas, len(text)):
        try:
            tomllib.loads(f"value = {text[:end]}")
        except (ValueError, RecursionError):
            continue
        return end
    raise PresetError(f'the value that begins with "{text[:20]}" does not end', key=key)


def _values_of_range(text: str, key: str, *, is_whole: bool) -> list[str]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise PresetError(
            f"{text[:60]} is no range; expected FIRST..LAST or FIRST..LAST..STEP, as in 1..8 or 1..8..2",
            key=key,
        )
    first, last = Decimal(found[1]), Decimal(found[2])
    step = Decimal(found[3]) if found[3] else Decimal(1 if first <= last else -1)
    if step == 0 or (first != last and (step > 0) != (first < last)):
        raise PresetError(f"the range {text} does not lead from {first} to {last}", key=key)
    if is_whole and not (first == int(first) and step == int(step)):
        raise PresetError(f"the range {text} has values between integers", key=key)
    num_values = int((last - first) / step) + 1
    if num_values > MAX_VALUES:
        raise PresetError(
            f"the range {text} has {num_values} values; expected at most {MAX_VALUES}", key=key
        )
    return [f"{(first + i * step).normalize():f}" for i in range(num_values)]


def _check_steps(spec: RunSpec, segments: Sequence[Segment], stop_at: int | None) -> None:
    steps = route_of(spec, segments).num_steps
    if stop_at is not None and stop_at > steps:
        raise PresetError(f"expected to stop at one of {steps} steps, got {stop_at}")
    if stop_at is not None and segments and stop_at <= segments[0].stop:
        raise PresetError(
            f"the runs would stop at step {stop_at}, before they differ from step {segments[0].stop} on"
        )


def _check_once(spec: RunSpec, check: Callable[[RunSpec], object], checked: set[bytes]) -> None:
    """`check`, which reads file headers, for what of a run it looks at and has not seen before."""
    parts = msgspec.json.encode((spec.components, spec.extensions))
    if parts not in checked:
        check(spec)
        checked.add(parts)


def _filled(pattern: str, member: Member, number: str) -> str:
    def fill(place: re.Match[str]) -> str:
        key = place[1]
        if key == "run":
            return place[0]
        if key == "index":
            return number
        is_known = any(field.key == key and not _is_long(field) for field in fields(RunSpec))
        if not is_known and key not in member.values:
            raise PresetError(
                f"{place[0]} stands for nothing; there are {{run}}, {{index}} and the keys of a "
                "run, such as {seed} and {guidance.scale}",
                key="output.path",
            )
        value = _value(member.spec, key)
        return _slug(PurePath(value).stem if key in _GIVEN_FILES else value)

    return _PLACE.sub(fill, pattern)


def _value(spec: RunSpec, key: str) -> Any:
    return value_at(spec, parse_key(key) or ())


def _is_long(field: Field) -> bool:
    return field.key == "output.path" or isinstance(
        field.type, inspect.VarTupleType | inspect.DictType
    )


def _slug(value: Any) -> str:
    """A value as a part of a file name."""
    if isinstance(value, tuple):
        value = toml_value(to_plain(value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text)[:_MAX_SLUG].strip("-.") or "-"
