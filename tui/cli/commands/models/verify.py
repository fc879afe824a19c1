"""`modiff models verify`: every byte of the weights read again, and compared with what is known of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tui.cli.options import json_option
from tui.cli.output import print_json
from tui.cli.overwritten import show
from tui.errors import FAILED
from tui.text import printable

if TYPE_CHECKING:
    from engine.checkpoints.library import Found
    from engine.checkpoints.verify import Verdict
    from store.index.index import Index

PROGRESS_BYTES = 256 << 20  # between two updates of the line


@click.command()
@click.argument("names", metavar="[NAME|PATH]...", nargs=-1)
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Read weights whole and compare them with what is known.

    All models in all places, or those of a NAME such as wan2.1-t2v-14b, or at a PATH. Each file is ok, new,
    CHANGED since it was last read, or DAMAGED: also when shards or tensors are missing, or numbers are NaN or
    infinite. Exit code 1 then.
    """
    from store.index.index import open_index
    from store.paths import prepare, store_root

    found = _wanted(names)
    root = store_root()
    prepare(root)
    told: list[dict[str, str]] = []
    with open_index(root) as index:
        seen: set[str] = set()
        for each in found:
            for verdict in _verdicts(index, each, seen):
                told.append(asdict(verdict) | {"path": str(verdict.path)})
                if not as_json:
                    note = f": {verdict.note}" if verdict.note else ""
                    click.echo(
                        f"{verdict.status:<7}  {printable(str(verdict.path))}{printable(note)}"
                    )
    if as_json:
        print_json({"files": told})
    elif not told:
        click.echo(
            "nothing to verify; `modiff models where` says where models are looked for", err=True
        )
    if any(each["status"] not in ("ok", "new") for each in told):
        ctx.exit(FAILED)


def _wanted(names: tuple[str, ...]) -> list[Found]:
    """What the names mean; raises for a name that means nothing, and for a model that is not here."""
    from engine.checkpoints.known import catalogue
    from engine.checkpoints.library import absence, is_about, look, scan_places, wanted
    from engine.checkpoints.source import sources_in
    from engine.errors import CheckpointError

    among = [] if names and all(os.path.lexists(name) for name in names) else scan_places()
    if not names:
        return [
            each
            for each in among
            if each.recognition is None or each.recognition.component != "unknown"
        ]
    found: list[Found] = []
    for name in names:
        if models := [model for model in catalogue.MODELS if model.name == name]:
            of_name = [each for each in among if any(is_about(model, each) for model in models)]
            if not of_name:
                raise CheckpointError(absence(models[0].kind, name, among))
            found += of_name
        elif os.path.lexists(name):
            path = Path(name)
            paths = sources_in(path) if os.path.isdir(path) else [path]
            found += [look(path) for path in paths]
        else:
            wanted("", name)
    return found


def _verdicts(index: Index, found: Found, seen: set[str]) -> list[Verdict]:
    """One for each file that was not seen yet, and one more for what is wrong with them together."""
    from engine.checkpoints.known.recognise import describe
    from engine.checkpoints.library import whole
    from engine.checkpoints.verify import DAMAGED, Verdict, verify_file, verify_numbers
    from engine.errors import CheckpointError

    found = whole(found)
    if found.recognition is None:
        # of a shard that is broken, its name in the same folder
        reason = found.error.removeprefix(f"{found.path}: ").removeprefix(f"{found.path.parent}/")
        return [Verdict(found.path, DAMAGED, "", reason)]
    verdicts = []
    has_news = False
    for file in found.files:
        real = os.path.realpath(file)
        if real in seen:
            continue
        seen.add(real)
        has_news = True
        try:
            verdicts.append(verify_file(index, file, on_progress=_progress_of(file)))
        except CheckpointError as error:
            verdicts.append(Verdict(file, DAMAGED, "", str(error).removeprefix(f"{file}: ")))
        finally:
            show("")
    told = found.recognition
    if told.missing or told.misshapen:
        verdicts.append(
            Verdict(found.path, DAMAGED, "", describe(told.missing, (), told.misshapen))
        )
    elif has_news and told.supported and told.component != "tokenizer":
        show(f"      {printable(found.path.name)}: numbers")
        try:
            bad = verify_numbers(found.path)
        except CheckpointError as error:
            bad = Verdict(found.path, DAMAGED, "", str(error).removeprefix(f"{found.path}: "))
        finally:
            show("")
        verdicts += [bad] if bad else []
    return verdicts


def _progress_of(file: Path) -> Callable[[int, int], None]:
    shown = 0

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if done - shown >= PROGRESS_BYTES:
            shown = done
            show(f"{100 * done // max(1, total):3} %  {printable(file.name)}")

    return tell
