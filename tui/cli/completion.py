"""What the shell offers: presets and hosts from the config folder, presets of the library, ids of runs from the store.

Completion must never make a store, start an engine or print an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    import click

MAX_RUNS = 100


def complete_preset(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Presets whose names begin so, with their descriptions; files when a path is being typed."""
    from presets.errors import PresetError
    from presets.library.listing import list_presets

    if "/" in incomplete or incomplete.startswith((".", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        infos = list_presets()
    except PresetError:
        return []
    return [
        CompletionItem(info.name, help=info.description)
        for info in infos
        if info.name.startswith(incomplete) and not info.error
    ]


def complete_file(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files, which the shell knows best."""
    return [CompletionItem(incomplete, type="file")]


def complete_setting(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The keys of a run's settings that begin so, with a = for the value; after it what that can be."""
    from msgspec import inspect

    from presets.fields.listing import fields, item_fields
    from presets.spec.run import RunSpec

    key, equals, value = incomplete.partition("=")
    items = [replace(field, key=field.key.replace("[N]", "[0]")) for field in item_fields(RunSpec)]
    found = [field for field in (*fields(RunSpec), *items) if field.key.startswith(key)]
    if not equals:
        return [CompletionItem(f"{field.key}=", help=field.description) for field in found]
    types = [field.type for field in found if field.key == key]
    words = [
        str(word) for each in types if isinstance(each, inspect.LiteralType) for word in each.values
    ]
    words += [
        word for each in types if isinstance(each, inspect.BoolType) for word in ("true", "false")
    ]
    return [CompletionItem(f"{key}={word}") for word in words if word.startswith(value)]


def complete_run(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The newest of all runs whose ids begin so; files when a path is being typed."""
    from store.errors import StoreError
    from store.paths import store_root
    from store.store import open_as_it_is

    if "/" in incomplete or incomplete.startswith((".", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        if not (store_root() / "lineage.db").exists():
            return []
        with open_as_it_is() as store:
            records = store.runs_like(incomplete, limit=MAX_RUNS)
    except StoreError:
        return []
    return [
        CompletionItem(record.id, help=f"{record.status}, {record.preset}") for record in records
    ]


def complete_host(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Known hosts whose names begin so, with their addresses."""
    from engine.errors import ComponentError
    from engine.remote.hosts import known_hosts

    try:
        hosts = known_hosts()
    except ComponentError:
        return []
    return [
        CompletionItem(host.name, help=host.url)
        for host in hosts
        if host.name.startswith(incomplete)
    ]
