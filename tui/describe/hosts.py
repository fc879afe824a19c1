"""Hosts as text: the rows of a table, and the objects of `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from tui.text import columns, printable
from tui.units import duration

if TYPE_CHECKING:
    from engine.remote.asking import Asked
    from engine.remote.hosts import KnownHost


def rows(asked: Sequence[Asked]) -> list[list[str]]:
    """Name, address, how long its answer took, how busy it is, what it serves; of one that is of no use, why."""
    return [
        [
            printable(each.host.name),
            printable(each.host.url),
            "" if each.seconds is None else f"{each.seconds * 1000:.0f} ms",
            load_words(each),
            printable(_why(each) or ", ".join(each.kinds).replace("_", "-") or "serves nothing"),
        ]
        for each in asked
    ]


def _why(asked: Asked) -> str:
    """What is wrong with it, without the address, which stands beside it."""
    return asked.error.removeprefix(f"{asked.host.url} ")


def load_words(asked: Asked) -> str:
    """`idle`, `busy`, `busy, 2 wait`; nothing where it did not tell."""
    if not asked.load:
        return ""
    is_busy = any(each.busy for each in asked.load.values())
    num_behind = asked.num_waiting - sum(each.busy for each in asked.load.values())
    word = "busy" if is_busy else "idle"
    return f"{word}, {num_behind} wait" if num_behind > 0 else word


def about(asked: Asked) -> list[str]:
    """All about a host."""
    host = asked.host
    told = [
        ("address", host.url),
        ("answers", f"in {asked.seconds * 1000:.0f} ms" if asked.seconds is not None else "not"),
        ("why", asked.error),
        ("token", f"in the file {host.token_file}" if host.token_file else ""),
        ("token", f"in ${host.token_env}" if host.token_env else ""),
        ("certificates", host.ca_file),
    ]
    for kind in asked.kinds:
        load = asked.load.get(kind)
        words = f"{load.answered} answered in {duration(load.seconds)}" if load else "served"
        told.append((kind.replace("_", " "), words))
    lines = columns([(name, printable(value)) for name, value in told if value])
    use = asked.kinds[0] if asked.kinds else "text_encoder"
    return [
        *lines,
        "",
        "In a run:",
        f"  components.{use}.name = remote",
        f"  components.{use}.url = {printable(host.name)}",
    ]


def check_lines(told: Mapping[str, Any]) -> list[str]:
    """How many checks passed, and each; told: what `modiff serve --check --json` tells."""
    checks = told["checks"]
    num_wrong = sum(bool(each["wrong"]) for each in checks)
    lines = [
        f"wrong  {each['name']}: {each['wrong']}" if each["wrong"] else f"ok     {each['name']}"
        for each in checks
    ]
    passed = f"{len(checks) - num_wrong} of {len(checks)} checks passed"
    return [passed, *map(printable, lines)]


def as_json(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return [
        {
            **known_as_json(each.host),
            "answers": each.seconds is not None,
            "kinds": list(each.kinds),
            "seconds": each.seconds,
            "load": {
                kind: {"busy": load.busy, "waiting": load.waiting, "answered": load.answered}
                for kind, load in each.load.items()
            },
            "error": each.error,
        }
        for each in asked
    ]


def known_as_json(host: KnownHost) -> dict[str, Any]:
    return asdict(host)
