"""What a run changes: of its preset, of the run that it was branched from, and what varies among several runs.

Pure: runs in, rows and words out. The same words in the tree and the table of the app, its queue, `modiff runs` and
`modiff tree`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from engine.compare.settings import Difference
from presets.fields.listing import fields, found_out
from presets.settings.by_key import LATER, Settings, flatten, settings_of
from presets.spec.run import RunSpec
from tui.describe import extensions
from tui.describe.guidance import scale_told
from tui.describe.inputs import GIVEN, file_name
from tui.describe.runs.finding.setting_keys import given_files, short_name
from tui.text import printable, shorten

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from store.lineage.records import RunRecord

# Where a run writes and what it keeps is no difference of what it makes; of a template its name tells.
_NOT_TOLD = ("output.", "keep.", "expansion.instructions")
# Files are named by their paths once a run is queued, whatever the preset calls them; texts are told by themselves.
_NOT_TOLD_ENDS = (".checkpoint", ".tokenizer", ".instructions", "expansion.text")
_PLACE = re.compile(r"\[\d+\]")
_MAX_VALUE = 24
_ROOM_FOR_VALUE = 16  # where a value stands beside another one


@lru_cache(maxsize=2048)
def settings_in(spec_json: bytes) -> Settings:
    """What is written in a spec, by dotted keys in the order of the RunSpec; what that does not have comes last, and
    what nobody sets is left out.

    Cached: lists of runs ask for the same ones again and again.
    """
    spec = json.loads(spec_json)
    guidance = spec.get("guidance")
    if isinstance(guidance, dict) and isinstance(scale := guidance.get("scale"), list):
        guidance["scale"] = tuple(scale)  # one value, which `flatten` leaves whole
    given = spec.get(extensions.KEY)
    for extension in given if isinstance(given, list) else ():
        if isinstance(extension, dict):  # a run of before they could be off does not say it
            extension.setdefault("enabled", True)
    found, places = flatten(spec), _places()
    if isinstance(
        spec.get("components"), dict
    ):  # a run of before there were these does not say them
        found = {**_neutral(), **found}
    told = {key: value for key, value in found.items() if key not in found_out(RunSpec)}
    return dict(sorted(told.items(), key=lambda item: places.get(item[0], len(places))))


@cache
def _neutral() -> Settings:
    """What came to be settings when there were runs already, at the values at which they do nothing."""
    later = (
        *("expansion.", "components.prompt_expander.", "components.image_encoder."),
        *("image.", "last_image.", "video.", "max_area"),
    )
    endings = tuple(f".{name}" for name in LATER)
    return {
        key: value
        for key, value in settings_of(RunSpec()).items()
        if key.startswith(later) or key.endswith(endings)
    }


@cache
def _places() -> dict[str, int]:
    return {each.key: place for place, each in enumerate(fields(RunSpec))}


def setting_of(record: RunRecord, key: str) -> Any:
    """The value of one setting; its default where the spec is from before it, None for one that it does not have."""
    from tui.describe.runs.finding.setting_keys import UnknownKey, setting

    found = settings_in(record.spec_json)
    if key in found:
        return found[key]
    if key == extensions.KEY:
        return extensions.extensions_in(found)
    if "[N]" in key:
        values = [value for name, value in found.items() if _PLACE.sub("[N]", name) == key]
        return values if len(values) > 1 else next(iter(values), None)
    parts = [name for name in found if name.startswith(f"{key}.")]
    if parts:
        return {name.removeprefix(f"{key}."): found[name] for name in parts}
    try:
        field = setting(key).field
    except UnknownKey:
        return None
    return field.default if field else None


# Of the preset


def preset_changes(record: RunRecord, preset: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run has otherwise than its preset, but for the prompt, which is told by itself.

    preset: its settings as `settings_in` has them; {}: there is none to compare with.
    """
    if not preset:
        return {}
    return {
        change.key: change.b
        for change in _differences(preset, settings_in(record.spec_json))
        if change.key != "prompt" and not change.key.endswith(_NOT_TOLD_ENDS)
    }


# Among each other

# From so many runs on, what more than this share of them have is not told of each.
_SEVERAL, _NEARLY_ALL = 5, 0.7


def varying(records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """By run the settings in which the runs of its preset differ: those first that most others have otherwise, then
    the files that it begins from, then those of the most values; {} for the only one of a preset. What nearly all of
    several runs have in common is told of the others alone. Presets are told apart by their names, and prompts by
    themselves."""
    return _varying(tuple((record.id, record.preset, record.spec_json) for record in records))


@lru_cache(maxsize=4)
def _varying(runs: tuple[tuple[str, str, bytes], ...]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {run_id: {} for run_id, _, _ in runs}
    by_preset: dict[str, list[tuple[str, Settings]]] = defaultdict(list)
    for run_id, preset, spec_json in runs:
        by_preset[preset].append((run_id, settings_in(spec_json)))
    for members in by_preset.values():
        specs = extensions.aligned([settings for _, settings in members])
        keys = _keys_that_vary(specs)
        usual = {key: _usual([spec.get(key) for spec in specs]) for key in keys}
        common = {key: _usual([spec.get(key) for spec in specs], _NEARLY_ALL) for key in keys}
        for (run_id, _), settings in zip(members, specs, strict=True):
            values = {key: settings.get(key) for key in keys}
            told = [
                key
                for key in keys
                if not _is_moot(key, settings)
                and (len(members) < _SEVERAL or _written(values[key]) != common[key])
            ]
            in_order = sorted(told, key=lambda key: _written(values[key]) == usual[key])
            found[run_id] = {key: values[key] for key in in_order}
    return found


def _is_moot(key: str, settings: Settings) -> bool:
    """Whether a setting is of a picture or a clip that a run does not have, or of what looks at its pictures."""
    if key.startswith("components.image_encoder."):
        return settings.get("task", "t2v") == "t2v"
    name, _, _ = key.partition(".")
    return name in GIVEN and not settings.get(f"{name}.path")


def _usual(values: Sequence[object], share: float = 0.5) -> str | int | None:
    """What more than this share of the runs have, as `_written` has it."""
    [(value, number)] = Counter(map(_written, values)).most_common(1)
    return value if number > share * len(values) else None


def varying_in(specs: Sequence[bytes]) -> list[dict[str, Any]]:
    """For each spec of a set its values of the settings that vary in it, files first, then those of the most values,
    and prompts, which are long, last; {} where nothing does."""
    settings = extensions.aligned([settings_in(spec) for spec in specs])
    keys = _keys_that_vary(settings, told_elsewhere=())
    keys.sort(key=lambda key: key.endswith("prompt"))
    return [{key: each.get(key) for key in keys if not _is_moot(key, each)} for each in settings]


def _keys_that_vary(
    specs: Sequence[Settings],
    told_elsewhere: Collection[str] = ("prompt", "expansion.text"),
) -> list[str]:
    keys = dict.fromkeys(key for spec in specs for key in spec)
    num_values = {
        key: len({_written(spec.get(key)) for spec in specs})
        for key in keys
        if key not in told_elsewhere and not key.startswith(_NOT_TOLD)
    }
    varied = [key for key, number in num_values.items() if number > 1]
    # what a run begins from tells people more than any number
    return sorted(varied, key=lambda key: (key not in given_files(), -num_values[key]))


def _written(value: object) -> str | int:
    """As text, because to Python true equals 1; a number of it would be slower, and most are that."""
    return value if type(value) is int else json.dumps(value)


def values_told(values: Mapping[str, object]) -> str:
    """`seed 7, steps 400`."""
    return ", ".join(
        f"{short_name(key)} {setting_told(key, value)}" for key, value in values.items()
    )


def values_within(values: Mapping[str, object], width: int) -> str:
    """Those of them that fit into so many cells, and how many more there are: `seed 7, width 48 +2`. The first one,
    of the most values, is cut rather than left out."""
    parts = [f"{short_name(key)} {setting_told(key, value)}" for key, value in values.items()]
    if cell_len(whole := ", ".join(parts)) <= width:
        return whole
    more = len(f" +{len(parts)}")
    shown = [shorten(parts[0], max(1, width - more))]
    for part in parts[1:]:
        if cell_len(", ".join([*shown, part])) + more <= width:
            shown.append(part)
    left = len(parts) - len(shown)
    return f"{', '.join(shown)} +{left}" if left else ", ".join(shown)


# Of the run that it was branched from


def branch_changes(parent: RunRecord, child: RunRecord) -> tuple[Difference, ...]:
    """Against the parent's last part, which a branch is made from; specs are stored with every default."""
    return _differences(settings_in(parent.spec_json), settings_in(child.spec_json))


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    before, after = extensions.aligned([dict(before), dict(after)])
    return tuple(
        Difference(key, before.get(key), after.get(key))
        for key in dict.fromkeys((*after, *before))
        if not key.startswith(_NOT_TOLD) and _written(before.get(key)) != _written(after.get(key))
    )


def change_told(change: Difference) -> str:
    """`guidance.scale 2.5→4`, and `prompt "a small…"` for texts, which do not fit twice."""
    name = short_name(change.key)
    if change.key.endswith("prompt"):
        return f"{name} {value_told(change.b, 2 * _ROOM_FOR_VALUE)}"
    before, after = (
        setting_told(change.key, each, _ROOM_FOR_VALUE) for each in (change.a, change.b)
    )
    return f"{name} {before}→{after}"


def setting_told(key: str, value: object, width: int = _MAX_VALUE) -> str:
    """The value of a setting as `value_told` has it; of what a run begins from the name of its file, of extensions
    their names and options."""
    if key == extensions.KEY and isinstance(value, list):
        return shorten(extensions.extensions_told(value), width)
    if key in given_files() and isinstance(value, str):
        return value_told(file_name(value), width)
    return value_told(value, width)


def value_told(value: object, width: int = _MAX_VALUE) -> str:
    """A value as TOML has it, names without quotes and numbers as short as they can be; cut to `width` cells."""
    match value:
        case None:
            text = "–"
        case tuple():
            text = scale_told(value)
        case float():
            text = repr(value).removesuffix(".0")
        case str() if value and not any(map(str.isspace, value)):
            is_path = len(value) > width and "://" not in value
            text = value.rpartition("/")[2] or value if is_path else value
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return shorten(printable(text), width)
